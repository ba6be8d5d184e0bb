"""`alexnet COMMAND`, or `python -m alexnet_jax COMMAND`; without one, their list."""

import importlib
import shutil
import sys
import textwrap

from alexnet_jax.runtime import cli, cpp_log, hugepages, progress
from alexnet_jax.runtime.errors import InputError


# By name: the module and what it does. `train` and `main` are the same.
COMMANDS = {
    "train": ("main", "train, or resume a run"),
    "evaluate": ("evaluate", "measure the errors of a run, or of an ensemble"),
    "predict": ("predict", "classify images"),
    "features": ("features", "store features of images, from any layer"),
    "explain": ("explain", "show why a network gives an image a class"),
    "compare": ("compare", "compare layers: dissimilarities of images, and CKA"),
    "figures": ("figures", "draw the report of a run, or compare several"),
    "weights": ("weights", "import weights from files, or export them"),
    "prepare": ("prepare", "turn images into a data set that trains fast"),
    "compile": ("compile", "compile for a GPU or TPU not there: does it fit?"),
    "verify": ("verify", "check a prepared data set, or how a device computes"),
}
# Those that train or evaluate on a CPU are faster with huge pages.
WITH_HUGE_PAGES = ("main", "evaluate", "features")


def command() -> None:
    """What `alexnet` runs."""
    cli.run_command(main)


def main() -> None:
    """Run the command that the first argument names, or list them all."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        progress.show(listing(shutil.get_terminal_size().columns))
        return
    if name not in (*COMMANDS, "main"):
        raise InputError(f"no command {name!r}; choose from {', '.join(COMMANDS)}")
    module = COMMANDS["train" if name == "main" else name][0]
    if module in WITH_HUGE_PAGES:
        # Before the imports that take long, since it restarts the process.
        hugepages.use()
    cpp_log.silence()
    del sys.argv[1]
    importlib.import_module(f"alexnet_jax.{module}").main()


def listing(width: int) -> str:
    """A line for each command, or two where the terminal is narrower than them."""
    lines = []
    for name, (module, purpose) in COMMANDS.items():
        start = f"  {name:<9} alexnet_jax.{module:<9}"
        line = f"{start} {purpose}"
        if len(line) > width:
            below = textwrap.indent(cli.filled(purpose, max(1, width - 4)), "    ")
            line = f"{start.rstrip()}\n{below}"
        lines.append(line)
    about = "AlexNet in JAX and Flax. Commands, each with --help: `alexnet NAME`, or "
    return "\n".join(
        [
            cli.filled(f"{about}`python -m MODULE`.", width),
            "",
            "  NAME      MODULE",
            *lines,
        ]
    )


if __name__ == "__main__":
    command()
