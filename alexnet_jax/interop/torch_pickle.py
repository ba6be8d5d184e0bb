"""Read the arrays of a file of `torch.save` without running what is in it.

Such a file is a zip of raw numbers and of a pickle: a small program that builds the
dictionary around them. Ordinary unpickling would run whatever a stranger put there.
Here the standard library's Unpickler runs it, restricted in three ways:

- before the start every instruction is compared with the few that a dictionary of
  tensors needs (`_check_instructions`),
- a name that the program looks up is one of a short table or refused (`find_class`).
  Nothing is imported: what training scripts save beside the tensors, such as their
  arguments, becomes a stand-in that does nothing (`_Skipped`),
- the numbers come from the zip, after the program has ended (`persistent_load`).
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.interop.torch_names import (
    BESIDE,
    BFLOAT16,
    INSTRUCTIONS,
    NESTED,
    STORAGES,
)
from alexnet_jax.interop.weight_layout import from_bfloat16
from alexnet_jax.runtime.errors import InputError, first_line


MAX_PROGRAM_BYTES = 2**24
MAX_NUMBERS = 2**29


class Storage(NamedTuple):
    """Numbers of the zip that tensors share: their type, the member's name, count."""

    kind: str
    key: str
    numbers: int

    @property
    def length(self) -> int:
        """How many bytes they take."""
        kind = "<u2" if self.kind == BFLOAT16 else self.kind
        return self.numbers * np.dtype(kind).itemsize

    def decoded(self, data: bytes) -> np.ndarray:
        """The numbers, from their bytes."""
        if self.kind == BFLOAT16:
            return from_bfloat16(np.frombuffer(data, "<u2"))
        return np.frombuffer(data, self.kind)


class Tensor(NamedTuple):
    """A tensor still without its numbers; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Skipped:
    """Stands for what is not a tensor. It takes everything and does nothing."""

    def __new__(cls, *_: object) -> "_Skipped":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """As of a list."""

    def extend(self, values: object) -> None:
        """As of a list."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name.

    The dictionary may lie in another, as under one of the keys `NESTED`. What is no
    tensor is skipped.

    Raises:
      InputError: if the file is cut off or damaged, holds anything but a dictionary of
        tensors, or asks to run anything.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is cut off, or no file as PyTorch 1.6 and later write ({error}); "
            "load and save it again there, or save it as .safetensors"
        ) from error
    except Exception as error:
        # A damaged program can fail in any way that Python knows.
        raise InputError(f"{path} is damaged ({first_line(error)})") from error


