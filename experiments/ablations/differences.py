"""By how much each row of `imagenette.py` is worse than the whole network, with
intervals, from the raw results of its runs.

    python experiments/ablations/differences.py --output=FOLDER

Reads FOLDER/imagenette.jsonl, and modern.jsonl where it is there, and writes a table
for each protocol (`rows.PROTOCOL`) beside them, and a figure of all. A
difference is that of runs of one seed and one protocol on the same images. Its 95 %
interval is a bootstrap's over images and over seeds, both drawn with replacement
10,000 times.
"""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np
from jaxtyping import Bool, Float

from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime.errors import InputError

from published import PUBLISHED
from rows import LONGER, WHOLE, name_of, protocol_of, table_of


FILES = ("imagenette", "modern")
LATER = FILES[1]
DRAWS = 10_000
# A network that answers at random errs on nine in ten of ten classes; above this one a
# run has not learned.
LEARNED = 0.8

Lines = Sequence[dict[str, Any]]


def correct(line: dict[str, Any], key: str = "correct") -> Bool[np.ndarray, "examples"]:
    """Of each validation image, whether a run gets it right."""
    packed = np.frombuffer(base64.b64decode(line[key]), np.uint8)
    return np.unpackbits(packed, count=line["examples"]).astype(bool)


def interval(
    worse: Float[np.ndarray, "seeds examples"], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean of differences by seed and image."""
    rng = np.random.default_rng(seed)
    # Images with the same differences are counted as one kind: there are few.
    kinds, counts = np.unique(worse, axis=1, return_counts=True)
    seeds, examples = worse.shape
    images = rng.multinomial(examples, counts / examples, DRAWS) / examples
    runs = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    means = ((images @ kinds.T) * runs).sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def base_of(row: str, rows: Sequence[str]) -> str:
    """What a row is compared with: the whole network, at the row's rate, and over as
    many epochs."""
    base = "long" if name_of(row) == "modern_long" else WHOLE
    of_rate = base + row.removeprefix(name_of(row))
    return of_rate if of_rate in rows else base


def tables(lines: Lines) -> list[dict[str, Any]]:
    """A protocol's values and its rows, in the order of their first lines.

    Rows that are trained for longer stand in every table that agrees in the rest, and
    where there is none, in their own.
    """
    found: list[dict[str, Any]] = []
    for line in sorted(lines, key=lambda line: name_of(line["row"]) in LONGER):
        protocol = protocol_of(line)
        if not any(_is_of(line, other) for other in found):
            found.append(protocol)
    return [
        {**protocol, "rows": table([line for line in lines if _is_of(line, protocol)])}
        for protocol in found
    ]


def _is_of(line: dict[str, Any], protocol: dict[str, Any]) -> bool:
    own = {"epochs"} if name_of(line["row"]) in LONGER else set()
    ours = protocol_of(line)
    return all(ours[name] == protocol[name] for name in protocol.keys() - own)


def table(lines: Lines) -> dict[str, dict[str, Any]]:
    """A row's errors, and by how many points it is worse than its base."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault(line["row"], {})[line["seed"]] = line
    rows = {}
    for row, by_seed in runs.items():
        errors = [line["top1_error"] for line in by_seed.values()]
        one = [line["top1_error_one_crop"] for line in by_seed.values()]
        base = base_of(row, list(runs))
        rows[row] = {
            "seeds": len(by_seed),
            "epochs": next(iter(by_seed.values()))["epochs"],
            "top1_error": round(100 * float(np.mean(errors)), 3),
            "top1_error_each": [round(100 * error, 3) for error in errors],
            "top1_error_one_crop": round(100 * float(np.mean(one)), 3),
            "learned": sum(error < LEARNED for error in errors),
            "hours": round(sum(line["hours"] for line in by_seed.values()), 4),
            "ten_crops": _ten_crops(by_seed),
            "base": base,
            **_difference(by_seed, runs.get(base, {})),
            "published": PUBLISHED.get(name_of(row)),
        }
    return rows


def _ten_crops(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """By how many points ten crops are better than one."""
    gain = np.stack(
        [
            100.0 * correct(line) - 100.0 * correct(line, "correct_one_crop")
            for line in by_seed.values()
        ]
    )
    ends = [round(end, 3) for end in interval(gain)]
    return {"better_by": round(float(gain.mean()), 3), "interval": ends}


def _difference(
    of_row: dict[int, dict[str, Any]], of_base: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """By how much a row is worse than its base, over the seeds that both have."""
    seeds = sorted(of_row.keys() & of_base.keys())
    if not seeds or of_row is of_base:
        return {"worse_by": None, "interval": None, "worse_by_each": []}
    worse = np.stack(
        [100.0 * (correct(of_base[s]) & ~correct(of_row[s])) for s in seeds]
    ) - np.stack([100.0 * (correct(of_row[s]) & ~correct(of_base[s])) for s in seeds])
    return {
        "worse_by": round(float(worse.mean()), 3),
        "interval": [round(end, 3) for end in interval(worse)],
        "worse_by_each": [round(float(mean), 3) for mean in worse.mean(axis=1)],
    }


def draw(made: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each protocol that has differences: the measured ones with their
    intervals, and the published ones; below a line the recipes of later years."""
    from matplotlib import pyplot

    panels = [(one, shown) for one in made if (shown := _shown(one["rows"]))]
    heights = [0.9 + 0.42 * len(shown) for _, shown in panels]
    figure, all_axes = pyplot.subplots(
        max(1, len(panels)),
        figsize=(7, sum(heights) or 1),
        height_ratios=heights or None,
        squeeze=False,
        layout="constrained",
    )
    for axes, (of_protocol, shown) in zip(all_axes[:, 0], panels, strict=False):
        axes.set_title(_title(of_protocol), loc="left", size=10)
        _draw_rows(axes, shown)
    all_axes[-1, 0].set_xlabel(
        "points of top-1 error worse than the whole network, ten crops"
    )
    marks = dict[str, Any]()
    for axes in all_axes[:, 0]:
        handles, labels = axes.get_legend_handles_labels()
        marks.update(zip(labels, handles, strict=True))
    figure.legend(marks.values(), marks.keys(), loc="outside upper center")
    figure.savefig(path)
    pyplot.close(figure)


def _shown(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows with a difference; one that has not learned would be far outside."""
    return {
        name: row
        for name, row in rows.items()
        if row["worse_by"] is not None and row["learned"] == row["seeds"]
    }


def _title(protocol: dict[str, Any]) -> str:
    parts = [f"{protocol['epochs']:g} epochs", protocol["dtype"]]
    if protocol["dtype"] != "float32":
        parts.append(f"gradient of {protocol['maxima']} equal maximum")
    return ", ".join([*parts, f"set {protocol['set']}", *protocol["overrides"]])


def _draw_rows(axes: Any, rows: dict[str, dict[str, Any]]) -> None:
    shown = sorted(rows.items(), key=lambda named: table_of(named[0]) == LATER)
    places = np.arange(len(shown))[::-1]
    means = np.array([row["worse_by"] for _, row in shown])
    ends = np.array([row["interval"] for _, row in shown])
    axes.errorbar(
        means,
        places,
        xerr=np.abs(ends - means[:, None]).T,
        fmt="o",
        color="black",
        capsize=3,
        label="Imagenette, 99 pixels: measured, 95 % interval",
    )
    published = [
        (place, row["published"][of][0])
        for place, (_, row) in zip(places, shown, strict=True)
        for of in ("paper", "logs")
        if isinstance((row["published"] or {}).get(of), list | tuple)
    ]
    if published:
        axes.plot(
            [points for _, points in published],
            [place for place, _ in published],
            "D",
            mfc="none",
            color="tab:red",
            label="ImageNet: published",
        )
    axes.axvline(0, color="grey", linewidth=0.8)
    later = sum(table_of(name) == LATER for name, _ in shown)
    if 0 < later < len(shown):
        axes.axhline(later - 0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [_labelled(name, row["seeds"]) for name, row in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)


def _labelled(name: str, seeds: int) -> str:
    """A row's name; with fewer than three seeds also how many."""
    return name if seeds >= 3 else f"{name} ({progress.counting(seeds, 'seed')})"


def main() -> None:
    parser = cli.Parser(description=__doc__, prog=f"python {sys.argv[0]}")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    lines = [
        line
        for name in FILES
        for line in experiment.kept(given.output / f"{name}.jsonl")
        if not line["held_out"]
    ]
    if not lines:
        raise InputError(f"no results in {given.output}; imagenette.py makes them")
    made = tables(lines)
    done = {"experiment": "ablations/differences", "draws": DRAWS, "tables": made}
    text = json.dumps(done, indent=2) + "\n"
    atomic.replace(given.output / "differences.json", text)
    draw(made, given.output / "differences.svg")
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
