"""What do the steps need on devices that are not there, and where do they exchange?

    python experiments/targets/run.py --output=FOLDER [--targets v5e h100 ...] [--quick]

It needs the plugin of what it compiles for (`alexnet_jax/targets/README.md`), libtpu
for a TPU and CUDA's for a GPU. A program for a TPU takes minutes on two quiet cores,
one for a GPU seconds, one process at a time; what the folder has is not compiled again.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.errors import Failure
from alexnet_jax.targets.catalogue import named
from alexnet_jax.targets.chips import Chip

import harness


# Target, config with its overrides, type, mesh and batch; of each target, what is asked
# most comes first. Nothing of a batch that does not fit runs: `compile` names one that
# does.
FUSED = "imagenet --config.model.implementation=fused"
PROGRAMS = [
    ("v5e", "imagenet", "bfloat16", "1x1", 128),
    ("v5e", "imagenet", "bfloat16", "1x2", 128),
    ("v5e", "imagenet:caffe", "bfloat16", "1x2", 128),
    ("v5e", "imagenet:conv6", "bfloat16", "1x2", 128),
    ("v5e", "imagenet:no_exchange", "bfloat16", "1x2", 128),
    ("v5e", "imagenet", "bfloat16", "2x2", 128),
    ("v5e", "imagenet", "float32", "1x1", 128),
    ("v5e", "imagenet", "bfloat16", "1x1", 1024),
    ("v6e", "imagenet", "bfloat16", "1x1", 128),
    ("v6e", "imagenet", "bfloat16", "2x2", 128),
    ("h100", "imagenet", "bfloat16", "1x1", 1024),
    ("h100", FUSED, "bfloat16", "1x1", 1024),
    ("h100", "cifar10:four_layers", "float32", "1x1", 1_048_576),
    ("a100", "cifar10:four_layers", "float32", "1x1", 1_048_576),
    ("l4", "cifar10:four_layers", "float32", "1x1", 262_144),
    ("t4", "cifar10:four_layers", "float32", "1x1", 262_144),
]
QUICK = [("v5e", "quickstart", "bfloat16", "1x1", 32)]
KEYS = ("target", "config", "dtype", "mesh", "batch_size")


def plugin(target: str) -> str:
    """The package that compiles for a target."""
    return "libtpu" if isinstance(named(target), Chip) else "jax-cuda12-plugin"


def compiled(
    target: str, config: str, dtype: str, mesh: str, batch: int
) -> dict[str, Any]:
    """What `compile` says of one program, and how long it took."""
    begin = time.monotonic()
    name, *overrides = config.split()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "alexnet_jax.compile"),
            *(f"--config={name}", *overrides, f"--config.model.dtype={dtype}"),
            f"--target={target}",
            *(f"--mesh={mesh}", f"--batch_size={batch}"),
        ],
        cwd=experiment.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if not done.stdout:
        raise Failure(f"`compile --target={target} --config={config}` gave no result")
    result = json.loads(done.stdout.splitlines()[-1])
    seconds = round(time.monotonic() - begin)
    return {"config": config, **result, "seconds": seconds}


def row(result: dict[str, Any]) -> str:
    """A line of the README's table."""
    cells = [str(result[key]) for key in KEYS]
    cells.append("yes" if result["fits"] else "no")
    for step in ("train", "evaluation"):
        said = result[step]
        cycles = said["estimated_cycles"]
        cells += [
            f"{said['memory_gb']['total']}",
            f"{said['traffic_mb_per_image']}",
            "" if cycles is None else f"{cycles / 1e6:.1f}",
        ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = experiment.parser(
        __doc__, runs=False, quick="one small program, to show that it works"
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=list(dict.fromkeys(program[0] for program in PROGRAMS)),
        default=["v5e", "v6e"],
        help="what to compile for; v5e and v6e by default",
    )
    arguments = parser.parse_args()
    path = arguments.output / "targets.jsonl"
    results = experiment.kept(path)
    wanted = [program for program in PROGRAMS if program[0] in arguments.targets]
    for program in QUICK if arguments.quick else wanted:
        name = dict(zip(KEYS, program, strict=True))
        if any(name.items() <= result.items() for result in results):
            continue
        progress.say(" ".join(map(str, program)))
        result = {**compiled(*program), **harness.machine("jax", plugin(program[0]))}
        results = experiment.keep(path, result, *KEYS)
    for result in results:
        progress.say(row(result))
    progress.print_result({"experiment": "targets", "programs": len(results)})


if __name__ == "__main__":
    cli.run_command(main)
