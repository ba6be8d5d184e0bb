"""C: what do two devices bring, as two towers and as two shares of a batch?

Images a second of the training step on meshes (1, 1), (1, 2) and (2, 1) of data x
tower, at batches of 128 and 1,024; the time of each kernel, those of the exchanges
among them; and a checkpoint of two towers evaluated on one device, and the other way.
`experiments/scaling` says what was expected.

Results are lines of OUT/c.jsonl. What stands there is not measured again. `--dry` runs
all of it in small, on a CPU shown as two devices.
"""

import sys
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

from alexnet_jax.runtime import cli, progress

from commands import command, quick
from pieces import Piece


MESHES = ("1x1", "1x2", "2x1")
COUNT = "import jax; print(len(jax.devices()))"


def times(dry: bool, mesh: str, batch: int) -> object:
    """What `kernel_times.py` says."""
    kind = "xla" if dry else "fused"
    arguments = ("bfloat16", kind, str(batch), f"--mesh={mesh}")
    dry_too = ["--dry"] if dry else []
    return pieces.last_line(pieces.HERE / "kernel_times.py", *arguments, *dry_too)


def elsewhere(dry: bool, output: Path, trained: str, evaluated: str) -> object:
    """The errors of a checkpoint of one mesh, evaluated on it and on another."""
    workdir = output / f"c-run-{trained}"

    def shape(mesh: str) -> list[str]:
        data, tower = mesh.split("x")
        return [f"--config.mesh.data={data}", f"--config.mesh.tower={tower}"]

    command(
        "main",
        "--no-report",
        "--config=quickstart",
        f"--workdir={workdir}",
        "--config.model.dtype=bfloat16",
        *shape(trained),
        *(quick("code2012") if dry else []),
    )
    found = {}
    for mesh in (trained, evaluated):
        arguments = (f"--mesh={mesh}", "--checkpoint=latest")
        result = command("evaluate", f"--workdir={workdir}", *arguments)
        found[mesh] = {key: result[key] for key in ("loss", "top1_error")}
    return found


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces; none on a machine with one device."""
    if not dry and pieces.last_line("-c", COUNT) < 2:
        progress.say("C needs two devices; this machine has one")
        return []
    found = [
        Piece({"mesh": mesh, "batch": batch}, partial(times, dry, mesh, batch), 60)
        for batch in ((8,) if dry else (128, 1024))
        for mesh in (MESHES[1:2] if dry else MESHES)
    ]
    pairs = (("1x2", "1x1"), ("1x1", "1x2"))
    found += [
        Piece(
            {"trained": first, "evaluated": second},
            partial(elsewhere, dry, output, first, second),
            75,
        )
        for first, second in (pairs[:1] if dry else pairs)
    ]
    return found


def main() -> None:
    """The part."""
    pieces.run("c", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
