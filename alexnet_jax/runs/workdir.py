"""The files of a work directory, except for its checkpoints and metrics.

config.json      the run's config
run.json         the format, and of every start: versions, commit, command, devices
data.json        class names, sizes, colour PCA and fingerprint of the data
mean.npy         the mean image
stacks-0.txt     of a run that was stuck (`train.timeout`), process 0: what it did
autotuning/      the algorithms that XLA chose, where `train.deterministic` is true
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_jax.data.image_tree import check_utf8
from alexnet_jax.data.prepared.manifest import DATASET_FILE as MANIFEST_FILE
from alexnet_jax.data.statistics import MEAN_FILE
from alexnet_jax.runs.config import Sections
from alexnet_jax.runs.config_changes import check_config, differences
from alexnet_jax.runs.provenance import environment
from alexnet_jax.runs.time_spent import SECONDS, STEP_SECONDS
from alexnet_jax.runtime import atomic, listing, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


# 1 was that of alexnet_jax 0.1, whose configs had other keys.
FORMAT_VERSION = 2
# Of a file of names and settings, in bytes.
LARGEST_FILE = 2**26
CONFIG_FILE, RUN_FILE, DATA_FILE = "config.json", "run.json", "data.json"
CHECKPOINTS, FIGURES, AUTOTUNING = "checkpoints", "figures", "autotuning"


def create(workdir: Path) -> None:
    """Make the directory, or check that a run can be written there.

    Raises:
      InputError: if it can't be written, if another version wrote it, if its path is
        not UTF-8, or if it is a prepared data set, which has a file of the same name.
    """
    if (workdir / MANIFEST_FILE).exists() and not (workdir / CONFIG_FILE).exists():
        raise InputError(
            f"--workdir={workdir} holds a data set ({MANIFEST_FILE}) and no run; "
            "choose another directory"
        )
    check_utf8("--workdir=", workdir)
    try:
        atomic.make_folder(workdir)
        # Under a name of its own: processes of several hosts may look at once.
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise InputError(
            f"--workdir={workdir} can't be written ({error.strerror}); "
            "choose another directory"
        ) from error
    check_format(workdir)


@contextmanager
def created(workdir: Path) -> Iterator[None]:
    """`create`; where the block fails a new directory that is still empty goes, which
    among class folders would be an empty class."""
    new = not workdir.exists()
    create(workdir)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):
                workdir.rmdir()
        raise


def check_format(workdir: Path) -> None:
    """Raise an InputError if another version wrote the directory, or it is damaged."""
    path = workdir / RUN_FILE
    if not path.exists():
        return
    check_version(str(workdir), read_json(path).get("format_version"), "--workdir")


def check_version(where: str, version: object, flag: str) -> None:
    """Raise an InputError if a run's files are of another format; the flag says where
    they lie."""
    if not isinstance(version, int) or version < 1:
        raise InputError(
            f"{RUN_FILE} in {where} is damaged (format_version {version!r:.40})"
        )
    if version < FORMAT_VERSION:
        raise InputError(
            f"{where} is a work directory of format {version}, written by "
            f"alexnet_jax 0.1; use that version for it, or give another {flag}"
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{where} is a work directory of format {version}, newer than the "
            f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
        )


def read_config(workdir: Path) -> dict[str, dict[str, object]]:
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
    config: dict[str, dict[str, object]] = {}
    for section, keys in read_json(path).items():
        if not isinstance(keys, dict):
            raise InputError(f"{path} is damaged (section {section!r:.40})")
        config[section] = keys
    if "data" not in config:
        raise InputError(f"{path} is damaged (no section data)")
    return config


def read_starts(workdir: Path) -> list[dict[str, object]]:
    """The versions, commit, command and devices of every start of a run."""
    path = workdir / RUN_FILE
    starts = read_json(path).get("starts") if path.exists() else []
    if not isinstance(starts, list) or not all(isinstance(s, dict) for s in starts):
        raise InputError(f"{path} is damaged (starts)")
    return starts


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run has saved anything; before that any run may take the directory."""
    folder = workdir / CHECKPOINTS
    return listing.is_folder(folder) and any(
        path.name.isdecimal() for path in folder.iterdir()
    )


def check_run(workdir: Path, config: Sections) -> None:
    """Check that a run with this config can continue in the directory.

    Raises:
      InputError: if a run has saved there whose config differs in what a step computes;
        the message shows the differences.
    """
    if not has_checkpoints(workdir):
        return
    if (workdir / CONFIG_FILE).is_file():
        check_config(str(workdir), read_config(workdir), config, "--workdir")


def start_run(
    workdir: Path, config: Sections, chosen: Mapping[str, object] | None = None
) -> None:
    """Write the config, and that a run starts or continues, with what it has chosen
    where the config leaves that open.

    Where an earlier start saved nothing, its notes on its data are removed. Where the
    last one had other versions or settings that change how numbers are rounded, a
    warning names them.
    """
    if not has_checkpoints(workdir):
        for name in (DATA_FILE, MEAN_FILE):
            (workdir / name).unlink(missing_ok=True)
    write_json(workdir / CONFIG_FILE, config)
    starts, now = read_starts(workdir), {**environment(), **(chosen or {})}
    if starts and has_checkpoints(workdir):
        _warn_of_other_digits(workdir, starts[-1], now)
    write_json(
        workdir / RUN_FILE,
        {"format_version": FORMAT_VERSION, "starts": [*starts, now]},
    )


def note_time(
    workdir: Path, seconds: Mapping[str, float], step_seconds: Mapping[str, float]
) -> None:
    """Write into run.json where the time of its last start went so far; see
    `time_spent`. Nothing happens where no start is noted."""
    *before, last = read_starts(workdir) or [{}]
    if last:
        noted = {**last, SECONDS: seconds, STEP_SECONDS: step_seconds}
        write_json(
            workdir / RUN_FILE,
            {"format_version": FORMAT_VERSION, "starts": [*before, noted]},
        )


def _warn_of_other_digits(
    workdir: Path, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    """Say which versions and settings differ that change how numbers are rounded."""
    changes = []
    for key in ("versions", "numerics", "determinism", "implementation"):
        noted, found = before.get(key), now.get(key)
        # An older version noted less.
        if isinstance(noted, Mapping) and isinstance(found, Mapping):
            changes += [
                f"{name} {there!r} -> {here!r}"
                for name, there, here in differences(noted, found)
                if name in noted
            ]
    if changes:
        progress.say(
            f"warning: {workdir} continues with other versions or settings than it had "
            f"({'; '.join(changes)}); the last digits of its numbers may differ"
        )


def read_json(path: Path) -> dict[str, object]:
    """A file of one JSON object.

    Raises:
      InputError: if it is missing, damaged or larger than such a file can be.
    """
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


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a file of JSON, whole or not at all."""
    with writing(path):
        atomic.write_json(path, value)
