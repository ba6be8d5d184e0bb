"""The files of a work directory, but for its checkpoints and metrics.

config.json      the run's config
run.json         the format, and of every start: versions, commit, command, devices
dataset.json     class names, sizes, colour PCA and fingerprint of the data
mean.npy         the mean picture
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.data import statistics as moments
from alexnet_jax.data.dataset import LARGEST_SIZE
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runs.provenance import environment
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.atomic import writing


FORMAT_VERSION = 1
# Of a file of names and settings, in bytes.
LARGEST_FILE = 2**26
CONFIG_FILE, RUN_FILE, DATASET_FILE = "config.json", "run.json", "dataset.json"
CHECKPOINTS, FIGURES = "checkpoints", "figures"
# Behind the step of a checkpoint that a newer one of that step is to take the place of.
REPLACED = ".replaced"

# Where a process finds the data, and how it reads them.
OWN = ("data.path", "data.threads", "data.workers", "data.buffer", "data.timeout")

# A resumed run may change these: they decide how fast, how long and on what it runs,
# and where the same data lies, not what is computed in a step. When it validates is not
# among them, because the plateau's rate hangs on that.
FREE = (
    *OWN,
    "train.steps",
    "train.epochs",
    "train.save_steps",
    "eval.batch_size",
    "mesh",
    "checkpoint",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a work directory knows of its data without opening them."""

    class_names: tuple[str, ...]
    size: int
    crop: int
    fingerprint: str
    statistics: Statistics


def create(workdir: Path) -> None:
    """Make the directory, or see that it can be written.

    Raises:
      InputError: if not, or if it is a prepared data set, whose files have the same
        names.
    """
    if (workdir / DATASET_FILE).exists() and not (workdir / CONFIG_FILE).exists():
        raise InputError(
            f"--workdir={workdir} holds a data set ({DATASET_FILE}) and no run; "
            "choose another directory"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"--workdir={workdir} can't be written ({error.strerror}); "
            "choose another directory"
        ) from error


def check_format(workdir: Path) -> None:
    """Raise an InputError if a newer version wrote the directory, or it is damaged."""
    path = workdir / RUN_FILE
    if not path.exists():
        return
    version = _read(path).get("format_version")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path} is damaged (format_version {version!r:.40})")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{workdir} is a work directory of format {version}, newer than the "
            f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
        )


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the run in a work directory.

    Raises:
      InputError: if no run has started there, or its format is newer.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{workdir} is not a work directory ({CONFIG_FILE} is missing); train with "
            f"`python -m alexnet_jax.main --config=NAME --workdir={workdir}`"
        )
    check_format(workdir)
    config = _read(path)
    for section, keys in config.items():
        if not isinstance(keys, dict):
            raise InputError(f"{path} is damaged (section {section!r:.40})")
    if "data" not in config:
        raise InputError(f"{path} is damaged (no section data)")
    return config


def read_data(workdir: Path) -> Data:
    """What a work directory knows of its data.

    Raises:
      InputError: if it is missing, or says what can't be.
    """
    path = workdir / DATASET_FILE
    description = _read(path)
    try:
        names = tuple(description["class_names"])
        size, crop = description["size"], description["crop"]
        fingerprint = description["fingerprint"]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names")
        if not (type(size) is type(crop) is int and 0 < crop <= size <= LARGEST_SIZE):
            raise ValueError(f"size {size!r:.40}, crop {crop!r:.40}")
        if not isinstance(fingerprint, str):
            raise ValueError("fingerprint")
        statistics = moments.load_statistics(workdir, description)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:160]})") from error
    return Data(names, size, crop, fingerprint, statistics)


def write_data(workdir: Path, data: Data) -> None:
    """Write down what `read_data` reads."""
    data.statistics.save_mean(workdir)
    description = {
        "class_names": data.class_names,
        "size": data.size,
        "crop": data.crop,
        "fingerprint": data.fingerprint,
        **data.statistics.to_json(),
    }
    _write(workdir / DATASET_FILE, description)


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """The versions, commit, command and devices of every start of a run."""
    path = workdir / RUN_FILE
    starts = _read(path).get("starts") if path.exists() else []
    if not isinstance(starts, list) or not all(isinstance(s, dict) for s in starts):
        raise InputError(f"{path} is damaged (starts)")
    return starts


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config by dotted key, without what may differ between the processes of a run:
    where each finds its data and how it reads them."""
    return {key: value for key, value in flat(config).items() if key not in OWN}


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run has saved anything; one that has not binds nobody."""
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and any(
        path.name.removesuffix(REPLACED).isdecimal() for path in folder.iterdir()
    )


def check_run(
    workdir: Path,
    config: Mapping[str, Any],
    fingerprint: str,
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> None:
    """See that a run with this config and these data can go on in the directory.

    Args:
      workdir: where it shall go on.
      config: of the run.
      fingerprint: of its data.
      complete: adds to a config what it leaves out.

    Raises:
      InputError: if a run has saved there whose config differs in what a step computes,
        or whose data differ; the message shows the differences.
    """
    if not has_checkpoints(workdir):
        return
    path = workdir / CONFIG_FILE
    if path.is_file():
        changes = [
            f"{key} {before!r} -> {after!r}"
            for key, before, after in differences(
                complete(read_config(workdir)), complete(config)
            )
            if not any(key == free or key.startswith(f"{free}.") for free in FREE)
        ]
        if changes:
            raise InputError(
                f"{workdir} holds a run of another config ({'; '.join(changes)}); "
                "give the run's own config, or another --workdir"
            )
    path = workdir / DATASET_FILE
    if path.exists() and (known := str(_read(path).get("fingerprint"))) != fingerprint:
        raise InputError(
            f"the data are not those that the run in {workdir} was started with "
            f"(fingerprint {known[:12]} -> {fingerprint[:12]}); "
            "give the same data, or another --workdir"
        )


def start_run(workdir: Path, config: Mapping[str, Any]) -> None:
    """Write down the config, and that a run starts or goes on.

    Where a start before this one saved nothing, what it left of its data is removed.
    """
    if not has_checkpoints(workdir):
        for name in (DATASET_FILE, moments.MEAN_FILE):
            (workdir / name).unlink(missing_ok=True)
    _write(workdir / CONFIG_FILE, config)
    starts = read_starts(workdir)
    _write(
        workdir / RUN_FILE,
        {"format_version": FORMAT_VERSION, "starts": [*starts, environment()]},
    )


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The dotted keys at which two configs differ, each with both values."""
    flat_before, flat_after = flat(before), flat(after)
    return [
        (key, flat_before.get(key), flat_after.get(key))
        for key in sorted({*flat_before, *flat_after})
        if flat_before.get(key) != flat_after.get(key)
    ]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, or any nested mapping, by dotted key."""
    plain = json.loads(json.dumps(config))  # Tuples and lists are the same here.
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            found[prefix] = value

    walk("", plain)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"over {LARGEST_FILE} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = first_line(error)[:160]
        raise InputError(f"{path} can't be read ({reason})") from error
    return value


def _write(path: Path, value: Any) -> None:
    with writing(path):
        atomic.write_json(path, value)
