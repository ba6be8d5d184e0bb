"""The package's commands, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
# What makes a run of the quickstart a matter of seconds, to show that something works.
QUICK = (
    "--config.train.steps=2",
    "--config.train.batch_size=8",
    "--config.model.hidden=(16,16)",
)


def command(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m alexnet_jax.MODULE` and give its result.

    Raises:
      CalledProcessError: if it fails; what it said is on standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
