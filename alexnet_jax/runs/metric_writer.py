"""What a run writes while it trains: metrics.jsonl, progress, and TensorBoard."""

import json
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.distributed import consensus
from alexnet_jax.runs import time_spent
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.lines_file import LinesFile
from alexnet_jax.runs.metrics_file import (
    CLASSES_WITHOUT_TOP5,
    METRICS_FILE,
    Kept,
    cut_metrics,
)
from alexnet_jax.runs.time_spent import DATA, LOST, TimeSpent
from alexnet_jax.runs.training_hints import InputWait, LossRise, LossSpikes
from alexnet_jax.runtime import optional, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.training import losses
from alexnet_jax.training.finite import check_loss
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.spikes import LOSS_SPIKE


class MetricWriter:
    """Writes a line of metrics.jsonl for every step and every validation.

    A step's metrics are written when the next step has been started, so that nothing
    waits for the device; `flush` writes what is pending. A context manager, which says
    at the end where the time of the run went (`time`), over all its starts.

    Args:
      workdir: where the files go.
      start: the step that the run continues from. Lines of later steps are cut off.
      validated: whether that step's validation is done; else its line is cut off too.
      plan: of the run.
      classes: how many there are.
      advice: what to do where the devices wait for the data.
      writes: whether anything is written; of several processes one writes.
    """

    def __init__(
        self,
        workdir: Path,
        plan: Plan,
        *,
        start: int,
        classes: int,
        advice: str,
        validated: bool = True,
        writes: bool = True,
    ) -> None:
        path = workdir / METRICS_FILE
        self._workdir = workdir
        self._lines: LinesFile | None = None
        kept = Kept.nothing()
        if writes:
            with writing(path):
                kept = cut_metrics(path, start, keep_validation=validated)
                self._lines = LinesFile(path)
        self._plan = plan
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._last = self._said = time.monotonic()
        self._progress = progress.progress_bar("validating", plan.steps, note=44)
        self._task = self._progress.add_task(
            "compiling", total=plan.steps, completed=start, note=""
        )
        self._classes = classes
        # The first step's time is mostly that of compiling it.
        self._started = self._timed = False
        self.time = TimeSpent()
        self.time.add(LOST, sum(plan.batch_size / r for r in kept.lost_rates if r))
        # Without the first, which was compiled.
        steps = (plan.batch_size / rate for rate in kept.rates[1:] if rate)
        self._step_seconds = array("d", steps)
        # Each process's wait for data; how many accounts of the time were made, and
        # which is in run.json.
        self._waits: list[float] = []
        self._account = self._noted = 0
        self._noting = threading.Lock()
        self._spikes = LossSpikes(kept.losses)
        self._input_wait = InputWait(advice)
        self._loss_rise = LossRise()
        self._board = None
        if writes and optional.is_installed("tensorboardX"):
            board = optional.require("tensorboardX", "TensorBoard")
            folder = str(workdir / "tensorboard")
            # Later steps that are there will be written again.
            self._board = board.SummaryWriter(folder, purge_step=start + 1)

    def __enter__(self) -> "MetricWriter":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if self._lines is not None:
            self._lines.close()
            # What keeps it from being written was reported already.
            with suppress(InputError, Failure):
                self._noting_time()()
                if kind is None and self._timed:
                    starts = workdirs.read_starts(self._workdir)
                    progress.say(time_spent.line(starts))
        if self._board is not None:
            self._board.close()

    def train(self, step: int, metrics: dict[str, jax.Array], waited: float) -> None:
        """Hand in a step just started, and the seconds it waited for its batch.

        Raises:
          Diverged: if the loss of the step before is not finite.
        """
        previous, self._pending = self._pending, (step, metrics, waited)
        # While the step before runs, no device waits for the next batch.
        loss: Any = None if previous is None else previous[1]["loss"]
        if loss is None or loss.is_ready():
            self.time.add(DATA, waited)
        # The first step is compiled before it is started.
        if not self._started:
            self._started = True
            self.time.compiled()
        self._progress.update(self._task, description="training")
        if previous is not None:
            self._write_train(*previous)

    def validates(self) -> None:
        """Show that a validation is under way."""
        self._progress.update(self._task, description="validating")

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Write a validation's loss and errors; the line is on disk on return.

        Raises:
          Diverged: if the loss is not finite.
          Failure: if the disk is full, or the directory has gone.
        """
        check_loss(metrics["loss"], step, ": the validation loss")
        self._write(step, "validation", metrics)
        top5 = f", top-5 error {metrics['top5_error']:.2%}"
        progress.say(
            f"step {step}: validation loss {metrics['loss']:z.4f}, "
            f"top-1 error {metrics['top1_error']:.2%}"
            f"{top5 if self._classes > CLASSES_WITHOUT_TOP5 else ''}"
        )
        self._progress.update(self._task, description="training")
        self.flush()
        self._last = time.monotonic()

    def flush(self) -> None:
        """Write the pending step; then every line is on disk.

        Raises:
          Diverged: if that step's loss is not finite.
          Failure: if the disk is full, or the directory has gone.
        """
        self._write_pending()
        if self._lines is not None:
            self._lines.flush()

    def kept(self) -> Callable[[], None]:
        """Write the pending step. Returns what brings every line so far to the disk,
        and into run.json where the time went: for another thread, before a checkpoint
        counts. To be called by all processes together.

        Raises:
          Diverged: if that step's loss is not finite.
          Failure: if the disk is full, or the directory has gone.
        """
        self._write_pending()
        if self._lines is not None:
            self._lines.write()
        self._waits = consensus.from_all(self.time.seconds()[DATA])
        note_time = self._noting_time()

        def keep() -> None:
            if self._lines is not None:
                self._lines.flush()
            note_time()

        return keep

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._write_train(*pending)

    def _noting_time(self) -> Callable[[], None]:
        """What writes into run.json where the time of this start went so far."""
        if self._lines is None or not self._started:
            return lambda: None
        seconds = self.time.seconds() | time_spent.of_processes(self._waits)
        steps = time_spent.percentiles(self._step_seconds)
        self._account += 1
        number = self._account

        def note() -> None:
            with self._noting:
                # The thread that saves may be later than the end of the run.
                if number > self._noted:
                    self._noted = number
                    workdirs.note_time(self._workdir, seconds, steps)

        return note

    def _write_train(
        self, step: int, metrics: dict[str, jax.Array], waited: float
    ) -> None:
        host = {name: float(v) for name, v in jax.device_get(metrics).items()}
        rate = host["learning_rate"]
        check_loss(host["loss"], step, f", at a learning rate of {rate:g}: the loss")
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        written = {
            **losses.means(host),
            "learning_rate": rate,
            "images_per_second": self._plan.batch_size / seconds,
            "input_wait_fraction": min(1.0, waited / seconds),
        }
        spike = self._spikes.add(step, written["loss"], host.get(LOSS_SPIKE))
        if spike is not None:
            written[LOSS_SPIKE] = spike
        if self._timed:
            self._step_seconds.append(seconds)
        self._write(step, "train", written)
        self._input_wait.add(waited, seconds)
        self._loss_rise.add(step, written["loss"], rate)
        self._show(step, written, seconds)

    def _show(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Move the progress bar; in a pipe, say where the run is now and then."""
        note = (
            f"epoch {step / self._plan.steps_per_epoch:.2f}  "
            f"loss {metrics['loss']:z.3f}  error {metrics['top1_error']:.1%}"
        )
        timed, self._timed = self._timed, True
        if timed:
            rate = metrics["images_per_second"]
            # A bar beside which there is room for little counts images too.
            what = "" if progress.shows_bars() else "images"
            note += f"  {progress.per_second(rate, what)}"
        self._progress.update(self._task, completed=step, note=note)
        quiet = self._last - self._said > progress.SECONDS_BETWEEN_LINES
        if quiet and timed and not progress.shows_bars():
            self._said = self._last
            left = (self._plan.steps - step) * seconds
            progress.say(f"step {step}/{self._plan.steps}  {note}  {left:.0f} s left")

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        epoch = step / self._plan.steps_per_epoch
        line = {"step": step, "epoch": epoch, "split": split, **metrics}
        if self._lines is not None:
            self._lines.add(json.dumps(line, allow_nan=False))
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
