"""`python -m alexnet_jax` lists the commands."""

import sys

from alexnet_jax.runtime.cli import run_command
from alexnet_jax.runtime.errors import InputError


COMMANDS = {
    "alexnet_jax.main": "train, or resume a run",
    "alexnet_jax.evaluate": "measure the errors of a run, or of several as an ensemble",
    "alexnet_jax.predict": "classify images",
    "alexnet_jax.features": "store the features of many images, from any layer",
    "alexnet_jax.figures": "draw the report of a run, or compare several",
    "alexnet_jax.weights": "import weights of Caffe, ONNX and PyTorch, or export ours",
    "alexnet_jax.prepare": "turn images into a data set that trains fast",
    "alexnet_jax.verify": "check a prepared data set",
}


def main() -> None:
    """The command."""
    stray = [argument for argument in sys.argv[1:] if argument not in ("-h", "--help")]
    if stray:
        raise InputError(
            f"stray argument {stray[0]}; `python -m alexnet_jax` lists the commands"
        )
    print("AlexNet in JAX and Flax. Commands, each with --help:\n")
    for name, purpose in COMMANDS.items():
        print(f"  python -m {name:<22} {purpose}")


if __name__ == "__main__":
    run_command(main)
