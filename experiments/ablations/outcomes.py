"""What is kept of a run of `imagenette.py`, and of several together."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

import many_runs
from many_runs import Errors, Result


def described(result: Result) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "views": result.views,
        "examples": len(result.ten.correct),
        "top1_error": result.ten.top1_error,
        "top1_error_one_crop": result.one.top1_error,
        "loss": _finite(result.ten.loss),
        "train_losses": [_finite(loss) for loss in result.losses],
        "seconds": [round(seconds, 3) for seconds in result.seconds],
        "hours": round(sum(result.seconds) / 3600, 5),
        "correct": packed(result.ten.correct),
        "correct_one_crop": packed(result.one.correct),
    }


def described_together(
    results: Sequence[Result], labels: Int[np.ndarray, "examples"]
) -> dict[str, Any]:
    """The same of several networks whose predictions are averaged; training losses are
    their means.

    Args:
      results: of each.
      labels: of the validation images.
    """
    together = Result(
        params=None,
        losses=np.mean([result.losses for result in results], axis=0).tolist(),
        one=_averaged([result.one for result in results], labels),
        ten=_averaged([result.ten for result in results], labels),
        seconds=(
            sum(result.seconds[0] for result in results),
            sum(result.seconds[1] for result in results),
        ),
        views=results[0].views,
    )
    alone = [result.ten.top1_error for result in results]
    return {**described(together), "top1_error_alone": alone}


def _averaged(each: Sequence[Errors], labels: Int[np.ndarray, "examples"]) -> Errors:
    """Of the mean of probabilities, as those of an image's views are averaged."""
    views = np.stack([errors.log_probabilities for errors in each], axis=1)
    return many_runs.errors(views, labels)


def packed(correct: Bool[np.ndarray, "examples"]) -> str:
    """A bit an image, in base64: `numpy.unpackbits(..., count=examples)` undoes it."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _finite(value: float) -> float | None:
    # JSON has no NaN: a run that diverged.
    return round(value, 5) if math.isfinite(value) else None
