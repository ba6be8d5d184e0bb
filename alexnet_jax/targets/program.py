"""The text of a compiled program, as its computations and their instructions."""

import dataclasses
import re
from collections.abc import Iterator, Mapping


SIZES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
    **dict.fromkeys(("f8e4m3", "f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz"), 1),
}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_OPERATION = re.compile(r"([\w\-]+)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)


def served_layer(path: str) -> str | None:
    """The layer of the network that a path of scopes names, if it names one."""
    found = re.findall(r"/((?:conv|fc|local)\d+)/", path)
    return found[-1] if found else None


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array of a program: its type, sides, and whether it lies in main memory."""

    kind: str
    sides: tuple[int, ...]
    in_main_memory: bool = True

    @property
    def bytes(self) -> int:
        """Its size, without padding."""
        size = SIZES.get(self.kind, 0)
        for side in self.sides:
            size *= side
        return size


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: unique within its computation.
      operation: such as `fusion` or `all-gather-start`.
      arrays: of its result, those of a tuple in order.
      handed: names of instructions of the same computation, as they are handed in.
      called: names of the computations that it runs.
      is_root: whether its result is the computation's.
      text: the whole line.
    """

    name: str
    operation: str
    arrays: tuple[Shape, ...]
    handed: tuple[str, ...]
    called: tuple[str, ...]
    is_root: bool
    text: str

    @property
    def operands(self) -> tuple[str, ...]:
        """Each of `handed` once."""
        return tuple(dict.fromkeys(self.handed))

    @property
    def source(self) -> str:
        """What the program calls it: the path of scopes in the traced function."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def layer(self) -> str | None:
        """The layer of the network that it serves, if its path names one."""
        return served_layer(self.source)


def trip_count(loop: Instruction) -> int:
    """How often a loop runs, where the program says so; else 1."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
    return int(found[1]) if found else 1


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program: computations by name, and the name of the first."""

    computations: Mapping[str, Computation]
    entry: str

    def instructions(self) -> Iterator[Instruction]:
        """All of them, once, whatever runs them."""
        for computation in self.computations.values():
            yield from computation.values()


def read_program(text: str) -> Program:
    """Parse a compiled program (HLO) from its text.

    Raises:
      ValueError: if it has no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        if opened := _COMPUTATION.fullmatch(line):
            current = computations.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
        elif line == "}":
            current = None
        elif current is not None and (found := _INSTRUCTION.fullmatch(line)):
            instruction = _read(found[2], found[3], bool(found[1]), line)
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    return Program(computations, entry)


def _read(name: str, rest: str, is_root: bool, line: str) -> Instruction:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, after = rest[:end], rest[end:].lstrip()
    operation = _OPERATION.match(after)
    assert operation is not None, line
    begin = operation.end() - 1
    inside = after[begin : begin + _closing(after[begin:])]
    attributes = after[begin + len(inside) :]
    called = [
        name.strip(" %")
        for group in _CALLED.findall(attributes)
        for name in group.strip("{}").split(",")
    ]
    return Instruction(
        name=name,
        operation=operation[1],
        arrays=tuple(_shapes(shape)),
        handed=tuple(re.findall(r"%([\w.\-]+)", inside)),
        called=tuple(called),
        is_root=is_root,
        text=line,
    )


def _closing(text: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _shapes(text: str) -> Iterator[Shape]:
    for kind, sides, layout in _ARRAY.findall(text):
        if kind in SIZES:
            main = not re.search(r"S\([1-9]", layout)
            yield Shape(kind, tuple(int(n) for n in sides.split(",") if n), main)
