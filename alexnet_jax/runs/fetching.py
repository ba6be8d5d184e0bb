"""A run's start with a mirror: checks what it holds, and brings it into a work
directory that has nothing saved."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.runs import config_changes
from alexnet_jax.runs import snapshot as snapshots
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import Sections
from alexnet_jax.runs.snapshot import Incomplete, Snapshot
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import Failure, InputError, first_line
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.store import Store


FLAG = "--mirror"
# How long a start waits for an address that can't be reached.
SECONDS_AT_START = 60.0
# In the work directory, while it is brought there.
FETCHED = ".fetched"
PROBE = "probe"


def open_mirror(
    address: str,
    workdir: Path,
    config: Sections,
    *,
    seconds: float = SECONDS_AT_START,
) -> Store:
    """The store at an address, after a check that this run is the one it holds; a work
    directory in which nothing is saved gets what is there.

    Args:
      address: as `gs://bucket/run`.
      workdir: of the run.
      config: of this start.
      seconds: how long to wait for an address that can't be reached.

    Raises:
      InputError: if the address is wrong or may not be read; if it holds another run,
        one of a newer format, a later step than the work directory, or nothing whole.
      Failure: if it can't be reached, and nothing is saved here.
    """
    store = Store(address, FLAG)
    store.patience = seconds
    empty = not workdirs.has_checkpoints(workdir)
    try:
        _check_and_fetch(store, workdir, config, empty=empty)
        # Now, and not when the first step has been saved.
        store.write(PROBE, b"")
        store.delete(PROBE)
    except (InputError, Failure):
        raise
    except Exception as error:
        # The packages raise their own kinds.
        reason = first_line(error)[:160]
        if empty:
            raise Failure(
                f"{FLAG}={address} can't be read and written ({reason}), and {workdir} "
                "has no checkpoint; give the same command again when it can, or leave "
                f"{FLAG} out to begin a run that is not copied"
            ) from error
        progress.say(
            f"warning: {address} can't be read and written ({reason}); the run goes "
            "on, and is copied when it can"
        )
    store.patience = float("inf")
    return store


def _check_and_fetch(
    store: Store, workdir: Path, config: Sections, *, empty: bool
) -> None:
    tried: set[int] = set()
    # Listed again each time: a start that still runs replaces old ones by new ones.
    while left := set(snapshots.numbers(store)) - tried:
        number = max(left)
        tried.add(number)
        try:
            found = snapshots.load(store, number)
            _check(store, found, workdir, config)
            if empty:
                with locked(workdir, f"{workdir} is in use"):
                    _fetch(store, found, workdir)
                progress.say(f"step {found.step} was fetched from {store.address}")
            return
        except Incomplete as error:
            progress.say(
                f"warning: a snapshot at {store.address} is incomplete ({error}); "
                "another one is taken"
            )
    if tried and empty:
        raise InputError(
            f"{store.address} has no whole snapshot of a run; if another start of it "
            f"copies there now, end that and give the same command again; another "
            f"{FLAG} begins a new run"
        )


def _check(store: Store, found: Snapshot, workdir: Path, config: Sections) -> None:
    """Raise an InputError if a snapshot is of another run, or of a later step."""
    there = _json(store, found, workdirs.RUN_FILE)
    workdirs.check_version(store.address, there.get("format_version"), FLAG)
    before = _json(store, found, workdirs.CONFIG_FILE)
    if not all(isinstance(keys, dict) for keys in before.values()):
        raise Incomplete(f"{workdirs.CONFIG_FILE} has no sections")
    config_changes.check_config(store.address, before, config, FLAG)
    steps = directories.steps_in(workdir / workdirs.CHECKPOINTS)
    if not steps:
        return
    data = workdir / workdirs.DATA_FILE
    if data.exists():
        here = workdirs.read_json(data).get("fingerprint")
        if here != _json(store, found, workdirs.DATA_FILE).get("fingerprint"):
            raise InputError(
                f"{store.address} holds a run on other data than that in {workdir}; "
                f"give another {FLAG}"
            )
    if found.step > max(steps):
        raise InputError(
            f"{store.address} has step {found.step} of this run, and {workdir} only "
            f"step {max(steps)}; give a new --workdir to continue from the former, or "
            f"another {FLAG} to continue from the latter"
        )


def _json(store: Store, found: Snapshot, name: str) -> dict[str, Any]:
    """A small file of a snapshot, one JSON object."""
    if name not in found.files:
        raise Incomplete(f"it has no {name}")
    if found.files[name][0] > workdirs.LARGEST_FILE:
        raise Incomplete(f"{name} is over {workdirs.LARGEST_FILE} bytes")
    try:
        value = json.loads(b"".join(found.read(store, name)))
    except ValueError as error:
        raise Incomplete(f"{name} can't be read ({first_line(error)[:80]})") from error
    if not isinstance(value, dict):
        raise Incomplete(f"{name} is no JSON object")
    return value


def _fetch(store: Store, found: Snapshot, workdir: Path) -> None:
    """Bring a snapshot's files: all of them, or none that counts.

    The checkpoints come last, in one renaming: a start that is killed before has
    fetched nothing.
    """
    part, total = workdir / FETCHED, sum(length for length, _ in found.files.values())
    shutil.rmtree(part, ignore_errors=True)
    try:
        with progress.counted("fetching MB", total // 10**6) as advance:
            done = 0
            for name in found.files:
                for length in _fetch_file(store, found, name, part / name):
                    before, done = done, done + length
                    advance(done // 10**6 - before // 10**6)
        with atomic.writing(workdir):
            atomic.sync_tree(part)
            target = workdir / workdirs.CHECKPOINTS
            # Frees it of saves that never completed.
            directories.tidy(target)
            # Of a start before, that had nothing saved; it says what is left out.
            for name in snapshots.SMALL_FILES:
                if name not in found.files:
                    (workdir / name).unlink(missing_ok=True)
            checkpoints = part / workdirs.CHECKPOINTS
            for path in sorted(part.iterdir()):
                if path != checkpoints:
                    if path.is_dir():
                        shutil.rmtree(workdir / path.name, ignore_errors=True)
                    path.rename(workdir / path.name)
            atomic.sync(workdir)
            checkpoints.rename(target)
            atomic.sync(workdir)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fetch_file(store: Store, found: Snapshot, name: str, path: Path) -> Iterator[int]:
    """Write a file of a snapshot; gives the length of each piece. Only what the disk
    raises is a Failure of the disk: the address raises an OSError too."""
    with atomic.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for piece in found.read(store, name):
        with atomic.writing(path), path.open("ab") as file:
            file.write(piece)
        yield len(piece)
