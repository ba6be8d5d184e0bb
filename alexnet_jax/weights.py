"""Import weights of other libraries into a work directory, and export a run's weights.

    python -m alexnet_jax.weights import --input=torchvision
    python -m alexnet_jax.predict --workdir=torchvision cat.jpg

    python -m alexnet_jax.weights import --preset=caffe --workdir=DIR \\
        --input=bvlc_alexnet.caffemodel --classes=PREPARED
    python -m alexnet_jax.weights import --preset=owt --workdir=DIR \\
        --input=alexnet-owt-7be5be79.pth --classes=names.txt
    python -m alexnet_jax.weights export --workdir=DIR --output=alexnet.onnx

Imported weights work like any run: evaluate, predict, extract features, or continue
training. Presets: `caffe` (BVLC AlexNet), `caffenet` (Caffe's reference network), `owt`
(torchvision's AlexNet). Import reads .caffemodel, .onnx, .safetensors, and what
`torch.save` wrote as .pth, .pth.tar, .pt, .bin or .ckpt; export writes .onnx and
.safetensors. ONNX, safetensors and weights by name need the extra `weights`.

Published weights are known by name, fetched once into the user's cache, checked by
their publisher's hash and imported there, where every command finds them by that name:

{names}

A network's own pixels are built into its first layer and its mean image: BGR becomes
RGB, and torchvision's division by deviations goes into the kernels. `predict`,
`features`, `explain` and `alexnet_jax.load` resize images as the weights' publisher
does: Caffe squeezes whole images to a square, torchvision rounds the long side down.
`prepare` cuts out the centre in this library's own way.

An exported ONNX model takes `pixels` and gives `logits`. Pixels are float32 of any
number of images x 3 x height x width (NCHW), RGB, from 0 to 255: not divided, and the
mean image is subtracted inside. The model's description and its metadata say this too,
with the names of the classes.
"""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from alexnet_jax import load_config
from alexnet_jax.data.decoding import RESIZES
from alexnet_jax.data.sources import imagenet_classes
from alexnet_jax.interop.class_names import read_class_names
from alexnet_jax.interop.export import OPSET, check_output, to_onnx, to_safetensors
from alexnet_jax.interop.fetching import fetch, recorded_sha256
from alexnet_jax.interop.importing import ORIGINS, import_weights
from alexnet_jax.interop.published import PUBLISHED, Published, error_in_words
from alexnet_jax.interop.weight_layout import Origin
from alexnet_jax.runs import pretrained
from alexnet_jax.runs.config import plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = _parse(arguments)
    if given.action == "import":
        _import(given)
        return
    ending, workdir = check_output(given.output), pretrained.found(given.workdir)
    if ending == ".onnx":
        to_onnx(workdir, given.checkpoint, given.output, opset=given.opset)
    elif given.opset != OPSET:
        raise InputError("--opset is for an --output of .onnx")
    else:
        to_safetensors(workdir, given.checkpoint, given.output)
    progress.print_result({"output": str(given.output)})


def _import(given: Namespace) -> None:
    item = None if given.input.is_file() else PUBLISHED.get(str(given.input))
    preset = given.preset or (item and item.preset)
    if preset is None:
        raise InputError(
            "--preset is missing: it says which network the file is of; choose from "
            f"{', '.join(ORIGINS)}"
        )
    if item is not None:
        if preset != item.preset:
            raise InputError(
                f"{given.input} are weights for --preset={item.preset}, not {preset}"
            )
        _import_published(given, str(given.input), item)
        return
    if given.workdir is None:
        raise InputError("--workdir is missing: the directory to import the file into")
    count = _import_file(given, given.input, given.workdir, preset, ORIGINS[preset])
    progress.print_result({"workdir": str(given.workdir), "parameters": count})


def _import_published(given: Namespace, name: str, item: Published) -> None:
    """Fetch published weights, and import them into the cache or into --workdir."""
    path = fetch(item, pretrained.cache() / "weights")
    progress.say(f"{name}: {error_in_words(item)}; {item.about}")
    result: dict[str, object] = {
        "name": name,
        "file": str(path),
        "sha256": recorded_sha256(path),
        "published_top1_error": item.top1_error,
    }
    origin = ORIGINS[item.preset]._replace(resize=item.resize)
    names = tuple(imagenet_classes.words().values()) if item.imagenet else None
    workdir = given.workdir or pretrained.workdir_of(name)
    result["workdir"] = str(workdir)
    place = pretrained.imported if given.workdir is None else nullcontext
    with place(workdir) as staging:
        if staging is not None:
            result["parameters"] = _import_file(
                given, path, staging, item.preset, origin, names
            )
        elif given.classes is not None or given.mean is not None:
            raise InputError(
                f"{name} is imported already, to {workdir}; for other --classes or "
                "another --mean give a --workdir"
            )
        else:
            progress.say(f"{name} is imported already")
    progress.print_result(result)


def _import_file(
    given: Namespace,
    path: Path,
    workdir: Path,
    preset: str,
    origin: Origin,
    names: tuple[str, ...] | None = None,
) -> int:
    """Import a file; returns the number of parameters."""
    count = import_weights(
        path,
        workdir,
        plain(load_config("imagenet", preset)),
        origin,
        class_names=names if given.classes is None else read_class_names(given.classes),
        mean=given.mean,
    )
    progress.say(f"images: {RESIZES[origin.resize]}")
    return count


def _names() -> str:
    """The published weights, a line each."""
    return "\n".join(
        f"    {name:12} --preset={item.preset}, {error_in_words(item)}"
        for name, item in PUBLISHED.items()
    )


def _parse(arguments: Sequence[str] | None) -> Namespace:
    assert __doc__ is not None
    parser = Parser("weights", description=__doc__.format(names=_names()))
    actions = parser.add_subparsers(dest="action", required=True)
    into = actions.add_parser("import", help="a file of weights into a work directory")
    into.add_argument(
        "--preset", choices=tuple(ORIGINS), help="default: that of the name"
    )
    into.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="FILE|NAME",
        help=f"a file, or published weights: {', '.join(PUBLISHED)}",
    )
    into.add_argument(
        "--workdir",
        type=Path,
        metavar="DIR",
        help="default for a name: in the cache, found by the name",
    )
    into.add_argument(
        "--classes",
        type=Path,
        metavar="PREPARED|FILE",
        help="names of the classes: a prepared data set, a text file with one on a "
        "line, or a JSON file of names by number",
    )
    into.add_argument(
        "--mean",
        metavar="FILE|N,N,N",
        help="mean image: a .binaryproto or .npy, or three numbers of 0 to 255; blue "
        "first for Caffe's networks (default: the mean of ImageNet's channels)",
    )
    out = actions.add_parser(
        "export",
        help="a run's weights into a file",
        description="A run's weights into a file. An ONNX model takes float32 images x "
        "3 x height x\nwidth (NCHW), RGB, from 0 to 255; the mean image is subtracted "
        "inside.",
    )
    out.add_workdir()
    out.add_checkpoint()
    out.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".onnx, .safetensors"
    )
    out.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        metavar="N",
        help=f"version of ONNX's operators (default: {OPSET})",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
