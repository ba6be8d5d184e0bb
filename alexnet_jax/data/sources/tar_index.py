"""Finds the members of untrusted tar archives, without unpacking them.

In a compressed archive (.gz) a member's place is that in the unpacked stream.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.data.encoded import check_name
from alexnet_jax.runtime.errors import InputError


# Real headers, long names included, are a few blocks; a hostile header would fill
# memory.
_MAX_HEADER = 2**20
_MAX_UNPACKED = 2**28
# What tarfile raises on broken bytes.
_BROKEN = (tarfile.TarError, EOFError, OverflowError, ValueError, zlib.error)
# The end of a stream whose length is not known.
_ENDLESS = 2**62


Stream = io.BufferedIOBase


class Member(NamedTuple):
    """A file in an archive: its name, and where its bytes lie in the archive's file."""

    name: str
    offset: int
    length: int


class _Headers:
    """A file that reads at most a header's length at once."""

    def __init__(self, file: Stream) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self._file.read(count)


def members(path: Path, within: Member | None = None) -> Iterator[Member]:
    """The files of a tar, or of a tar within it, in their order, without folders.

    Only headers are read; of a compressed archive everything is unpacked on the way.

    Raises:
      InputError: if it can't be read, is cut off, or has a member that is no plain file
        or that would lie outside of the folder it is unpacked into.
    """
    where = str(path) if within is None else f"{path}: {within.name}"
    try:
        if is_packed(path):
            with gzip.open(path) as unpacked:
                yield from _members(unpacked, where, _ENDLESS)
            return
        with path.open("rb") as file:
            start, length = 0, file.seek(0, io.SEEK_END)
            if within is not None:
                start, length = within.offset, within.length
            file.seek(start)
            yield from _members(file, where, start + length)
    except gzip.BadGzipFile as error:
        raise InputError(f"{where} is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{where} is cut off or damaged ({error}); fetch it again"
        ) from error


def is_packed(path: Path) -> bool:
    """Whether an archive is compressed."""
    return path.suffix == ".gz"


def _members(file: Stream, where: str, end: int) -> Iterator[Member]:
    with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore
        while (member := archive.next()) is not None and member.offset < end:
            # tarfile keeps every member it has seen; over a million would fill memory.
            archive.members.clear()
            if member.size < 0 or member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} ends past the end")
            _check_member(member, where)
            if member.isreg():
                yield Member(member.name, member.offset_data, member.size)
        # tarfile takes a damaged header for the end; the real end is followed by zeros.
        file.seek(archive.offset)
        while (left := end - file.tell()) > 0:
            block = file.read(min(left, _MAX_HEADER))
            if not block and end == _ENDLESS:
                break
            if not block or any(block):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")


def _check_member(member: tarfile.TarInfo, where: str) -> None:
    check_name(member.name, where)
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise InputError(
            f"{where} has a member outside of it, {member.name!r}; refused"
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise InputError(
            f"{where} has a member that is no plain file, {member.name!r}; refused"
        )


def unpack_gzip(path: Path) -> dict[str, bytes]:
    """The files of a small tar.gz by their names.

    Raises:
      InputError: as `members`, or if it is larger than a devkit can be.
    """
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read ({error}); fetch it again") from error
    if len(data) > _MAX_UNPACKED:
        raise InputError(f"{path} unpacks to over {_MAX_UNPACKED} bytes; refused")
    try:
        found = _members(io.BytesIO(data), str(path), len(data))
        return {name: data[at : at + length] for name, at, length in found}
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{path} is damaged ({error}); fetch it again") from error
