"""Huge pages for large arrays, which make a training step on a CPU faster.

XLA takes the memory of a training step from malloc and frees it after the step. In the
next step the kernel maps it again, page by page, and clears each page. With pages of
2 MiB instead of 4 KiB that costs almost nothing (`experiments/benchmarks/train_step`
measures it). Linux gives huge pages on request, and glibc requests them where its
tunable `hugetlb` is 1. glibc reads its tunables only when a process starts.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path


TUNABLES, REQUEST = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use() -> None:
    """Restart this process with huge pages requested, where that changes anything.

    Nothing happens where the kernel gives huge pages to all or to none, or where the
    variable is set already: the user's value stays. Only a program may call this, never
    a library, and before its other imports, which would run twice.
    """
    if on_request() and TUNABLES not in os.environ and sys.executable:
        environment = {**os.environ, TUNABLES: REQUEST}
        arguments = [sys.executable, *sys.orig_argv[1:]]
        # Some systems forbid it; the program then continues as it is.
        with suppress(OSError):
            os.execve(sys.executable, arguments, environment)


def on_request() -> bool:
    """Whether the kernel gives huge pages to processes that ask, and only to them."""
    try:
        return "[madvise]" in POLICY.read_text()
    except OSError:
        # Not Linux, or a kernel without huge pages.
        return False
