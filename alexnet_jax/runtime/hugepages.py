"""Large arrays on huge pages, which glibc's malloc takes only when told at its start.

XLA takes the memory of a training step from malloc and gives it back after the step;
the kernel hands it out anew, page by page, and clears each. In pages of 2 MiB instead
of 4 KiB that costs next to nothing (`experiments/benchmarks/train_step` measures it).
Linux grants those on request, and glibc requests them where its tunable `hugetlb` is 1.
"""

import os
import sys
from pathlib import Path


TUNABLES, REQUEST = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use() -> None:
    """Start this process anew with the request, where that changes anything.

    It does nothing where the kernel does not wait to be asked, or where the variable
    has been set: whoever sets it means it. To be called first of all, by a program and
    never by a library.
    """
    if waits_to_be_asked() and TUNABLES not in os.environ:
        environment = {**os.environ, TUNABLES: REQUEST}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def waits_to_be_asked() -> bool:
    """Whether the kernel gives huge pages to those who ask, and only to them."""
    try:
        return "[madvise]" in POLICY.read_text()
    except OSError:
        return False
