"""Fetches published weights once, into a folder of the user's cache.

What arrives is kept in `NAME.part`, and continued from there after any break. A file is
used only if it agrees with what its publisher states; one that doesn't is kept aside as
`NAME.wrong`. The SHA-256 of a checked file is recorded in `NAME.json`, and the file is
checked against it each time it is used.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from alexnet_jax.interop.published import Published
from alexnet_jax.runtime import atomic, lock, optional, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import Failure, first_line


MIB = 2**20
PIECE = 2**13


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
      seconds: for an answer, and for each further piece of the file.
      tries: in a row that bring nothing.
      pause: seconds between two tries.
    """

    seconds: float = 60.0
    tries: int = 4
    pause: float = 2.0


def fetch(item: Published, folder: Path, patience: Patience = Patience()) -> Path:
    """The file of published weights, fetched if it is not in the folder yet.

    Raises:
      Failure: if it can't be fetched, with the place that it may be put to; or if it is
        not what its publisher states.
      InputError: if another process fetches into the folder.
    """
    path = folder / item.file
    with writing(folder):
        atomic.make_folder(folder)
    with lock.locked(folder, f"{folder} is in use"):
        if not path.exists():
            _download(item, path, patience)
        _check(item, path)
    return path


def recorded_sha256(path: Path) -> str | None:
    """The SHA-256 of a fetched file; None if it was never checked."""
    try:
        return json.loads(_record(path).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _download(item: Published, path: Path, patience: Patience) -> None:
    part = path.with_name(path.name + ".part")
    requests = optional.require("requests", item.url)
    vain = 0
    announced = False
    while True:
        before = _size(part)
        try:
            with requests.get(
                item.url,
                # The bytes themselves: compressed ones could not be continued.
                headers={"Range": f"bytes={before}-", "Accept-Encoding": "identity"},
                stream=True,
                timeout=patience.seconds,
            ) as answer:
                total = _begin(answer, part)
                if not announced:
                    announced = True
                    size = "of unknown size" if total is None else _mib(total)
                    progress.say(f"fetching {item.url} ({size}) to {path}")
                _receive(answer, part, total)
            reason = "it ends early"
            if total is None or _size(part) == total:
                break
        except requests.RequestException as error:
            reason = first_line(error)
            status = getattr(error.response, "status_code", None)
            if status is not None and 400 <= status < 500:
                raise Failure(_by_hand(item, path, reason)) from error
        vain = 0 if _size(part) > before else vain + 1
        if vain >= patience.tries:
            raise Failure(_by_hand(item, path, reason))
        time.sleep(patience.pause)
    with writing(path):
        part.replace(path)
        atomic.sync(path.parent)


def _begin(answer: Any, part: Path) -> int | None:
    """Prepare the part for what the server sends; returns the file's whole length."""
    if answer.status_code == 416:
        # Nothing is left to send, or the part is longer than the file.
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if not whole.isdecimal() or int(whole) != _size(part):
            part.unlink(missing_ok=True)
            raise _again(answer)
        return int(whole)
    answer.raise_for_status()
    length = answer.headers.get("Content-Length", "")
    length = int(length) if length.isdecimal() else None
    begin = 0
    if answer.status_code == 206:
        given = answer.headers.get("Content-Range", "").removeprefix("bytes ")
        begin = int(given.partition("-")[0] or 0)
    if begin != _size(part):
        # The server sends the file from its beginning, or from somewhere else.
        part.unlink(missing_ok=True)
        if begin:
            raise _again(answer)
    return None if length is None else begin + length


def _again(answer: Any) -> Exception:
    requests = optional.require("requests", answer.url)
    return requests.ConnectionError("the server sent another part of the file")


def _receive(answer: Any, part: Path, total: int | None) -> None:
    """Append what the server sends."""
    if answer.status_code == 416:
        return
    done = _size(part)
    with (
        progress.counted("MiB", -(-(total or done) // MIB), done // MIB) as advance,
        _opened(part) as file,
    ):
        # What a server that breaks off has sent of a piece is lost.
        for piece in answer.iter_content(PIECE):
            # Only here: an error of the network is an OSError as well.
            with writing(part):
                file.write(piece)
            advance((done + len(piece)) // MIB - done // MIB)
            done += len(piece)


@contextmanager
def _opened(part: Path) -> Iterator[BinaryIO]:
    """The part, to append to; at the end it is on the disk."""
    with writing(part):
        file = part.open("ab")
    try:
        yield file
    finally:
        with writing(part), file:
            file.flush()
            atomic.sync_open(file.fileno())


def _check(item: Published, path: Path) -> None:
    """Compare a file with what is stated of it and what was recorded; record it."""
    found = {kind: _digest(path, kind) for kind in ("sha256", "sha1")}
    known = [("its publisher", *item.stated.split(":"))] if item.stated else []
    if item.sha256 is not None:
        known.append(("alexnet_jax", "sha256", item.sha256))
    recorded = recorded_sha256(path)
    if recorded is not None:
        known.append((str(_record(path)), "sha256", recorded))
    for who, kind, digits in known:
        if not found[kind].startswith(digits):
            aside = _aside(path)
            with writing(aside):
                path.replace(aside)
                _record(path).unlink(missing_ok=True)
            raise Failure(
                f"{path.name} is not the file that it should be: its {kind.upper()} is "
                f"{found[kind]}, and {who} states {digits}; it is kept as {aside} and "
                "not used; the same command fetches it again"
            )
    if recorded is None:
        by = item.stated or "nothing: its publisher states no hash"
        progress.say(f"{path.name}: SHA-256 {found['sha256']}, checked by {by}")
        record = {
            "url": item.url,
            "bytes": path.stat().st_size,
            "sha256": found["sha256"],
            "checked_by": by,
        }
        with writing(_record(path)):
            atomic.write_json(_record(path), record)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _aside(path: Path) -> Path:
    """A free name for a file that is not used."""
    number, aside = 1, path.with_name(path.name + ".wrong")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.wrong{number}")
    return aside


def _by_hand(item: Published, path: Path, reason: str) -> str:
    return (
        f"{item.url} can't be fetched ({reason}); give the same command again, which "
        f"continues, or fetch it elsewhere and put it to {path}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mib(count: int) -> str:
    return f"{count / MIB:.1f} MiB"
