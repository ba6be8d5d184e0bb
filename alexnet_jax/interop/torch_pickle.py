"""Read the arrays of a PyTorch .pth without running what is in it.

A .pth is a zip of raw numbers and of a pickle, a small program that builds the
dictionary around them. Unpickling would run it, and whatever a stranger put there. Here
its instructions are followed by hand: a dictionary of tensors can be built with them,
and anything else that one asks for is refused by name, before a number is read.
"""

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.runtime.errors import InputError


MAX_PROGRAM = 2**24
MAX_NUMBERS = 2**29
KINDS = {
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
}
REBUILD = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
DICTIONARY = "collections OrderedDict"
KNOWN = {*KINDS, REBUILD, PARAMETER, DICTIONARY}


class _Name(str):
    """A name that the program has looked up."""


class _Storage(NamedTuple):
    kind: str
    key: str
    numbers: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name.

    Raises:
      InputError: if it is cut off, is something else than a dictionary of tensors, or
        asks to run anything.
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
            f"{path} is cut off, or no .pth as PyTorch 1.6 and later write ({error}); "
            "load and save it again there, or save it as .safetensors"
        ) from error
    except Exception as error:
        # A broken program fails in any way there is.
        raise InputError(f"{path} is damaged ({error})") from error


def _read(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    programs = [i for i in archive.infolist() if i.filename.endswith("data.pkl")]
    if len(programs) != 1 or programs[0].file_size > MAX_PROGRAM:
        raise InputError(f"{path} has not one dictionary of tensors in it")
    folder = programs[0].filename.removesuffix("data.pkl")
    result = _follow(archive.read(programs[0]), path)
    if isinstance(result, dict):
        # As training scripts save it, among other things.
        result = result.get("state_dict", result)
    if not isinstance(result, dict):
        raise InputError(f"{path} holds no dictionary of tensors")
    tensors = {
        str(name): value for name, value in result.items() if isinstance(value, _Tensor)
    }
    storages: dict[_Storage, np.ndarray] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage not in storages:
            member = archive.getinfo(f"{folder}data/{storage.key}")
            size = np.dtype(storage.kind).itemsize * storage.numbers
            if member.file_size != size or storage.numbers > MAX_NUMBERS:
                raise ValueError(f"{member.filename} has {member.file_size} bytes")
            storages[storage] = np.frombuffer(archive.read(member), storage.kind)
    return {name: _array(t, storages[t.storage]) for name, t in tensors.items()}


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    steps = (*tensor.shape, *tensor.strides, tensor.offset)
    empty = 0 in tensor.shape
    if min(steps, default=0) < 0 or (
        not empty and tensor.offset + reach >= numbers.size
    ):
        raise ValueError(f"a tensor of {tensor.shape} reaches past its numbers")
    size = numbers.itemsize
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.shape,
        [step * size for step in tensor.strides],
        writeable=False,
    )
    return np.ascontiguousarray(view)


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What the few functions that are known give."""
    if function == DICTIONARY:
        return dict(*arguments)
    if function == PARAMETER:
        return arguments[0]
    if function == REBUILD:
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor of no numbers")
        return _Tensor(storage, int(offset), tuple(shape), tuple(strides))
    raise ValueError(f"a call of {function!r}")


def _follow(program: bytes, path: Path) -> Any:
    """Follow a pickle's instructions, as far as a dictionary of tensors needs them."""
    stack: list[Any] = []
    marks: list[int] = []
    memory: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def look_up(name: str) -> None:
        if name not in KNOWN:
            raise InputError(
                f"{path} asks for {name.replace(' ', '.')}, which is no part of a "
                "dictionary of tensors; refused, since it may run anything"
            )
        stack.append(_Name(name))

    def stack_global() -> None:
        name, module = stack.pop(), stack.pop()
        look_up(f"{module} {name}")

    def last(count: int) -> None:
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)

    def reduce() -> None:
        arguments, function = stack.pop(), stack.pop()
        stack.append(_call(function, arguments))

    def store(pairs: list[Any]) -> None:
        stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def persistent() -> None:
        tag, kind, key, _, numbers = stack.pop()
        if tag != "storage" or kind not in KINDS:
            raise ValueError(f"numbers of kind {kind!r}")
        stack.append(_Storage(KINDS[kind], str(key), int(numbers)))

    plain: dict[str, Callable[[], Any]] = {
        "MARK": lambda: marks.append(len(stack)),
        "EMPTY_DICT": lambda: stack.append({}),
        "EMPTY_LIST": lambda: stack.append([]),
        "EMPTY_TUPLE": lambda: stack.append(()),
        "NONE": lambda: stack.append(None),
        "NEWTRUE": lambda: stack.append(True),
        "NEWFALSE": lambda: stack.append(False),
        "TUPLE": lambda: stack.append(tuple(since_mark())),
        "TUPLE1": lambda: last(1),
        "TUPLE2": lambda: last(2),
        "TUPLE3": lambda: last(3),
        "STACK_GLOBAL": stack_global,
        "REDUCE": reduce,
        "SETITEM": lambda: store([stack.pop(-2), stack.pop()]),
        "SETITEMS": lambda: store(since_mark()),
        "APPEND": lambda: stack[-2].append(stack.pop()),
        "APPENDS": lambda: (lambda items: stack[-1].extend(items))(since_mark()),
        "BINPERSID": persistent,
        # The attributes that a dictionary may have besides its items.
        "BUILD": lambda: stack.pop(),
        "POP": lambda: stack.pop(),
        "MEMOIZE": lambda: memory.__setitem__(len(memory), stack[-1]),
    }
    constants = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1")
    constants = (*constants, "BININT2", "LONG1", "BINFLOAT", "UNICODE", "INT")
    for instruction, argument, _ in pickletools.genops(program):
        name = instruction.name
        if name in plain:
            plain[name]()
        elif name in constants:
            stack.append(argument)
        elif name == "GLOBAL":
            look_up(str(argument))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memory[int(argument)] = stack[-1]  # type: ignore[arg-type]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memory[int(argument)])  # type: ignore[arg-type]
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise InputError(f"{path} has an instruction {name}; refused")
    raise ValueError("a program without an end")
