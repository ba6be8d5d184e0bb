"""The package's commands, run as a user runs them."""

import contextlib
import importlib
import io
import json
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.nn.layers import Conv, Dense
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.runtime.errors import Failure, Interrupted

from experiment import ROOT


# Whether commands and scripts run in this process, to show in little time that they
# work: each imports JAX and compiles for seconds.
in_this_process = False


def quick(network: str) -> list[str]:
    """What makes a run of the quickstart a matter of seconds, to show that something
    works: two steps, and a narrow network. The network is a preset's."""
    rows = PRESETS.get(network, {}).get("layers", CODE2012)
    return [
        "--config.train.steps=2",
        "--config.train.batch_size=8",
        *(
            f"--config.model.layers.{key}={value}"
            for key, value in narrow(rows).items()
        ),
    ]


def narrow(rows: Mapping[str, Conv | Dense]) -> dict[str, int]:
    """The widths of the rows of a narrow network, by `LAYER.KEY`."""
    widths = {
        f"{name}.{'channels' if isinstance(row, Conv) else 'width'}": 16
        for name, row in rows.items()
    }
    # The last layer has a place for each class.
    del widths[f"{list(rows)[-1]}.width"]
    return widths


def command(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m alexnet_jax.MODULE` and give its result.

    If the command fails, this process exits with its status; the command has printed
    why. A signal to stop is passed on to the command, which saves first.

    Raises:
      Failure: if a signal ended it.
    """
    if in_this_process:
        output = printed_by("-m", f"alexnet_jax.{module}", *arguments)
        return json.loads(output.splitlines()[-1])
    program = [sys.executable, "-m", f"alexnet_jax.{module}", *arguments]
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            # The terminal has sent the signal to the command too.
            process.wait()
            raise
        except Interrupted:
            process.terminate()
            process.wait()
            raise
    if process.returncode < 0:
        raise Failure(f"`{' '.join(program)}` ended by signal {-process.returncode}")
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(output.splitlines()[-1])


def printed_by(*arguments: str) -> str:
    """What a Python program prints, run in this process: a script, `-c` and code, or
    `-m` and a module with a function `main`.

    Raises:
      Failure: if it exits with another status than 0; it has printed why.
    """
    name, *others = arguments
    before, output = sys.argv, io.StringIO()
    sys.argv = [name, *others] if name not in ("-c", "-m") else others
    try:
        with contextlib.redirect_stdout(output):
            if name == "-c":
                exec(others[0], {})
            elif name == "-m":
                importlib.import_module(others[0]).main()
            else:
                # Where Python looks for what stands beside a script.
                sys.path.insert(0, str(Path(name).parent))
                runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise Failure(f"{' '.join(arguments)[:200]} ended with {end.code}") from end
    finally:
        sys.argv = before
    return output.getvalue()
