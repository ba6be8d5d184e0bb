"""What a run writes while it trains: metrics.jsonl, progress, and TensorBoard."""

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jax

from alexnet_jax.runs.metrics_file import METRICS_FILE, cut_metrics
from alexnet_jax.runtime import optional, progress
from alexnet_jax.runtime.atomic import cannot_write, writing
from alexnet_jax.runtime.errors import Failure
from alexnet_jax.training import losses
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.step import check_loss


# Steps before the wait for data means anything, and over which it is averaged.
STEPS_OF_THE_START = 10
STEPS_BEFORE_A_HINT = 100
INPUT_WAIT_WORTH_A_HINT = 0.1


class MetricWriter:
    """Writes a line of metrics.jsonl for every step and every validation.

    A step's metrics are written when the next step has been started, so that nothing
    waits for the device; `flush` writes what is pending. A context manager.

    Args:
      workdir: where the files go.
      start: the step that the run continues from. Lines of later steps are cut off.
      validated: whether that step's validation is done; else its line is cut off too.
      plan: of the run.
      writes: whether anything is written; of several processes one writes.
    """

    def __init__(
        self,
        workdir: Path,
        plan: Plan,
        *,
        start: int,
        validated: bool = True,
        writes: bool = True,
    ) -> None:
        self._path = workdir / METRICS_FILE if writes else Path(os.devnull)
        with writing(self._path):
            if writes:
                cut_metrics(self._path, start, keep_validation=validated)
            self._file = self._path.open("a", encoding="utf-8")
        self._plan = plan
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._last = self._said = time.monotonic()
        self._progress = progress.progress_bar()
        self._task = self._progress.add_task(
            "training", total=plan.steps, completed=start, note=""
        )
        self._input_wait = _InputWait()
        self._board = None
        if writes and optional.is_installed("tensorboardX"):
            board = optional.require("tensorboardX", "TensorBoard")
            folder = str(workdir / "tensorboard")
            # Later steps that are there will be written again.
            self._board = board.SummaryWriter(folder, purge_step=start + 1)

    def __enter__(self) -> "MetricWriter":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        # A full disk was reported already; what is pending is lost with it.
        with suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()

    def train(self, step: int, metrics: dict[str, jax.Array], waited: float) -> None:
        """Hand in a step just started, and the seconds it waited for its batch.

        Raises:
          Diverged: if the loss of the step before is not finite.
        """
        previous, self._pending = self._pending, (step, metrics, waited)
        if previous is not None:
            self._write_train(*previous)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Write a validation's loss and errors; the line is on disk on return.

        Raises:
          Diverged: if the loss is not finite.
          Failure: if the disk is full, or the directory has gone.
        """
        check_loss(metrics["loss"], f"step {step}: the validation loss")
        self._write(step, "validation", metrics)
        progress.say(
            f"step {step}: validation loss {metrics['loss']:.4f}, "
            f"top-1 error {metrics['top1_error']:.2%}, "
            f"top-5 error {metrics['top5_error']:.2%}"
        )
        self.flush()
        self._last = time.monotonic()

    def flush(self) -> None:
        """Write the pending step; then every line is on disk.

        Raises:
          Diverged: if that step's loss is not finite.
          Failure: if the disk is full, or the directory has gone.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._write_train(*pending)
        with writing(self._path):
            self._file.flush()
            if self._path == Path(os.devnull):
                return
            os.fsync(self._file.fileno())
            # A file that was removed can be written to without any error.
            if not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                raise Failure(cannot_write(self._path, "another file lies there"))

    def _write_train(
        self, step: int, metrics: dict[str, jax.Array], waited: float
    ) -> None:
        host = {name: float(value) for name, value in metrics.items()}
        rate = host["learning_rate"]
        check_loss(
            host["loss"], f"step {step}, at a learning rate of {rate:g}: the loss"
        )
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        written = {
            **losses.means(host),
            "learning_rate": rate,
            "images_per_second": self._plan.batch_size / seconds,
            "input_wait_fraction": min(1.0, waited / seconds),
        }
        self._write(step, "train", written)
        self._input_wait.add(waited, seconds)
        self._show(step, written, seconds)

    def _show(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Move the progress bar; in a pipe, say where the run is now and then."""
        note = (
            f"epoch {step / self._plan.steps_per_epoch:.2f}  "
            f"loss {metrics['loss']:.3f}  error {metrics['top1_error']:.1%}  "
            f"{metrics['images_per_second']:.0f} images/s"
        )
        self._progress.update(self._task, completed=step, note=note)
        quiet = self._last - self._said > progress.SECONDS_BETWEEN_LINES
        if quiet and not progress.console.is_terminal:
            self._said = self._last
            left = (self._plan.steps - step) * seconds
            progress.say(f"step {step}/{self._plan.steps}  {note}  {left:.0f} s left")

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        epoch = step / self._plan.steps_per_epoch
        line = {"step": step, "epoch": epoch, "split": split, **metrics}
        with writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)


class _InputWait:
    """Says once if the devices wait for the data."""

    def __init__(self) -> None:
        self._waits: deque[tuple[float, float]] = deque(maxlen=STEPS_BEFORE_A_HINT)
        self._steps = 0
        self._hinted = False

    def add(self, waited: float, seconds: float) -> None:
        """Count a step that took so long, so much of it waiting."""
        self._steps += 1
        if self._steps > STEPS_OF_THE_START:
            self._waits.append((waited, seconds))
        if self._hinted or len(self._waits) < STEPS_BEFORE_A_HINT:
            return
        total = sum(seconds for _, seconds in self._waits)
        fraction = sum(waited for waited, _ in self._waits) / total
        if fraction > INPUT_WAIT_WORTH_A_HINT:
            self._hinted = True
            progress.say(
                f"hint: {fraction:.0%} of the time is spent waiting for the data; "
                "prepare them with `python -m alexnet_jax.prepare`, with "
                "--encoding=raw if they are, or use a machine with more cores"
            )
