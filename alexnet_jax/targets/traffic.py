"""Bytes that a compiled program moves to and from main memory.

Every instruction reads its operands and writes its result, once. Counted for less:

- what only names memory: parameters, constants, tuples, bitcasts;
- arrays in the chip's own memory (`S(n)` in a layout);
- an operand of which parts are cut or gathered: the parts, also by a fusion, and by
  what a fusion calls;
- an array that is updated in place: the update;
- an asynchronous operation: once, where it starts.

A loop counts as often as it runs, where the program says how often, else once; of
branches the one that moves most counts. Not counted: what tiles add to an array whose
sides they don't divide, an operand that is read again for each part of a product, and
scratch memory that a library takes. Values that a cache still holds are counted all the
same. So differences of some percent say little.
"""

from collections.abc import Iterator

from alexnet_jax.targets.program import (
    Computation,
    Instruction,
    Program,
    Shape,
    trip_count,
)


FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
NAMES_MEMORY = ("ConcatBitcast", "AllocateBuffer")
# Of their first operand they read a part, as large as the result.
_PARTS = ("slice", "dynamic-slice", "gather")
_UPDATE = "dynamic-update-slice"


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
        once = sum(_of_computation(program, name) for name in which.called)
        return trip_count(which) * once
    if operation == "conditional":
        return max(_of_computation(program, name) for name in which.called)
    if operation in ("call", "async-start"):
        return sum(_of_computation(program, name) for name in which.called)
    if operation == "fusion":
        return _of_fusion(program, which, computation)
    given = [computation[name] for name in which.operands if name in computation]
    if operation.endswith("-start"):
        arrays, operation = _results(which, given), operation.removesuffix("-start")
    else:
        arrays = which.arrays
    if operation == "copy" or operation in _PARTS:
        source, *others = given
        cut = sum(a.bytes for a in arrays) if _main(source.arrays) else 0
        return cut + _main(arrays) + sum(_main(other.arrays) for other in others)
    if operation == _UPDATE:
        target, update, *_ = given
        written = sum(a.bytes for a in update.arrays) if _main(target.arrays) else 0
        return written + _main(update.arrays)
    return _main(arrays) + sum(_main(each.arrays) for each in given)


def _results(which: Instruction, given: list[Instruction]) -> list[Shape]:
    """The results of an asynchronous operation, which also names its operands (before
    them; a copy behind), and what it waits on."""
    arrays = [a for a in which.arrays if a.sides or a.kind not in ("u32", "s32")]
    operands = sum(len(each.arrays) for each in given)
    if which.operation == "copy-start":
        return arrays[:1]
    # An all-reduce names the result alone.
    return arrays[operands:] if len(arrays) > operands else arrays


def _of_fusion(program: Program, which: Instruction, computation: Computation) -> int:
    """A fusion: what it takes of each operand, and what it writes."""
    inside = program.computations[which.called[0]]
    results = list(_fusion_results(inside))
    updates = [_updated(inside, result) for result in results]
    moved = 0
    for place, name in enumerate(which.handed):
        parameter = _parameter(inside, place)
        whole = _main(computation[name].arrays)
        if whole and parameter.name not in updates:
            moved += min(whole, _taken(program, inside, parameter, whole))
    for result, updated, array in zip(results, updates, which.arrays, strict=True):
        if not array.in_main_memory:
            continue
        if updated is None:
            moved += array.bytes
        else:
            update = inside[_behind(inside, result).operands[1]]
            moved += sum(a.bytes for a in update.arrays)
    return moved


def _fusion_results(inside: Computation) -> Iterator[Instruction]:
    """What makes each array that a fusion returns."""
    root = next(i for i in inside.values() if i.is_root)
    if root.operation != "tuple":
        yield root
        return
    for name in root.handed:
        yield inside[name]


def _parameter(inside: Computation, place: int) -> Instruction:
    return next(
        i
        for i in inside.values()
        if i.operation == "parameter" and f"parameter({place})" in i.text
    )


def _behind(inside: Computation, which: Instruction) -> Instruction:
    while which.operation == "bitcast":
        which = inside[which.operands[0]]
    return which


def _updated(inside: Computation, result: Instruction) -> str | None:
    """The parameter that a fusion updates in place, if that is how the result is
    made."""
    result = _behind(inside, result)
    if result.operation != _UPDATE:
        return None
    target = _behind(inside, inside[result.operands[0]])
    return target.name if target.operation == "parameter" else None


def _taken(
    program: Program, inside: Computation, which: Instruction, whole: int
) -> int:
    """Bytes of a parameter that a fusion reads: of the parts, if it only cuts them."""
    taken = 0
    for user in inside.values():
        if which.name not in user.operands:
            continue
        if user.operation == "bitcast":
            taken += _taken(program, inside, user, whole)
        elif user.operation in ("fusion", "call"):
            called = program.computations[user.called[0]]
            for place, name in enumerate(user.handed):
                if name == which.name:
                    parameter = _parameter(called, place)
                    taken += _taken(program, called, parameter, whole)
        elif user.operation in _PARTS and user.operands[0] == which.name:
            taken += sum(array.bytes for array in user.arrays)
        else:
            return whole
    return taken


def _main(arrays: tuple[Shape, ...] | list[Shape]) -> int:
    """Bytes of those arrays that lie in main memory."""
    return sum(array.bytes for array in arrays if array.in_main_memory)
