"""Images in compressed tar archives, which can only be read from their beginning."""

import gzip
import threading
import zlib
from pathlib import Path

from alexnet_jax.data.encoded import FileSource
from alexnet_jax.runtime.errors import InputError


class PackedSource(FileSource):
    """Images in tar archives that may be compressed (.gz).

    Reading in order unpacks an archive once in each process. Reading at random unpacks
    it from the beginning again and again: prepare such a set.
    """

    recommends_preparing = True

    @staticmethod
    def _read(path: Path, offset: int, length: int) -> bytes:
        if path.suffix != ".gz":
            return FileSource._read(path, offset, length)
        with _lock:
            try:
                # Going forward it unpacks; going back it starts over.
                stream = _stream(path)
                stream.seek(offset)
                return stream.read(length)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                _streams.clear()
                raise InputError(
                    f"{path} is cut off or damaged ({error}); fetch it again"
                ) from error
            except OSError:
                # A drive that was away has forgotten what was open.
                _streams.clear()
                raise


# The archive that this process has open: one, as it reads one after the other.
_streams: dict[Path, gzip.GzipFile] = {}
_lock = threading.Lock()


def _stream(path: Path) -> gzip.GzipFile:
    if path not in _streams:
        for other in _streams.values():
            other.close()
        _streams.clear()
        _streams[path] = gzip.GzipFile(path)
    return _streams[path]
