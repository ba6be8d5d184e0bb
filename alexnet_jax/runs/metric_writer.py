"""A run's progress, metrics.jsonl, and TensorBoard where it is installed."""

import json
import math
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import Diverged, Failure, InputError, first_line
from alexnet_jax.runtime.atomic import cannot_write, writing
from alexnet_jax.runtime.optional import is_installed, require
from alexnet_jax.training import losses


METRICS_FILE = "metrics.jsonl"
CLOCK_FIELDS = ("images_per_second", "input_wait_fraction")
DIVERGED = (
    "nothing of it is saved, and the latest checkpoint is whole; try a lower "
    "config.schedule.learning_rate in another --workdir"
)
STEPS_OF_THE_START = 10
STEPS_BEFORE_A_HINT = 100
INPUT_WAIT_WORTH_A_HINT = 0.1


class Report:
    """What a run tells: a line of metrics.jsonl for every step and every validation.

    A training step's metrics are written when the next step has been started, so that
    nothing waits for the device; `flush` writes what is pending.

    Args:
      workdir: where the files go.
      start: the step from which the run goes on. Lines of later steps, and where
        `revalidate` is set the validation of this one, are cut off.
      steps: how many steps the run has in all.
      steps_per_epoch: to tell the epoch.
      batch_size: pictures in a step.
      writes: whether anything is written; of several processes one writes.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        steps: int,
        steps_per_epoch: float,
        batch_size: int,
        revalidate: bool = False,
        writes: bool = True,
    ) -> None:
        self._path = workdir / METRICS_FILE if writes else Path(os.devnull)
        with writing(self._path):
            if writes:
                cut_metrics(self._path, start, keep_validation=not revalidate)
            self._file = self._path.open("a", encoding="utf-8")
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._last = self._said = time.monotonic()
        self._steps = steps
        self._progress = progress.progress_bar()
        self._task = self._progress.add_task(
            "training", total=steps, completed=start, note=""
        )
        self._waits: deque[tuple[float, float]] = deque(maxlen=STEPS_BEFORE_A_HINT)
        self._hinted = False
        self._told = 0
        self._board: Any = None
        if writes and is_installed("tensorboardX"):
            board = require("tensorboardX", "the TensorBoard log")
            folder = str(workdir / "tensorboard")
            # What is there of later steps will be written again.
            self._board = board.SummaryWriter(folder, purge_step=start + 1)

    def __enter__(self) -> "Report":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        # Where the disk is full that was said already, and what is pending is lost.
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
        """Write a validation's losses and errors.

        Raises:
          Diverged: if the loss is not finite.
        """
        _check_finite(metrics["loss"], f"step {step}: the validation loss")
        self._write({**self._place(step, "validation"), **metrics})
        progress.say(
            f"step {step}: validation loss {metrics['loss']:.4f}, "
            f"top-1 error {metrics['top1_error']:.2%}, "
            f"top-5 error {metrics['top5_error']:.2%}"
        )
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

    def _place(self, step: int, split: str) -> dict[str, Any]:
        return {"step": step, "epoch": step / self._steps_per_epoch, "split": split}

    def _write_train(
        self, step: int, metrics: dict[str, jax.Array], waited: float
    ) -> None:
        host = {name: float(value) for name, value in metrics.items()}
        rate = host["learning_rate"]
        _check_finite(
            host["loss"], f"step {step}, at a learning rate of {rate:g}: the loss"
        )
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        line = {
            **self._place(step, "train"),
            **losses.means(host),
            "learning_rate": host["learning_rate"],
            "images_per_second": self._batch_size / seconds,
            "input_wait_fraction": min(1.0, waited / seconds),
        }
        self._write(line)
        self._watch_input(waited, seconds)
        note = (
            f"epoch {line['epoch']:.2f}  loss {line['loss']:.3f}  "
            f"error {line['top1_error']:.1%}  {line['images_per_second']:.0f} images/s"
        )
        self._progress.update(self._task, completed=step, note=note)
        if (
            not progress.console.is_terminal
            and now - self._said > progress.SECONDS_BETWEEN_LINES
        ):
            self._said = now
            left = (self._steps - step) * seconds
            progress.say(f"step {step}/{self._steps}  {note}  {left:.0f} s left")

    def _watch_input(self, waited: float, seconds: float) -> None:
        """Say once if the devices wait for the data; the first steps don't count."""
        self._told += 1
        if self._told > STEPS_OF_THE_START:
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

    def _write(self, line: dict[str, Any]) -> None:
        with writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, float) and name != "epoch":
                    tag = f"{line['split']}/{name}"
                    self._board.add_scalar(tag, value, line["step"])


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"{what} is {loss}; {DIVERGED}")


def last_validation(workdir: Path) -> dict[str, float]:
    """Loss and errors of a run's last validation; empty where none is written down."""
    path = workdir / METRICS_FILE
    for text in reversed(path.read_text().splitlines() if path.exists() else []):
        line = json.loads(text)
        if line["split"] == "validation":
            return {name: line[name] for name in ("loss", "top1_error", "top5_error")}
    return {}


def cut_metrics(path: Path, step: int, *, keep_validation: bool = True) -> None:
    """Cut metrics.jsonl back to a step, and off a line that was not finished.

    Args:
      path: the file; nothing happens where there is none.
      step: the last step whose lines stay.
      keep_validation: whether that step's validation stays too.

    Raises:
      InputError: if a line before the last is damaged.
    """
    if not path.exists():
        return
    kept = []
    lines = path.read_bytes().splitlines()
    for number, data in enumerate(lines, start=1):
        try:
            text = data.decode()
            line = json.loads(text)
            later = line["step"] > step
            repeated = line["step"] == step and line["split"] == "validation"
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                # Whoever wrote it was killed.
                break
            raise InputError(
                f"{path}, line {number}, is damaged ({first_line(error)[:160]}); mend "
                "it, or move the file away"
            ) from error
        if not later and (keep_validation or not repeated):
            kept.append(text + "\n")
    atomic.replace(path, "".join(kept))
