"""Watches processes and folders from outside."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


SECONDS = 240


def wait_for(
    condition: Callable[[], object], *processes: subprocess.Popen[Any]
) -> None:
    """Return when the condition holds; none of the processes may end before. They are
    killed where it does not come to hold."""
    deadline = time.monotonic() + SECONDS
    try:
        while not condition():
            for process in processes:
                assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    except BaseException:
        for process in processes:
            process.kill()
        raise


def contents(folder: Path) -> dict[str, bytes]:
    """Every file at any depth of a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
