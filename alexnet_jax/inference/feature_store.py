"""Outputs that features are written to, row by row, in any format.

Beside an unfinished output lies a note, `NAME.progress.json`: how many rows are on the
disk, and which work they belong to. It is renewed every few seconds and at the end, so
a process that was killed may have written rows that it does not count; they are written
again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_jax.inference.feature_file import Columns, Contents, FeatureFile
from alexnet_jax.inference.feature_hdf5 import Hdf5File
from alexnet_jax.inference.feature_npy import NpyFile
from alexnet_jax.inference.feature_zarr import ZarrGroup
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import Failure, InputError, first_line


# By the end of an output's name.
FORMATS: dict[str, type[FeatureFile]] = {
    ".zarr": ZarrGroup,
    ".h5": Hdf5File,
    ".hdf5": Hdf5File,
    ".npy": NpyFile,
}
# What distinguishes one piece of work from another, as JSON keeps it.
Job = Mapping[str, str | int | list[str]]
# Syncing takes long on some disks, and what a crash loses is computed again.
SECONDS_BETWEEN_NOTES = 5.0


class Output:
    """An output to append rows to; `done` are written, of which `refused` are NaN."""

    def __init__(self, path: Path, job: Job) -> None:
        self._path = path
        self._job = dict(job)
        self._note = path.with_name(path.name + ".progress.json")
        self.writer: FeatureFile | None = None
        self.done = self.refused = 0
        self.resumed = self._note.exists()
        if self.resumed:
            self._resume()
        elif path.exists():
            raise InputError(f"{path} exists already; choose another --output")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path} can't be written: its folder isn't there")
        self._noted, self._when = self.done, time.monotonic()

    def _resume(self) -> None:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            job, self.done, self.refused = note["job"], note["done"], note["refused"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._note} is damaged ({first_line(error)}), so {self._path} can't "
                "be continued; choose another --output"
            ) from error
        if job != self._job:
            raise InputError(
                f"{self._path} holds the beginning of other features "
                f"({self._differing(job)}; {self._note} says all); give that command "
                "again, or choose another --output"
            )

    def _differing(self, job: Mapping[str, object]) -> str:
        """The first thing in which the note's work is not this one."""
        for key in {**job, **self._job}:
            there, here = job.get(key), self._job.get(key)
            if there != here:
                return f"{key} is {there} there and {here} here"
        return "in another order"

    def append(
        self,
        columns: Columns,
        names: Sequence[str],
        labels: Sequence[int],
        refused: int,
    ) -> None:
        """Write the next rows, `refused` of which are NaN."""
        assert self.writer is not None
        with writing(self._path):
            self.writer.write(self.done, columns, names, labels)
        self.done += len(names)
        self.refused += refused
        if time.monotonic() - self._when > SECONDS_BETWEEN_NOTES:
            self.take_note()

    def end(self) -> None:
        """Finish: all rows are written."""
        self._note.unlink()

    def take_note(self) -> None:
        """Record how many rows are written, so that the output can be continued."""
        if self.writer is not None:
            with writing(self._path):
                self.writer.sync(self._noted, self.done)
        self._noted, self._when = self.done, time.monotonic()
        note = {"job": self._job, "done": self.done, "refused": self.refused}
        with writing(self._note):
            atomic.write_json(self._note, note)


@contextmanager
def open_output(
    path: Path, contents: Contents, *, job: Job, beside: Sequence[Path] = ()
) -> Iterator[Output]:
    """Open an output, or continue an unfinished one.

    Args:
      path: its ending decides the format; see `FORMATS`.
      contents: what it is to hold.
      job: what is being done; only the same can be continued.
      beside: other files of the work, which must not exist before it is begun.

    Raises:
      InputError: if it exists, belongs to other work, or can't be written.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"--output={path} must end in {' or '.join(FORMATS)}")
    output = Output(path, job)
    file = FORMATS[path.suffix](path, contents)
    for other in (*file.beside, *beside):
        if not output.resumed and other.exists():
            raise InputError(f"{other} exists already; choose another --output")
    output.take_note()
    try:
        file.open(output.done)
        output.writer = file
        try:
            yield output
        except BaseException:
            # What went wrong is what is reported.
            with suppress(Failure):
                output.take_note()
            raise
        output.take_note()
    finally:
        with suppress(OSError):
            file.close()
    if output.done == contents.total:
        output.end()
