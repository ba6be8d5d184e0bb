"""How two configs differ, and which differences a run can be resumed with."""

import json
from collections.abc import Mapping

from alexnet_jax.runs.config import Sections, completed
from alexnet_jax.runtime.errors import InputError


# Where a process finds the data, and how it reads them.
OWN = tuple(
    f"data.{key}" for key in ("path", "threads", "workers", "buffer", "timeout", "hold")
)

# A resumed run may change these: they decide how fast, how long and on what it runs,
# and where the same data lies, not what is computed in a step. When it validates is not
# among them, because the plateau rule's rate depends on it.
FREE = (
    *OWN,
    "data.on_error",
    "train.steps",
    "train.epochs",
    "train.save_steps",
    "train.save_minutes",
    "train.deterministic",
    "train.check_every",
    "train.timeout",
    "model.implementation",
    "eval.batch_size",
    "mesh",
    "checkpoint",
)
# Except these, where the rate falls to zero at the run's end.
LENGTH = ("train.steps", "train.epochs")


def comparable(config: Sections) -> dict[str, object]:
    """A config by dotted key, without what may differ between the processes of a run:
    where each finds its data and how it reads them."""
    return {key: value for key, value in flat(config).items() if key not in OWN}


def check_config(where: str, before: Sections, config: Sections, flag: str) -> None:
    """Raise an InputError if a start's config differs from that of before in what a
    step computes; the flag says where the run's files lie."""
    by_length = completed(config)["schedule"]["kind"] == "cosine"
    may_change = [key for key in FREE if not (by_length and key in LENGTH)]
    changes = [
        f"{key} {there!r} -> {here!r}"
        for key, there, here in differences(completed(before), completed(config))
        if not any(key == free or key.startswith(f"{free}.") for free in may_change)
        # The size of a prepared data set is its own: the fingerprint covers it.
        and not (key == "data.size" and _is_prepared(config))
    ]
    if changes:
        raise InputError(
            f"{where} holds a run of another config ({'; '.join(changes)}); "
            f"give the run's own config, or another {flag}"
        )


def _is_prepared(config: Sections) -> bool:
    return completed(config)["data"]["source"] == "prepared"


def differences(
    before: Mapping[str, object], after: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    """The dotted keys at which two configs differ, each with both values."""
    flat_before, flat_after = flat(before), flat(after)
    return [
        (key, flat_before.get(key), flat_after.get(key))
        for key in sorted({*flat_before, *flat_after})
        if flat_before.get(key) != flat_after.get(key)
    ]


def flat(config: Mapping[str, object]) -> dict[str, object]:
    """A config, or any nested mapping, by dotted key, in the values of JSON."""
    found: dict[str, object] = {}
    for key, value in json.loads(json.dumps(config)).items():
        if isinstance(value, dict) and value:
            found |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            found[key] = value
    return found
