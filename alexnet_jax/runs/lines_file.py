"""A file that grows by lines, also on a drive that goes away and comes back."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import cannot_write, writing
from alexnet_jax.runtime.errors import Failure
from alexnet_jax.runtime.patience import until_reachable


# Lines are written when so many bytes have gathered, and at a `flush`.
BYTES_AT_ONCE = 8192


class LinesFile:
    """Lines at the end of a file, also over a drive that goes away and comes back.

    What is not on the disk for certain is kept. The file is opened by its path each
    time, since of a drive that was away an open file is gone, and a removed one could
    be written to without any error. Lines may be added while another thread waits for
    the disk.

    Args:
      path: the file; it is made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("ab") as file:
            # So much is there for certain.
            self._length = file.tell()
        self._rest = bytearray()
        self._unwritten = 0
        # Held while any of these change, and not while the disk is waited for.
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Add a line, which is in the file some lines later."""
        data = line.encode() + b"\n"
        with self._lock:
            self._rest += data
            self._unwritten += len(data)
        if self._unwritten > BYTES_AT_ONCE:
            self.write()

    def write(self) -> None:
        """Give the system every line, without waiting for the disk.

        Raises:
          Failure: if the disk is full or away for long, or the file has gone.
        """
        until_reachable(self._path, lambda: self._append(sync=False))

    def flush(self) -> None:
        """Return when every line is on the disk.

        Raises:
          Failure: if the disk is full or away for long, or the file has gone.
        """
        until_reachable(self._path, lambda: self._append(sync=True))

    def close(self) -> None:
        """Write what is left, if the disk takes it; else that was reported already."""
        with suppress(OSError, Failure):
            self._append(sync=False)

    def _append(self, *, sync: bool) -> None:
        with writing(self._path), self._path.open("r+b") as file:
            with self._lock:
                there = file.seek(0, os.SEEK_END) - self._length
                if there < 0:
                    raise Failure(cannot_write(self._path, "another file lies there"))
                # What a drive that was away has lost, or what was never written.
                there = min(there, len(self._rest))
                file.seek(self._length + there)
                file.truncate()
                file.write(self._rest[there:])
                file.flush()
                self._unwritten = 0
                length = self._length + len(self._rest)
            if sync:
                atomic.sync_open(file.fileno())
                with self._lock:
                    # Another thread may have come as far meanwhile.
                    del self._rest[: max(0, length - self._length)]
                    self._length = max(length, self._length)
