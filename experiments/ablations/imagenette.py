"""What does each of the paper's ideas add on real images, and of later years' training?

Trains the 2012 code's network and the rows of two tables, each with one thing changed,
on Imagenette (ten classes of ImageNet), with every seed, and evaluates each run's end
with ten crops, and with one.

    python experiments/ablations/imagenette.py --data=PREPARED --output=FOLDER
        [--rows NAME[@RATE] ...] [--table=modern] [--seeds 0 1 2] [--epochs=30]
        [--dtype=bfloat16] [--held_out=0.1] [--minutes=N] [--list]
        [--config.SECTION.KEY=VALUE ...] [--quick]

All in one process on one device, which holds the images. A run is a line of
FOLDER/TABLE.jsonl as soon as it ends, and is not repeated: the same command adds other
rows and seeds. It goes on where it was cut: a run that takes longer than five minutes
or is stopped by a signal is saved in FOLDER/unfinished until it ends. Without `--rows`
and `--table` it trains what is missing of both tables, what is worth most first.
`--list` only says what that is. `--quick` shows that it works.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.selection import SelectedSource
from alexnet_jax.data.sources.holding_out import held_out
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runs.config import plain, section
from alexnet_jax.runs.config_changes import comparable
from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.signals import Interrupts

import arrays
import harness
import many_runs
import resumable
from many_programs import Held, Program, hold, make_program
from outcomes import described, described_together
from rows import (
    BY_VALUE,
    MEMBERS,
    PROTOCOL,
    TABLES,
    WHOLE,
    config_of,
    epochs_of,
    maxima,
    name_of,
    protocol_of,
    table_of,
)


# What distinguishes runs.
IDENTITY = ("row", "seed", "held_out", *PROTOCOL)


def training_part(dataset: Dataset, fraction: float) -> Dataset:
    """A data set whose validation images are a part of the training images of each
    class, chosen by their names; they are not trained on."""
    source = dataset.splits["train"]
    places: dict[int, list[int]] = {}
    for index in range(len(source)):
        places.setdefault(source.label(index), []).append(index)
    chosen: set[int] = set()
    for label, of_class in places.items():
        names = [source.name(index).encode() for index in of_class]
        held = held_out(names, fraction, dataset.class_names[label])
        chosen |= {of_class[place] for place in held}
    kept = [index for index in range(len(source)) if index not in chosen]
    parts = {"train": kept, "validation": sorted(chosen)}
    return dataclasses.replace(
        dataset,
        splits={
            split: SelectedSource(source, np.asarray(indices))
            for split, indices in parts.items()
        },
    )


def compiled(
    rows: Sequence[str], programs: dict[str, Program], on: Held, ahead: int
) -> Iterator[tuple[str, Program]]:
    """Rows and their programs, some of which are compiled while earlier rows run."""
    with ThreadPoolExecutor(max(1, ahead)) as compilers:
        waiting: dict[str, Future[None]] = {}
        for number, row in enumerate(rows):
            for coming in rows[number : number + 1 + ahead]:
                if coming not in waiting:
                    waiting[coming] = compilers.submit(
                        many_runs.compile_program, programs[coming], on
                    )
            waiting[row].result()
            yield row, programs[row]


def open_dataset(given: Any, reading: dict[str, Any]) -> Dataset:
    """The data set that is asked for; `reading` is a config's section `data`."""
    if given.quick:
        dataset = arrays.digits(reading["size"])
    else:
        dataset = pipelines.open_pipeline(**reading).dataset
    return training_part(dataset, given.held_out) if given.held_out else dataset


