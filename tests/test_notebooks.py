"""Every notebook runs from top to bottom, at small size."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import users


NOTEBOOKS = Path(__file__).parents[1] / "experiments" / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def cells(name, kind="code"):
    made = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in made if cell["cell_type"] == kind]


def code(name):
    """The cells as one program; what a cell ends with is made text, as on a page."""
    parts = ["import matplotlib", "matplotlib.use('agg')"]
    for cell in cells(name):
        if "install" in cell["metadata"].get("tags", ()):
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.Expr(
                ast.Call(ast.Name("repr", ast.Load()), [last.value], [])
            )
        parts.append(ast.unparse(ast.fix_missing_locations(tree)))
    return "\n".join(parts)


def test_there_are_notebooks():
    assert NAMES == ["first_tour", "paper_figures", "random_labels"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_installs_before_it_imports_and_keeps_no_outputs(name):
    first, *others = cells(name)
    assert first["metadata"]["tags"] == ["install"]
    assert "jax" not in [
        line.split()[1]
        for line in "".join(first["source"]).splitlines()
        if line.startswith("import ")
    ]
    for cell in (first, *others):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert "colab" in "".join(cells(name, "markdown")[0]["source"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("first_tour", marks=pytest.mark.extended),
        pytest.param("paper_figures", marks=pytest.mark.extended),
        pytest.param("random_labels", marks=pytest.mark.extended),
    ],
)
def test_a_notebook_runs(name, tmp_path):
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, "-c", code(name)],
        cwd=tmp_path,
        env=users.environment(NOTEBOOK_SHORT="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
