"""Run notebooks from top to bottom, and keep their outputs in them.

    python experiments/notebooks/execute.py [NAME ...] [--short]

As in Jupyter, a cell shows what it prints, the value of its last line, and the figures
that it leaves open. Standard error is not kept: progress and times differ each time.
The cell that installs is left out. Notebooks run in a folder of their own that goes at
the end. --short has them train for some steps alone, and keeps nothing.
"""

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import pprint
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime.cli import Parser


FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# Of figures, and the colours of a PNG: photographs take a third of the bytes so.
DOTS_PER_INCH, COLOURS = 90, 256

Cell = dict[str, Any]


def sources(cells: Sequence[Cell]) -> str:
    """A checksum of the cells' texts: outputs are of the cells as they stand."""
    texts = ["".join(cell["source"]) for cell in cells]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def run(cells: Sequence[Cell], short: bool) -> None:
    """Run the code cells and put their outputs into them."""
    matplotlib.use("agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in cells:
        tags = cell["metadata"].get("tags", ())
        if cell["cell_type"] != "code" or "install" in tags:
            continue
        number += 1
        cell["outputs"] = outputs_of("".join(cell["source"]), namespace, number)
        cell["execution_count"] = number
        if short and "parameters" in tags:
            namespace["SHORT"] = True


def outputs_of(source: str, namespace: dict[str, Any], number: int) -> list[Cell]:
    """Run a cell; what it shows, as a notebook keeps it."""
    from matplotlib import pyplot as plt

    tree = ast.parse(source)
    last, value = tree.body[-1], None
    shown = isinstance(last, ast.Expr) and not source.rstrip().endswith(";")
    body = ast.Module(tree.body[:-1] if shown else tree.body, [])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, f"cell {number}", "exec"), namespace)
        if shown and isinstance(last, ast.Expr):
            expression = ast.Expression(last.value)
            value = eval(compile(expression, f"cell {number}", "eval"), namespace)
    outputs: list[Cell] = []
    if text := printed.getvalue():
        lines = text.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        about = {"execution_count": number, "metadata": {}}
        outputs.append(
            {"data": shown_as(value), "output_type": "execute_result", **about}
        )
    for figure in map(plt.figure, plt.get_fignums()):
        outputs.append(
            {
                "data": shown_as(figure),
                "metadata": {},
                "output_type": "display_data",
            }
        )
    plt.close("all")
    return outputs


def shown_as(value: object) -> dict[str, Any]:
    """A value by the types of media that a notebook keeps."""
    if isinstance(value, Figure):
        content = io.BytesIO()
        # White, since text is dark: a page may be either.
        value.savefig(
            content, dpi=DOTS_PER_INCH, bbox_inches="tight", facecolor="white"
        )
        content.seek(0)
        value = Image.open(content).convert("RGB")
    if isinstance(value, Image.Image):
        content = io.BytesIO()
        few = value.quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(content, "PNG", optimize=True)
        image = base64.b64encode(content.getvalue()).decode()
        text = f"<Image of {value.width} x {value.height} pixels>"
        return {"image/png": image, "text/plain": [text]}
    text = pprint.pformat(value, width=88, sort_dicts=False)
    return {"text/plain": text.splitlines(keepends=True)}


def execute(name: str, short: bool) -> None:
    """Run a notebook; unless it is the short form, keep its outputs."""
    path = FOLDER / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run(notebook["cells"], short)
        finally:
            os.chdir(before)
    if not short:
        notebook["metadata"]["outputs_of"] = sources(notebook["cells"])
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        atomic.replace(path, text + "\n")


def main() -> None:
    assert __doc__ is not None and experiment.ROOT
    parser = Parser(description=__doc__, prog="python experiments/notebooks/execute.py")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--short", action="store_true", help="keeps nothing")
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*NAMES}):
        parser.error(f"no notebook {unknown[0]}; choose from {', '.join(NAMES)}")
    for name in given.names or NAMES:
        progress.say(name)
        execute(name, given.short)
    progress.print_result({"notebooks": given.names or NAMES})


if __name__ == "__main__":
    cli.run_command(main)
