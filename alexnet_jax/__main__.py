"""`alexnet COMMAND`, or `python -m alexnet_jax COMMAND`; without one, their list."""

import importlib
import sys

from alexnet_jax.runtime import cli, hugepages
from alexnet_jax.runtime.errors import InputError


# By name: the module and what it does. `train` and `main` are the same.
COMMANDS = {
    "train": ("main", "train, or resume a run"),
    "evaluate": ("evaluate", "measure the errors of a run, or of an ensemble"),
    "predict": ("predict", "classify images"),
    "features": ("features", "store the features of many images, from any layer"),
    "figures": ("figures", "draw the report of a run, or compare several"),
    "weights": ("weights", "import weights of Caffe, ONNX and PyTorch, or export ours"),
    "prepare": ("prepare", "turn images into a data set that trains fast"),
    "compile": ("compile", "compile for a GPU that is not there: does it fit?"),
    "verify": ("verify", "check a prepared data set, or how a device computes"),
}
# Those that train or evaluate on a CPU are faster with huge pages.
WITH_HUGE_PAGES = ("main", "evaluate")


def command() -> None:
    """What `alexnet` runs."""
    cli.run_command(main)


def main() -> None:
    """Run the command that the first argument names, or list them all."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(listing())
        return
    if name not in (*COMMANDS, "main"):
        raise InputError(f"no command {name!r}; choose from {', '.join(COMMANDS)}")
    module = COMMANDS["train" if name == "main" else name][0]
    if module in WITH_HUGE_PAGES:
        # Before the imports that take long, since it restarts the process.
        hugepages.use()
    del sys.argv[1]
    importlib.import_module(f"alexnet_jax.{module}").main()


def listing() -> str:
    """A line for each command."""
    lines = [
        f"  {name:<9} alexnet_jax.{module:<9} {purpose}"
        for name, (module, purpose) in COMMANDS.items()
    ]
    return "\n".join(
        [
            "AlexNet in JAX and Flax. Commands, each with --help:",
            "`alexnet NAME`, or `python -m MODULE`.",
            "",
            "  NAME      MODULE",
            *lines,
        ]
    )


if __name__ == "__main__":
    command()
