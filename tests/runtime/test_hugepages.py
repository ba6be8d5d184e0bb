"""Huge pages are requested where the kernel gives them on request, and only once."""

import os
import subprocess
import sys

import pytest


PROGRAM = """
import os, pathlib, sys
from alexnet_jax.runtime import hugepages
hugepages.POLICY = pathlib.Path(sys.argv[1])
hugepages.use()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("always [madvise] never", None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.check=0", "glibc.malloc.check=0"),
        ("[always] madvise never", None, "None"),
        ("always madvise [never]", None, "None"),
        (None, None, "None"),
    ],
)
def test_a_process_restarts_where_that_changes_something(
    tmp_path, policy, before, after
):
    file = tmp_path / "enabled"
    if policy:
        file.write_text(policy + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if before:
        environment["GLIBC_TUNABLES"] = before
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), "--an=argument", "two words"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{after} ['--an=argument', 'two words']\n"


def test_a_system_that_forbids_the_restart_runs_the_program_as_it_is(tmp_path):
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    forbid = (
        "import os\n"
        "def execve(*arguments): raise PermissionError(13, 'Permission denied')\n"
        "os.execve = execve\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", forbid + PROGRAM, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None []\n"