def missing(given: Any, what: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By row the runs that have no line yet, as the line says what they are; `what` is
    common to all."""
    lines = {table: experiment.kept(path_of(given, table)) for table in TABLES}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in given.rows:
        for seed in given.seeds:
            run = {"row": row, "seed": seed, "epochs": epochs_of(row, given), **what}
            there = ({**line, **protocol_of(line)} for line in lines[table_of(row)])
            if not any(run.items() <= line.items() for line in there):
                found.setdefault(row, []).append(run)
    return found


def path_of(given: Any, table: str) -> Path:
    """The results of a table."""
    return given.output / f"{table}.jsonl"


def measure(given: Any, changes: Sequence[str]) -> dict[str, Any]:
    """Every run of the rows and seeds that has no line yet, while there is time;
    returns what is common to all."""
    begin = time.monotonic()
    configs = {row: config_of(row, given, changes) for row in given.rows}
    reading = section(plain(configs[given.rows[0]]), "data")
    dataset = open_dataset(given, reading)
    what = {
        "set": "digits" if given.quick else dataset.fingerprint[:12],
        "held_out": given.held_out,
        "dtype": given.dtype,
        "maxima": maxima(given.dtype, given.platform),
        "overrides": list(changes),
    }
    runs = missing(given, what)
    for row, of_row in runs.items() if given.list else ():
        progress.say(f"{row}: seeds {', '.join(str(run['seed']) for run in of_row)}")
    if given.list or not runs:
        return what
    pipeline = Pipeline(dataset, **pipelines.reading(reading))
    on = hold(pipeline)
    # Rows of one config, as a network and five of them together, share a program.
    made: dict[str, Program] = {}
    for row in runs:
        if (text := repr(plain(configs[row]))) not in made:
            made[text] = make_program(configs[row], pipeline, on.mesh)
    programs = {row: made[repr(plain(configs[row]))] for row in runs}
    made_by = harness.machine("jax", "jaxlib", "flax", "optax")
    made_by["commit"] = given.commit or made_by["commit"]
    made_by["device"] = on.mesh.devices.flat[0].device_kind
    progress.say(f"{time.monotonic() - begin:.0f} s to the first row")
    with Interrupts() as stops:
        for row, program in compiled(list(runs), programs, on, given.ahead):
            progress.say(f"{row} compiled after {time.monotonic() - begin:.0f} s")
            for run in runs[row]:
                if time.monotonic() - begin > 60 * given.minutes:
                    progress.say("the time is up; the same command goes on from here")
                    return what
                stops.check()
                identity = {**run, "device": made_by["device"]}
                folder = unfinished(given.output, identity, configs[row])
                line = {**run, **trained(program, on, run, folder, stops), **made_by}
                experiment.keep(path_of(given, table_of(row)), line, *IDENTITY)
                shutil.rmtree(folder)
                # Where it holds no other.
                with contextlib.suppress(OSError):
                    folder.parent.rmdir()
                progress.say(
                    f"{row}, seed {run['seed']}: {100 * line['top1_error']:.2f} %, "
                    f"{sum(line['seconds']):.1f} s"
                )
    return what


def trained(
    program: Program, on: Held, run: dict[str, Any], folder: Path, stops: Interrupts
) -> dict[str, Any]:
    """What is kept of a run; of the row of five networks, those of five seeds of their
    own. What is not finished is saved in a folder."""
    row, count = run["row"], MEMBERS.get(name_of(run["row"]), 1)
    seeds = range(count * run["seed"], count * (run["seed"] + 1))
    results = [
        resumable.run(program, on, n, f"{row}, seed {n}", folder / str(n), stops)
        for n in seeds
    ]
    kept = (
        described(results[0])
        if count == 1
        else {"seeds": list(seeds), **described_together(results, on.labels)}
    )
    plan = program.plan
    return {"batch_size": plan.batch_size, "steps": plan.steps, **kept}


def unfinished(output: Path, run: dict[str, Any], config: Any) -> Path:
    """Where a run is saved until it ends."""
    text = json.dumps([run, comparable(plain(config))], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return output / "unfinished" / f"{run['row']}-{run['seed']}-{digest}"


def main() -> None:
    parser = experiment.parser(
        __doc__, runs=False, data="PREPARED", quick="a row, two steps, on digits"
    )
    add = parser.add_argument
    add("--table", choices=tuple(TABLES), help="default: both")
    add("--rows", nargs="+", metavar="NAME[@RATE]", help="of the tables (default: all)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--epochs", type=float, default=30.0)
    add("--dtype", choices=("float32", "bfloat16"), help="bfloat16 on a GPU or TPU")
    add("--held_out", type=float, default=0.0, help="evaluate on this part of training")
    add("--minutes", type=float, default=math.inf, help="after these no run starts")
    add("--ahead", type=int, help="rows compiled in advance: 2 on a GPU, else none")
    add("--list", action="store_true", help="say what is missing, and train nothing")
    add("--commit", help="where this is no git checkout")
    given, changes = parser.parse_known_args()
    if wrong := [text for text in changes if not text.startswith("--config.")]:
        parser.error(f"unknown {' '.join(wrong)}")
    if given.data is None and not given.quick:
        parser.error("give --data=PREPARED, or --quick")
    # Every table needs what its rows are compared with.
    chosen = [
        row for row in BY_VALUE if row == WHOLE or given.table in (None, table_of(row))
    ]
    given.rows = given.rows or chosen
    if given.quick:
        given.rows, given.seeds = given.rows[:2], given.seeds[:1]
    given.platform = meshes.one_device().devices.flat[0].platform
    accelerated = given.platform != "cpu"
    given.dtype = given.dtype or ("bfloat16" if accelerated else "float32")
    if given.ahead is None:
        given.ahead = 2 if accelerated else 0
    with contextlib.ExitStack() as stack:
        if not given.list:
            given.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(given.output, f"{given.output} is in use"))
        what = measure(given, changes)
    errors: dict[str, list[float]] = {}
    for table in TABLES:
        for line in experiment.kept(path_of(given, table)):
            alike = {**what, "epochs": epochs_of(line["row"], given)}
            if alike.items() <= {**line, **protocol_of(line)}.items():
                errors.setdefault(line["row"], []).append(line["top1_error"])
    progress.print_result({"experiment": "ablations/imagenette", "top1_error": errors})


if __name__ == "__main__":
    cli.run_command(main)
