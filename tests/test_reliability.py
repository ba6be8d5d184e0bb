"""Short forms of the experiments on reliability, as their READMEs give them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).parents[1] / "experiments" / "reliability"

pytestmark = pytest.mark.slow


def result_of(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        # The script has compiled its own programs to keep.
        env={k: v for k, v in os.environ.items() if not k.startswith("JAX_COMP")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_in_every_phase():
    result = result_of("kill_resume.py", "--quick")
    assert result["kills"] == 7
    assert result["differences"] == []


def test_fuzzed_borders():
    pytest.importorskip("hypothesis")
    borders = result_of("fuzz.py", "--quick")["borders"]
    assert len(borders) == 7
    for name, row in borders.items():
        assert row["refused"] > 0, name
