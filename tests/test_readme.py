"""The commands and the Python of the READMEs, as they stand there, in their order.

Each command runs in a process of its own and in a user's environment; what is appended
to it makes it small.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import archives
import users
from networks import ROWS, TINY


# In one process, since all need what the quickstart makes.
pytestmark = pytest.mark.xdist_group("readme")

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# The lines that install; continuous integration runs them.
INSTALLS = re.compile(r"(python3 -m venv|source|pip install|\.venv/bin/)")

# What makes a command small, by its module or script.
TRAINING = ("--config.train.batch_size=4", "--config.train.steps=2")
SMALLER = {
    "alexnet_jax.main": [*ROWS, *TRAINING, "--config.eval.batch_size=8"],
    "experiments/imagenette/run.py": ["--quick"],
}


def blocks(language: str, path: Path = README) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def commands(text: str) -> list[str]:
    """The lines of a shell block that are not about installing."""
    return [line for line in text.splitlines() if not INSTALLS.match(line)]


def examples() -> list[str]:
    """The commands of the table of commands."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| `(--[^`]*|export [^`]*)` \|$", TEXT, re.M)
    return [f"python -m alexnet_jax.{name} {arguments}" for name, arguments in rows]


TEXT = README.read_text()


def run(command: str, folder: Path) -> str:
    """Run a line of a shell block, made small; returns its standard output."""
    words = shlex.split(command)
    program = words[2] if words[1] == "-m" else words[1]
    assert words[0] == "python", command
    done = subprocess.run(
        [sys.executable, *words[1:], *SMALLER.get(program, [])],
        cwd=folder,
        env=users.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def make_images(root: Path, photographs, splits=("train", "validation")) -> None:
    for split in splits:
        for label, photograph in enumerate(photographs):
            folder = root / split / ("cat", "dog")[label]
            folder.mkdir(parents=True)
            for number in range(6):
                row, column = 40 * number, 50 * number + (split != "train")
                piece = photograph[row : row + 180, column : column + 240]
                Image.fromarray(piece).save(folder / f"{number}.jpg")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory, photographs):
    """A folder with what a reader has: the checkout's folders, images, archives; and
    what the quickstart made in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "experiments"):
        (folder / name).symlink_to(ROOT / name)
    make_images(folder / "images", photographs)
    make_images(folder / "imagenette2", photographs, ("train", "val"))
    for name in ("cat.jpg", "new.jpg"):
        Image.fromarray(photographs[0]).save(folder / name)
    archives.write(folder / "archives", archives.encode)
    quickstart, tests, *_ = blocks("bash")
    assert commands(tests) == []
    *training, evaluation = commands(quickstart)
    for command in training:
        run(command, folder)
    result = json.loads(run(evaluation, folder).splitlines()[-1])
    shown = json.loads(re.findall(r"^\{.*\}$", TEXT, re.M)[0])
    assert result.keys() == shown.keys()
    assert result["checkpoints"] == ["run:2"]
    return folder


@pytest.mark.slow
def test_the_shell_blocks_in_their_order(checkout):
    for block in blocks("bash")[2:]:
        for command in commands(block):
            run(command, checkout)


@pytest.mark.extended
def test_the_table_of_commands(checkout, tmp_path):
    for name in ("run", "images", "cat.jpg"):
        (tmp_path / name).symlink_to(checkout / name)
    # What `compile` needs is in an environment of its own: `targets/` runs it.
    made = [command for command in examples() if ".compile " not in command]
    assert len(made) == 10 == len(examples()) - 1
    run("python -m alexnet_jax.main --config=quickstart --workdir=run2", tmp_path)
    # A data set must be prepared before it is verified: in the table's own order.
    for command in made:
        if not command.startswith("python -m alexnet_jax.main"):
            run(command, tmp_path)
    # The first row trains, which the quickstart has done.
    assert made[0].endswith("main --config=quickstart --workdir=run")


@pytest.mark.extended
def test_the_python_blocks_alone_and_in_one_process(checkout):
    """One process is a notebook's: JAX has opened its devices, and one of them."""
    paths = [README, *sorted((ROOT / "alexnet_jax").rglob("README.md"))]
    snippets = [block for path in paths for block in blocks("python", path)]
    assert len(snippets) >= 3
    short = "config.train.steps = 100"
    tiny = f"config.train.steps = 2\nconfig.model.layers.update({TINY!r})"
    assert sum(short in snippet for snippet in snippets) == 1
    snippets = [snippet.replace(short, tiny) for snippet in snippets]
    together = "\n".join(["import jax", "jax.devices()", *snippets])
    for program in (*snippets, together):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=checkout,
            env=users.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{program}\n{done.stderr[-3000:]}"
