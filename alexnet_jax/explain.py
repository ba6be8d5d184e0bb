"""Show why a network gives an image a class.

    python -m alexnet_jax.explain --workdir=run cat.jpg
    python -m alexnet_jax.explain --workdir=run cat.jpg \\
        --class=dog --output=cat.npz

Draws one figure: the five best classes; the class's probability while a square covers a
part of the image (occlusion); the derivative of its logit by the pixels, plain,
averaged over noisy copies (SmoothGrad), and by guided backpropagation; Grad-CAM at the
last convolution; and the strongest activation maps of every convolution, tower by
tower. Needs the extra `figures`.

--output keeps all arrays, and every map, in one NPZ file.
"""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.runs import pretrained
from alexnet_jax.runtime import optional, paths, progress
from alexnet_jax.runtime.cli import Parser, run_command


# How figures may be stored, as Matplotlib knows them.
ENDINGS = (".png", ".svg", ".pdf")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("explain", description=__doc__)
    add = parser.add_argument
    parser.add_workdir()
    add("image", type=Path, metavar="IMAGE", help="a file")
    add(
        "--class",
        dest="chosen",
        metavar="NAME",
        help="the class to explain, or its number (default: the likeliest)",
    )
    add(
        "--figure",
        type=Path,
        metavar="FILE",
        help=f"{', '.join(ENDINGS)} (default: explain_IMAGE.png in DIR/figures)",
    )
    add("--output", type=Path, metavar="FILE.npz", help="write all arrays there")
    parser.add_checkpoint()
    add("--patch", type=int, metavar="N", help="side of the square that covers, pixels")
    add("--stride", type=int, metavar="N", help="how far the square moves, pixels")
    add("--samples", type=int, default=25, metavar="N", help="copies for SmoothGrad")
    add("--seed", type=int, default=0, metavar="N", help="of their noise (default: 0)")
    given = vars(parser.parse_args(arguments))
    figure, output = given.pop("figure"), given.pop("output")
    given["workdir"] = pretrained.found(given["workdir"])
    if figure is not None:
        paths.check_output(figure, ENDINGS, "--figure", new=False)
    if output is not None:
        paths.check_output(output, [".npz"])
    # Behind the checks: these imports take a second or more.
    optional.require("matplotlib", "explain")
    from alexnet_jax.analysis.array_file import write_arrays
    from alexnet_jax.analysis.explaining import explain
    from alexnet_jax.reporting import explanation_sheet

    path = explanation_sheet.place_of(given["workdir"], given["image"], figure)
    explained = explain(given.pop("workdir"), given.pop("image"), **given)
    explanation_sheet.write(explained, path)
    if output is not None:
        write_arrays(output, explained.arrays())
    label, names = explained.label, explained.class_names
    best = int(explained.probabilities.argmax())
    progress.print_result(
        {
            "class": names[label],
            "probability": float(explained.probabilities[label]),
            "best_class": names[best],
            "best_probability": float(explained.probabilities[best]),
            "figure": str(path),
            "output": None if output is None else str(output),
        }
    )


if __name__ == "__main__":
    run_command(main)
