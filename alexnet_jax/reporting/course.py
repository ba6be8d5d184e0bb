"""The parts of a report about the course of a run: where its time went, and spikes of
its loss."""

from collections.abc import Mapping, Sequence

from alexnet_jax.reporting.html import Numbers, Section, Table
from alexnet_jax.runs import time_spent
from alexnet_jax.runs.metrics_file import Spike
from alexnet_jax.runtime.progress import counting


MOST_SPIKES = 20


def time(starts: Sequence[Mapping[str, object]]) -> list[Section]:
    """Where the time of a run went, over all its starts; none where none noted it."""
    seconds = time_spent.total(starts)
    if not seconds:
        return []
    whole = sum(seconds.values()) or 1.0
    rows = [
        (kind, time_spent.shown(spent), f"{spent / whole:.0%}")
        for kind, spent in seconds.items()
    ]
    steps = [
        (f"a step, {name}", time_spent.shown(took))
        for name, took in time_spent.latest_percentiles(starts).items()
    ]
    shown = [Table(("what", "time", "share"), rows, numbers=2), Numbers(steps)]
    text = f"Of {counting(len(starts), 'start')}, by the clock of process 0."
    if late := time_spent.slowest(starts):
        text += f" {late[0].upper()}{late[1:]}."
    return [Section("Time", shown if steps else shown[:1], text)]


def spikes(found: Sequence[Spike]) -> list[Section]:
    """The steps whose loss was far above that of the steps before; none without any."""
    rows = [
        (str(spike.step), f"{spike.loss:.3g}", f"{spike.factor:.1f}")
        for spike in found[:MOST_SPIKES]
    ]
    table = Table(("step", "loss", "times the median before"), rows, numbers=3)
    more = (
        f" The first {MOST_SPIKES} of {len(found):,}." if len(found) > len(rows) else ""
    )
    text = f"Training losses far above those of the steps before.{more}"
    return [Section("Loss spikes", [table], text)] if rows else []
