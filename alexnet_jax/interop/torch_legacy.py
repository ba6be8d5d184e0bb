"""Files of `torch.save` from before PyTorch 1.6, such as those of Places365.

Such a file is a sequence of programs as in a zip of today: a number that marks the
format, its version, the machine's sizes, the dictionary of tensors, and the keys of the
storages; then for each key, in that order, a count and the numbers themselves. Every
program is restricted as `torch_pickle` says.
"""

import io
import pickletools
from pathlib import Path

import numpy as np

from alexnet_jax.interop.torch_pickle import (
    MAX_NUMBERS,
    MAX_PROGRAM_BYTES,
    Storage,
    arrays,
    load_program,
    tensors_of,
)
from alexnet_jax.runtime.errors import InputError, first_line


# The first program: the number 0x1950a86a20f9469cfc6c.
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = 1001


def is_legacy(path: Path) -> bool:
    """Whether a file begins as these do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name; see `torch_pickle.read`.

    Raises:
      InputError: as there.
    """
    try:
        return _read(path.read_bytes(), path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    except Exception as error:
        # A damaged program can fail in any way that Python knows.
        raise InputError(
            f"{path} is cut off or damaged ({first_line(error)})"
        ) from error


def _read(data: bytes, path: Path) -> dict[str, np.ndarray]:
    file = io.BytesIO(data)
    _, version, sizes, state, keys = (_program(file) for _ in range(5))
    if load_program(version, path)[0] != VERSION:
        raise ValueError("an unknown version")
    machine, _ = load_program(sizes, path)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("numbers of a big-endian machine")
    result, named = load_program(state, path)
    tensors = tensors_of(result, path)
    storages = {storage.key: storage for storage in named}
    order, _ = load_program(keys, path)
    if not isinstance(order, list):
        raise ValueError("no keys of the storages")
    numbers: dict[Storage, np.ndarray] = {}
    for key in order:
        storage = storages[str(key)]
        (count,) = np.frombuffer(file.read(8), "<i8").tolist()
        if not 0 <= count <= MAX_NUMBERS or count != storage.numbers:
            raise ValueError(f"{count} numbers where {storage.numbers} are named")
        content = file.read(storage.length)
        if len(content) < storage.length:
            raise ValueError("the numbers end early")
        numbers[storage] = storage.decoded(content)
    return arrays(tensors, numbers)


def _program(file: io.BytesIO) -> bytes:
    """The next program of the file."""
    begin = file.tell()
    for _ in pickletools.genops(file):
        if file.tell() - begin > MAX_PROGRAM_BYTES:
            raise ValueError("a program larger than a network's")
    return file.getvalue()[begin : file.tell()]
