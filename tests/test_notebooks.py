"""Every notebook runs from top to bottom, and keeps the outputs of its cells."""

import base64
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import users


NOTEBOOKS = Path(__file__).parents[1] / "experiments" / "notebooks"
EXECUTE = NOTEBOOKS / "execute.py"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
# What a machine and a clock leave in text.
TRACES = ("/home", "/root", "/tmp", "/var", "/Users", "images/s", "Traceback")
# A notebook that has used JAX: its devices are open, and one of them is there.
AFTER_JAX = """
import runpy, sys
import jax
assert len(jax.numpy.ones(3).devices()) == 1 == jax.device_count()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def notebook(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def cells(name, kind="code"):
    return [cell for cell in notebook(name)["cells"] if cell["cell_type"] == kind]


@pytest.fixture
def execute(monkeypatch):
    """The functions of the script that runs notebooks."""
    pytest.importorskip("matplotlib")
    # Which it changes.
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(EXECUTE))


def test_there_are_notebooks():
    expected = ["first_tour", "looking_inside", "paper_figures", "random_labels"]
    assert expected == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_installs_before_it_imports(name):
    first, second, *_ = cells(name)
    assert first["metadata"]["tags"] == ["install"]
    assert first["outputs"] == []
    assert "jax" not in [
        line.split()[1]
        for line in "".join(first["source"]).splitlines()
        if line.startswith("import ")
    ]
    assert "colab" in "".join(cells(name, "markdown")[0]["source"])
    assert second["metadata"]["tags"] == ["parameters"]
    assert "SHORT = False" in "".join(second["source"])
    for cell in cells(name):
        assert "environ" not in "".join(cell["source"]).replace(
            '"TPU_NAME" in os.environ', ""
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_keeps_the_outputs_of_its_cells(name, execute):
    """Of the cells as they stand, without what only this machine or this time had."""
    stored = notebook(name)
    assert stored["metadata"]["outputs_of"] == execute["sources"](stored["cells"]), (
        f"run `python experiments/notebooks/execute.py {name}`"
    )
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1.5e6
    _, *run = cells(name)
    assert [cell["execution_count"] for cell in run] == [*range(1, len(run) + 1)]
    images = 0
    for output in (output for cell in run for output in cell["outputs"]):
        assert output["output_type"] != "error"
        assert output.get("name", "stdout") == "stdout"
        text = "".join(output.get("text", output.get("data", {}).get("text/plain")))
        assert not [trace for trace in TRACES if trace in text], text
        if image := output.get("data", {}).get("image/png"):
            images += 1
            Image.open(io.BytesIO(base64.b64decode(image))).verify()
    assert images > 0


def test_a_cell_shows_what_it_would_in_jupyter(execute):
    def kinds(*sources):
        namespace = {}
        return [
            [
                (output["output_type"], *output.get("data", {}))
                for output in execute["outputs_of"](source, namespace, number)
            ]
            for number, source in enumerate(sources)
        ]

    assert kinds(
        "x = 2",
        "import sys\nprint(x)\nprint('progress', file=sys.stderr)\nx + 1",
        "x;",
        "from matplotlib import pyplot as plt\nplt.figure()\nplt.plot([x])\nNone",
        "from matplotlib.figure import Figure\nFigure()",
    ) == [
        [],
        [("stream",), ("execute_result", "text/plain")],
        [],
        [("display_data", "image/png", "text/plain")],
        [("execute_result", "image/png", "text/plain")],
    ]


@pytest.mark.extended
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_after_jax_was_used(name, tmp_path):
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, "-c", AFTER_JAX, str(EXECUTE), name, "--short"],
        cwd=tmp_path,
        env=users.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"notebooks": [name]}