def _read(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    programs = [i for i in archive.infolist() if i.filename.endswith("data.pkl")]
    if len(programs) != 1 or programs[0].file_size > MAX_PROGRAM_BYTES:
        raise InputError(f"{path} must hold one dictionary of tensors, and does not")
    folder = programs[0].filename.removesuffix("data.pkl")
    result, _ = load_program(archive.read(programs[0]), path)
    tensors = tensors_of(result, path)
    numbers: dict[Storage, np.ndarray] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage not in numbers:
            member = archive.getinfo(f"{folder}data/{storage.key}")
            if member.file_size != storage.length or storage.numbers > MAX_NUMBERS:
                raise ValueError(f"{member.filename} has {member.file_size} bytes")
            numbers[storage] = storage.decoded(archive.read(member))
    return arrays(tensors, numbers)


def load_program(program: bytes, path: Path) -> tuple[object, list["Storage"]]:
    """What a program builds, and the storages that it names.

    Raises:
      InputError: if it asks to run anything.
    """
    _check_instructions(program, path)
    unpickler = _Unpickler(program, path)
    return unpickler.load(), unpickler.storages


def tensors_of(result: object, path: Path) -> dict[str, "Tensor"]:
    """The tensors of a state dictionary by name, or of the one that lies in it.

    Raises:
      InputError: if there is none.
    """
    tensors = _tensors(result)
    if not tensors:
        raise InputError(
            f"{path} holds no dictionary of tensors; save model.state_dict() there"
        )
    return tensors


def arrays(
    tensors: Mapping[str, "Tensor"], numbers: Mapping["Storage", np.ndarray]
) -> dict[str, np.ndarray]:
    """Each tensor's array, out of the numbers of the storages."""
    return {name: _array(t, numbers[t.storage]) for name, t in tensors.items()}


def _tensors(result: object) -> dict[str, Tensor]:
    """The tensors of a dictionary by name, or of the one that lies in it."""
    # At most one in another: a dictionary could lie in itself.
    for _ in range(4):
        if not isinstance(result, dict):
            break
        if tensors := _named(result):
            return tensors
        # Of several the one under a known key; else there must be only one.
        known = [result[key] for key in NESTED if isinstance(result.get(key), dict)]
        inner = known or [v for v in result.values() if _named(v)]
        if not known and len(inner) != 1:
            break
        result = inner[0]
    return {}


def _named(value: object) -> dict[str, Tensor]:
    """The tensors of a state dictionary; none of any other value."""
    if not isinstance(value, dict):
        return {}
    tensors = {n: v for n, v in value.items() if isinstance(v, Tensor)}
    # An optimizer's and the best error so far have no such names.
    weights = any(isinstance(name, str) and name.endswith("weight") for name in tensors)
    return {n: v for n, v in tensors.items() if isinstance(n, str)} if weights else {}


def _array(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """A tensor's array. as_strided checks nothing, so that is done here."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    steps = (*tensor.shape, *tensor.strides, tensor.offset)
    empty = 0 in tensor.shape
    if min(steps, default=0) < 0 or (
        not empty and tensor.offset + reach >= numbers.size
    ):
        raise ValueError(f"a tensor of {tensor.shape} reaches past its numbers")
    # A stride of 0 repeats a number without end.
    if math.prod(tensor.shape) > MAX_NUMBERS:
        raise ValueError(f"a tensor of {tensor.shape} is larger than a network's")
    size = numbers.itemsize
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.shape,
        [step * size for step in tensor.strides],
        writeable=False,
    )
    return np.ascontiguousarray(view)


def _check_instructions(program: bytes, path: Path) -> None:
    """Refuse a program with an instruction that a dictionary of tensors doesn't need.

    Raises:
      InputError: naming the instruction.
      ValueError: if the program is cut off.
    """
    known = set(INSTRUCTIONS.split())
    for count, (instruction, argument, _) in enumerate(pickletools.genops(program)):
        if instruction.name not in known:
            raise InputError(
                f"{path} has an instruction {instruction.name}, which a dictionary of "
                "tensors does not need; refused, since it may run anything"
            )
        # The Unpickler's memory is a table as long as the largest place in it, so that
        # six bytes could ask for 64 GB.
        if "PUT" in instruction.name and not 0 <= int(argument or 0) <= count:
            raise ValueError(f"{instruction.name} {argument} after {count} others")


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries of `Tensor`; its program passed `_check_instructions`."""

    def __init__(self, program: bytes, path: Path) -> None:
        # Without fix_imports a message has the names as in the file. Python 2 wrote
        # text as bytes.
        super().__init__(io.BytesIO(program), fix_imports=False, encoding="latin1")
        self._path = path
        self.storages: list[Storage] = []

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """What stands for a name that the program looks up; nothing is imported."""
        # The functions are made at each look-up, and OrderedDict is immutable: BUILD
        # can set attributes of what it gets here, which must not outlive this file.
        known: dict[str, object] = {
            **STORAGES,
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor": lambda *given: _tensor(given),
            "torch._utils._rebuild_tensor_v2": lambda *given: _tensor(given),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        name = f"{module_name}.{global_name}"
        if name in BESIDE:
            return _Skipped
        if name not in known:
            shown = name.encode("unicode_escape").decode()
            raise InputError(
                f"{self._path} asks for {shown}, which is not part of a dictionary of "
                "tensors; refused, since it may run anything; where the file is yours, "
                "save model.state_dict() alone"
            )
        return known[name]

    def persistent_load(self, pid: object, /) -> Storage:
        """The numbers that the program names; they are read afterwards."""
        match pid:
            # The last, of older files, is a part of another storage.
            case ("storage", str(kind), key, _, int(numbers)) | (
                "storage",
                str(kind),
                key,
                _,
                int(numbers),
                None,
            ) if kind in STORAGES.values():
                self.storages.append(Storage(kind, str(key), numbers))
                return self.storages[-1]
        raise ValueError("numbers of an unknown kind")


def _tensor(given: tuple[object, ...]) -> Tensor:
    match given:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            return Tensor(storage, offset, shape, strides)
    raise ValueError("a tensor without numbers, or without a shape")
