"""Objects by name at an address of a cloud, or in a folder: what a mirror is kept in.

An object is written by one call and read by one. Nothing else is asked of a store: no
renaming, no locks, and a call that fails may have done its work or not.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from alexnet_jax.runtime import optional, progress
from alexnet_jax.runtime.errors import InputError, first_line


# The package that opens each kind of address.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "file": "fsspec", "memory": "fsspec"}
# How to give credentials, where an address needs any.
LOG_IN = {
    "gs": "run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
# The pause while a run waits for its end.
PAUSE_AT_END = 1.0
# A call that fails once is no news.
FAILURES_SAID = 2
# What the packages raise without credentials, or with those of somebody else.
_REFUSED = re.compile(
    r"credential|anonymous caller|forbidden|access ?denied|unauthori[sz]ed|\b40[13]\b",
    re.IGNORECASE,
)


Result = TypeVar("Result")


class Store:
    """The objects below an address.

    Every call is made again until it succeeds, with pauses that grow; a warning is said
    where the address can't be reached, and a line when it is back.

    Attributes:
      address: as it was given.
      patience: for how many seconds a call is made again, before its error is raised.
      hurry: set where the pauses are to be short, at a run's end.
      repeated: how many calls had to be made again.
      error: of the last call, None where it succeeded.

    Args:
      address: as `gs://bucket/folder`.
      name: of the flag that gave it, for messages.

    Raises:
      InputError: if the scheme is unknown, or its package is not installed.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address, self._flag = address.rstrip("/"), f"{name}={address}"
        self.patience, self.hurry = math.inf, threading.Event()
        self.repeated = 0
        self.error: Exception | None = None
        self._scheme, found, path = address.partition("://")
        if not found or self._scheme not in SCHEMES or not path.strip("/"):
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise InputError(
                f"{self._flag} must be an address as gs://bucket/folder; {known} are "
                "known"
            )
        optional.require(SCHEMES[self._scheme], f"{name}={self._scheme}://")
        # It logs a page about what it raises as well.
        logging.getLogger(SCHEMES[self._scheme]).setLevel(logging.CRITICAL + 1)
        fsspec = optional.require("fsspec", name)
        # Folders of files are made as they are needed.
        options = {"auto_mkdir": True} if self._scheme == "file" else {}
        self._files: Any = fsspec.filesystem(self._scheme, **options)
        self._root: str = self._files._strip_protocol(self.address)

    def names(self, folder: str) -> dict[str, int]:
        """The objects in a folder, each with its bytes."""

        def find() -> dict[str, int]:
            # What the package has noted is not what is there now.
            self._files.invalidate_cache()
            try:
                found = self._files.find(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
            return {path.rpartition("/")[2]: e["size"] for path, e in found.items()}

        return self._until_done(find)

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none of the name."""

        def read() -> bytes | None:
            try:
                return self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None

        return self._until_done(read)

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it."""
        self._until_done(lambda: self._files.pipe_file(f"{self._root}/{name}", data))

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def delete() -> None:
            try:
                self._files.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

        self._until_done(delete)

    def _until_done(self, action: Callable[[], Result]) -> Result:
        begin, pause, failures = time.monotonic(), FIRST_PAUSE, 0
        while True:
            try:
                result = action()
            except Exception as error:
                # Each package raises its own kinds.
                self.error, failures = error, failures + 1
                finite = self.patience < math.inf
                if finite and (refused := self._refusal(error)) is not None:
                    raise refused from error
                if time.monotonic() - begin + pause > self.patience:
                    raise
                if failures == FAILURES_SAID:
                    progress.say(
                        f"warning: {self.address} can't be reached "
                        f"({first_line(error)[:160]}); it is tried again"
                    )
                self.repeated += 1
                time.sleep(min(pause, PAUSE_AT_END) if self.hurry.is_set() else pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self.error = None
            if failures >= FAILURES_SAID:
                progress.say(f"{self.address} is back")
            return result

    def _refusal(self, error: Exception) -> InputError | None:
        """What to say where an error is that of missing credentials."""
        said = f"{type(error).__name__} {error}"
        refused = isinstance(error, PermissionError) or _REFUSED.search(said)
        if self._scheme not in LOG_IN or not refused:
            return None
        return InputError(
            f"{self._flag} can't be read and written ({first_line(error)[:160]}); "
            f"{LOG_IN[self._scheme]}"
        )
