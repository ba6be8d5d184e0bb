"""The time of each kernel of a training step, by layer, from JAX's profiler.

python experiments/accelerator/kernel_times.py DTYPE IMPLEMENTATION BATCH
    [--preset=NAME] [--mesh=DATAxTOWER] [--dry]
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces  # noqa: F401


# isort: split

import jax
from jax.profiler import ProfileData

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runtime import cli
from alexnet_jax.targets.program import read_program

import network


STEPS, ROUNDS = 20, 7


def events(folder: str) -> list[tuple[str, str, float]]:
    """Kernels that a trace has: name, instruction of the program, milliseconds."""
    found = []
    for file in Path(folder).rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            # A GPU's streams; on a CPU the threads that run programs.
            on_device = plane.name.startswith("/device:")
            for line in plane.lines:
                name = line.name or ""
                if on_device and not name.startswith("Stream"):
                    continue
                if not on_device and "PjRtCpu" not in name:
                    continue
                for event in line.events:
                    stats = {key: value for key, value in event.stats if key}
                    operation = str(stats.get("hlo_op", ""))
                    if on_device or operation:
                        found.append((event.name, operation, event.duration_ns / 1e6))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dtype")
    parser.add_argument("implementation")
    parser.add_argument("batch", type=int)
    parser.add_argument("--preset", default="code2012")
    parser.add_argument("--mesh", type=cli.mesh_shape, default=(1, 1))
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    data, tower = given.mesh
    count = data * tower if given.dry else None
    mesh = meshes.open_mesh(towers=2, data=data, tower=tower, virtual_cpu_devices=count)
    steps = network.steps(
        given.dry,
        given.dtype,
        given.implementation,
        given.batch,
        mesh,
        preset=given.preset,
    )
    repeats, rounds = (2, 1) if given.dry else (STEPS, ROUNDS)
    state, metrics = steps.next(steps.start(0))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                state, metrics = steps.next(state)
            jax.block_until_ready((state, metrics))
        seen = events(folder)
    rates = steps.rates(state, rounds, repeats)
    program = read_program(steps.text)
    known = {each.name: each for each in program.instructions()}
    total: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for kernel, operation, milliseconds in seen:
        instruction = known.get(operation)
        layer = instruction.layer if instruction else None
        source = instruction.source if instruction else ""
        short = re.sub(r"^jit\(\w+\)/", "", source)
        total[layer or "", kernel[:120], short[-120:]].append(milliseconds)
    rows = [
        {
            "layer": layer,
            "kernel": kernel,
            "source": source,
            "calls": len(times) / repeats,
            "milliseconds": round(sum(times) / repeats, 4),
        }
        for (layer, kernel, source), times in total.items()
    ]
    rows.sort(key=lambda row: -row["milliseconds"])
    result = {
        "images_per_second": statistics.median(rates),
        "rounds": rates,
        "temporary_bytes": steps.temporary_bytes,
        "kernels": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
