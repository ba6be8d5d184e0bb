"""What a mirror holds: pieces of files, named after their bytes, and lists of them.

    blobs/SHA256        a piece of a file
    snapshots/00000012  the files of one moment, and their pieces

A list is written when all its pieces are there, and what is listed never changes. So
whatever fails or is killed on the way, a list of which every piece is there and has its
checksum is a state that the run once had on its own disk.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator

from alexnet_jax.data.statistics import MEAN_FILE
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runs.unreadable_images import LEFT_OUT_FILE
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.store import Store


FORMAT_VERSION = 1
BLOBS, SNAPSHOTS = "blobs", "snapshots"
# One that fails is cheap to send again, and none needs much memory.
PIECE_BYTES = 2**23
# Of a work directory, beside its checkpoints. Metrics are the last: they are read when
# the checkpoints are, and must reach as far.
SMALL_FILES = (
    workdirs.CONFIG_FILE,
    workdirs.RUN_FILE,
    workdirs.DATA_FILE,
    MEAN_FILE,
    LEFT_OUT_FILE,
    METRICS_FILE,
)
MAX_FILES = 100_000
_NAME = r"(?!\.{1,2}(?:/|$))[^/\0]+"
_PATH = re.compile(
    rf"(?:{'|'.join(map(re.escape, SMALL_FILES))})|{workdirs.AUTOTUNING}/{_NAME}|"
    rf"{workdirs.CHECKPOINTS}/[0-9]+(?:/{_NAME})+"
)
_SHA256 = re.compile("[0-9a-f]{64}")
_NUMBER = re.compile("[0-9]{8}")


class Incomplete(Exception):
    """A snapshot that lacks something, or has something else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files of one moment.

    Attributes:
      step: of the latest checkpoint among them.
      files: the length of each and its pieces, by its path in the work directory.
    """

    step: int
    files: dict[str, tuple[int, list[str]]]

    def encoded(self) -> bytes:
        """The object that lists them."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(content).encode()

    def pieces(self) -> dict[str, int]:
        """The bytes of each piece, by its name."""
        found = {}
        for length, names in self.files.values():
            for number, name in enumerate(names):
                found[name] = min(PIECE_BYTES, length - number * PIECE_BYTES)
        return found

    def read(self, store: Store, path: str) -> Iterator[bytes]:
        """The pieces of a file, each as it was written.

        Raises:
          Incomplete: if one is missing or differs.
        """
        for name in self.files[path][1]:
            data = store.read(f"{BLOBS}/{name}")
            if data is None or hashlib.sha256(data).hexdigest() != name:
                what = "is missing" if data is None else "is not what was written"
                raise Incomplete(f"a piece of {path} {what}")
            yield data


def numbers(store: Store) -> list[int]:
    """The numbers of the snapshots, rising."""
    return sorted(int(n) for n in store.names(SNAPSHOTS) if _NUMBER.fullmatch(n))


def object_name(number: int) -> str:
    """The object of a snapshot."""
    return f"{SNAPSHOTS}/{number:08d}"


def load(store: Store, number: int) -> Snapshot:
    """A snapshot's list.

    Raises:
      Incomplete: if it is missing or damaged.
      InputError: if it is of a newer format.
    """
    data = store.read(object_name(number))
    where = f"{store.address}/{object_name(number)}"
    try:
        content = json.loads(data or b"")
        version = content["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(
                f"{store.address} is a mirror of format {version}, newer than the "
                f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
            )
        files = {path: (int(of[0]), [*of[1]]) for path, of in content["files"].items()}
        found = Snapshot(step=int(content["step"]), files=files)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Incomplete(f"{where} is damaged") from error
    if len(files) > MAX_FILES or not all(
        _PATH.fullmatch(path)
        and len(names) == -(-length // PIECE_BYTES)
        and all(isinstance(name, str) and _SHA256.fullmatch(name) for name in names)
        for path, (length, names) in files.items()
    ):
        raise InputError(f"{where} was not written by alexnet_jax alone")
    return found
