"""Copies what a run has saved to an address, for machines that lose their disks.

The local disk stays the truth: nothing waits for the copy but the end of the run.
"""

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.errors import FILES_FILE
from alexnet_jax.runs import snapshot as snapshots
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.snapshot import BLOBS, PIECE_BYTES, SMALL_FILES, Snapshot
from alexnet_jax.runtime import atomic, listing, open_files, progress
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.store import LONGEST_PAUSE, Store


# How many snapshots stay: the one before the last, should something be lost.
KEPT = 2
SECONDS_BETWEEN_LOOKS = 1.0
# How many more files a run may open while its checkpoints are copied.
SPARE_FILES = 256
# How long the end of a run waits for an address that takes nothing.
SECONDS_AT_END = 60.0

# A piece of an open file: its descriptor, the first byte, the length.
Piece = tuple[int, int, int]
# The steps saved, each with the times of what is noted about it.
Saved = dict[int, list[int]]


class _Changed(Exception):
    """A file that was read twice differs."""


class _Shared(Exception):
    """Another start of the run copies to the same address."""


class Mirror:
    """Follows a work directory in a thread, and copies it whenever a step is saved.

    Where saving is faster than copying, what is newest is copied next. Files are open
    while they are copied, so that a checkpoint which the run deletes meanwhile is whole
    at the address. A start that finds the snapshot of another one there, as of a
    notebook that was given up and still runs, copies nothing more, so that neither
    deletes what the other needs. For the main process alone.

    Args:
      store: where to.
      workdir: of the run.
      seconds_at_end: how long the end waits while the address takes nothing.
    """

    def __init__(
        self, store: Store, workdir: Path, *, seconds_at_end: float = SECONDS_AT_END
    ) -> None:
        self._store, self._workdir = store, workdir
        self._seconds_at_end = seconds_at_end
        self._closing = threading.Event()
        # The pieces of files by their place on the disk, length and time of change.
        self._known: dict[tuple[int, int, int], list[str]] = {}
        self._copied: Saved = {}
        # The number of the newest snapshot that this start knows of, and whether it has
        # found another's.
        self._newest, self._shared = 0, False
        # When the address has last taken something.
        self._moved = time.monotonic()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Inside the block what is saved is copied; its end waits for the last copy,
        and says what is at the address."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._closing.set()
            self._store.hurry.set()
            self._moved = time.monotonic()
            while thread.is_alive():
                thread.join(SECONDS_BETWEEN_LOOKS / 10)
                if time.monotonic() - self._moved > self._seconds_at_end:
                    break
            try:
                self._say_what_is_there()
            except OSError as error:
                self._say_why_not(error, "the same command copies it")

    def _say_why_not(self, error: OSError, then: str) -> None:
        progress.say(
            f"warning: {self._workdir} can't be copied to {self._store.address} "
            f"({first_line(error)[:160]}); {then}"
        )

    def _say_what_is_there(self) -> None:
        saved, address = self._saved(), self._store.address
        if not saved or self._shared:
            return
        if saved == self._copied:
            repeated = self._store.repeated
            calls = progress.counting(repeated, "call was", "calls were")
            note = f"; {calls} made again" if repeated else ""
            progress.say(f"{address} has step {max(saved)} of this run{note}")
            return
        there = f"step {max(self._copied)}" if self._copied else "no step"
        error = self._store.error
        reason = f" ({first_line(error)[:160]})" if error else ""
        progress.say(
            f"warning: {address} has {there} of this start, and not all of step "
            f"{max(saved)}{reason}; it is whole in {self._workdir}, and the same "
            "command copies it"
        )

    def _follow(self) -> None:
        self._newest = max(snapshots.numbers(self._store), default=0)
        said = False
        while True:
            closing = self._closing.is_set()
            try:
                self._copy_what_is_new()
                if closing and self._saved() in ({}, self._copied):
                    return
                said = False
            except (_Changed, FileNotFoundError):
                # The run has deleted or replaced something; seen at the next look.
                time.sleep(SECONDS_BETWEEN_LOOKS / 10)
            except OSError as error:
                # As of a drive that is away; the next look may find it back.
                if not said:
                    self._say_why_not(error, "it is tried again")
                    said = True
                time.sleep(SECONDS_BETWEEN_LOOKS / 10)
            except _Shared:
                self._shared = True
                progress.say(
                    f"warning: another start of this run copies to "
                    f"{self._store.address}; this one copies nothing more, and "
                    f"what it saves is in {self._workdir}: end one of them"
                )
                return
            self._closing.wait(SECONDS_BETWEEN_LOOKS)

    def _copy_what_is_new(self) -> None:
        saved = self._saved()
        if saved and saved != self._copied:
            self._copy(saved)
            self._copied = saved

    def _saved(self) -> Saved:
        folder = self._workdir / workdirs.CHECKPOINTS
        notes = (FILES_FILE, directories.VALIDATION_FILE)
        found = {
            step: [_time(folder / str(step) / note) for note in notes]
            for step in directories.steps_in(folder)
        }
        # The first note is there when a step is on the disk and was read back.
        return {step: times for step, times in found.items() if times[0]}

    def _copy(self, saved: Saved) -> None:
        with contextlib.ExitStack() as stack:
            files: dict[str, tuple[int, list[str]]] = {}
            pieces: dict[str, Piece] = {}
            paths = self._paths(saved)
            needed = open_files.count() + len(paths) + SPARE_FILES
            if open_files.allow(needed) < needed:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            for path in paths:
                file = os.open(path, os.O_RDONLY)
                stack.callback(os.close, file)
                length, names = self._pieces(file)
                files[path.relative_to(self._workdir).as_posix()] = length, names
                for number, name in enumerate(names):
                    begin = number * PIECE_BYTES
                    pieces[name] = file, begin, min(PIECE_BYTES, length - begin)
            self._send(pieces)
        listed = Snapshot(step=max(saved), files=files)
        there = snapshots.numbers(self._store)
        if max(there, default=0) > self._newest:
            raise _Shared
        number = self._newest + 1
        name = snapshots.object_name(number)
        # Read back, since a store may lose what it has taken.
        for pause in self._pauses():
            self._store.write(name, listed.encoded())
            if self._store.read(name) == listed.encoded():
                break
            time.sleep(pause)
        self._moved = time.monotonic()
        self._newest = number
        self._tidy([*there, number])

    def _paths(self, saved: Saved) -> list[Path]:
        """The files of a snapshot: checkpoints first, since what is written about them
        elsewhere is written before they are."""
        folders = [self._workdir / workdirs.CHECKPOINTS / str(step) for step in saved]
        if listing.is_folder(self._workdir / workdirs.AUTOTUNING):
            folders.append(self._workdir / workdirs.AUTOTUNING)
        small = [self._workdir / name for name in SMALL_FILES]
        found = [path for folder in folders for path in listing.files_in(folder)]
        found += [path for path in small if listing.is_file(path)]
        return [path for path in found if not path.name.endswith(atomic.PART)]

    def _pieces(self, file: int) -> tuple[int, list[str]]:
        """The length of an open file, and the names of its pieces."""
        status = os.fstat(file)
        key = (status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = [
                hashlib.sha256(os.pread(file, PIECE_BYTES, begin)).hexdigest()
                for begin in range(0, status.st_size, PIECE_BYTES)
            ]
        return status.st_size, self._known[key]

    def _send(self, pieces: dict[str, Piece]) -> None:
        """Write the pieces that are missing, until none is."""
        sent: set[str] = set()
        for pause in self._pauses():
            there = self._store.names(BLOBS)
            missing = [n for n, (*_, size) in pieces.items() if there.get(n) != size]
            if not missing:
                return
            if sent:
                time.sleep(pause)
            for name in missing:
                file, begin, size = pieces[name]
                data = os.pread(file, size, begin)
                if hashlib.sha256(data).hexdigest() != name:
                    self._known.clear()
                    raise _Changed
                self._store.write(f"{BLOBS}/{name}", data)
                # What was taken twice was lost once.
                if name not in sent:
                    self._moved = time.monotonic()
                sent.add(name)

    def _pauses(self) -> Iterator[float]:
        """Seconds before a store is written to again that has lost something."""
        pause = SECONDS_BETWEEN_LOOKS / 10
        while True:
            yield SECONDS_BETWEEN_LOOKS / 10 if self._closing.is_set() else pause
            pause = min(2 * pause, LONGEST_PAUSE)

    def _tidy(self, numbers: list[int]) -> None:
        """Delete what no snapshot needs that stays. What fails is done next time."""
        kept: set[str] = set()
        try:
            for number in numbers[-KEPT:]:
                kept |= snapshots.load(self._store, number).pieces().keys()
        except (snapshots.Incomplete, InputError):
            return
        for number in numbers[:-KEPT]:
            self._store.delete(snapshots.object_name(number))
        for name in self._store.names(BLOBS).keys() - kept:
            self._store.delete(f"{BLOBS}/{name}")


def _time(path: Path) -> int:
    """When a file was last changed, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
