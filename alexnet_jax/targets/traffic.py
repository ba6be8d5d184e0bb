"""Bytes that a compiled program moves to and from main memory.

Every instruction reads its operands and writes its result, once. Counted for less:

- what only names memory: parameters, constants, tuples, bitcasts;
- arrays in the chip's own memory (`S(n)` in a layout);
- an operand of which a fusion cuts parts: the parts;
- an array that is updated in place: the update;
- an asynchronous operation: once, where it starts.

A loop counts as often as it runs, where the program says how often, else once; of
branches the one that moves most counts. Values that a cache still holds are counted all
the same, and scratch memory that a library takes is not: so differences of some percent
say little.
"""

import re

from alexnet_jax.targets.program import Computation, Instruction, Program


FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
NAMES_MEMORY = ("ConcatBitcast", "AllocateBuffer")
_CUT = ("slice", "dynamic-slice")


def traffic(program: Program) -> int:
    """Bytes of one run of the program, on one device."""
    return _of_computation(program, program.entry)


def _of_computation(program: Program, name: str) -> int:
    computation = program.computations[name]
    return sum(_moved(program, computation, i) for i in computation.values())


def _moved(program: Program, computation: Computation, which: Instruction) -> int:
    operation = which.operation
    if operation in FREE or operation.endswith(("-done", "-update")):
        return 0
    if any(name in which.text for name in NAMES_MEMORY):
        return 0
    if operation == "while":
        (trips,) = re.findall(r'"known_trip_count":\{"n":"(\d+)"', which.text) or [1]
        return int(trips) * sum(_of_computation(program, n) for n in which.called)
    if operation == "conditional":
        return max(_of_computation(program, name) for name in which.called)
    if operation in ("call", "async-start"):
        return sum(_of_computation(program, name) for name in which.called)
    if operation == "fusion":
        return _of_fusion(program.computations[which.called[0]], which, computation)
    if operation in _CUT:
        return 2 * _main(which) if _operands(which, computation)[0] else _main(which)
    if operation == "dynamic-update-slice":
        _, update, *_ = which.operands
        return 2 * _main(computation[update])
    operands = _operands(which, computation)
    if operation.endswith("-start"):
        return _of_start(which, operands)
    return _main(which) + sum(operands)


def _of_start(which: Instruction, operands: list[int]) -> int:
    """An asynchronous copy or exchange, whose result names its operands as well."""
    if which.operation == "copy-start":
        target, source, *_ = which.arrays
        return target.bytes * (target.in_main_memory + source.in_main_memory)
    read = sum(operands)
    written = _main(which)
    # An all-reduce names the result alone.
    return written if len(which.arrays) > len(operands) else read + written


def _of_fusion(
    inside: Computation, which: Instruction, computation: Computation
) -> int:
    """A fusion: what it takes of each operand, and what it writes."""
    parameters = {
        int(re.findall(r"parameter\((\d+)\)", i.text)[0]): i
        for i in inside.values()
        if i.operation == "parameter"
    }
    root = next(i for i in inside.values() if i.is_root)
    updated = _updated(inside, root)
    # Operands stand once in `operands`, and in the text as often as they are handed in.
    moved = 0
    for place, name in enumerate(_handed(which)):
        whole = _main(computation[name])
        if whole and parameters[place].name != updated:
            moved += min(whole, _taken(inside, parameters[place], whole))
    if updated is not None:
        _, update, *_ = _behind(inside, root).operands
        return moved + sum(shape.bytes for shape in inside[update].arrays)
    return moved + _main(which)


def _handed(which: Instruction) -> list[str]:
    inside = which.text.split(" fusion(", 1)[1].split(")", 1)[0]
    return re.findall(r"%([\w.\-]+)", inside)


def _behind(inside: Computation, which: Instruction) -> Instruction:
    while which.operation == "bitcast":
        which = inside[which.operands[0]]
    return which


def _updated(inside: Computation, root: Instruction) -> str | None:
    """The parameter that a fusion updates in place, if that is what it does."""
    root = _behind(inside, root)
    if root.operation != "dynamic-update-slice":
        return None
    target = _behind(inside, inside[root.operands[0]])
    return target.name if target.operation == "parameter" else None


def _taken(inside: Computation, which: Instruction, whole: int) -> int:
    """Bytes of a parameter that a fusion reads: of the parts, if it only cuts them."""
    taken = 0
    for user in inside.values():
        if which.name not in user.operands:
            continue
        if user.operation == "bitcast":
            taken += _taken(inside, user, whole)
        elif user.operation in _CUT and user.operands[0] == which.name:
            taken += sum(shape.bytes for shape in user.arrays)
        else:
            return whole
    return taken


def _main(which: Instruction) -> int:
    """Bytes of a result that lie in main memory."""
    return sum(shape.bytes for shape in which.arrays if shape.in_main_memory)


def _operands(which: Instruction, computation: Computation) -> list[int]:
    return [_main(computation[name]) for name in which.operands if name in computation]
