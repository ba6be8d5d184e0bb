"""Import weights of other libraries into a work directory, and export a run's weights.

    python -m alexnet_jax.weights import --preset=caffe --workdir=DIR \\
        --input=bvlc_alexnet.caffemodel --classes=PREPARED
    python -m alexnet_jax.weights import --preset=owt --workdir=DIR \\
        --input=alexnet-owt-7be5be79.pth --classes=names.txt
    python -m alexnet_jax.weights export --workdir=DIR --output=alexnet.onnx

Imported weights work like any run: evaluate, predict, extract features, or continue
training. Presets: `caffe` (BVLC AlexNet), `caffenet` (Caffe's reference network), `owt`
(torchvision's AlexNet). Import reads .caffemodel, .onnx, .pth and .safetensors; export
writes .onnx and .safetensors. ONNX and safetensors need the extra `weights`.

A network's own pixels are built into its first layer and its mean image: BGR becomes
RGB, and torchvision's division by deviations goes into the kernels. Caffe squeezes
whole images to 256x256, where `prepare` and `predict` cut out the centre.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import load_config
from alexnet_jax.interop.export import to_onnx, to_safetensors
from alexnet_jax.interop.importing import ORIGINS, import_weights, read_class_names
from alexnet_jax.runs.config import plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = _parse(arguments)
    if given.action == "import":
        names = None if given.classes is None else read_class_names(given.classes)
        count = import_weights(
            given.input,
            given.workdir,
            plain(load_config("imagenet", given.preset)),
            ORIGINS[given.preset],
            class_names=names,
            mean=given.mean,
        )
        progress.print_result({"workdir": str(given.workdir), "parameters": count})
        return
    writers = {".onnx": to_onnx, ".safetensors": to_safetensors}
    if given.output.suffix not in writers:
        raise InputError(f"--output={given.output} must end in .onnx or .safetensors")
    writers[given.output.suffix](given.workdir, given.checkpoint, given.output)
    progress.print_result({"output": str(given.output)})


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = Parser("weights", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    into = actions.add_parser("import", help="a file of weights into a work directory")
    into.add_argument("--preset", required=True, choices=tuple(ORIGINS))
    into.add_argument("--input", type=Path, required=True, metavar="FILE")
    into.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    into.add_argument(
        "--classes",
        type=Path,
        metavar="PREPARED|FILE",
        help="names of the classes: a prepared data set, or a text file, one on a line",
    )
    into.add_argument(
        "--mean", type=Path, metavar="FILE.npy", help="Caffe's mean image"
    )
    out = actions.add_parser("export", help="a run's weights into a file")
    out.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    out.add_checkpoint()
    out.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".onnx, .safetensors"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
