"""Every test sees two CPU devices, strict types, and annotations that are checked."""

import errno
import os
import signal
import tempfile
from collections.abc import Callable


# A shell has those it starts in the background ignore Ctrl-C, and their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# In the environment too, for the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
os.environ.pop("XLA_FLAGS", None)

# Many tests, and the processes they start, compile the same programs: each once is
# enough. The folder is this run's own, and that of all its workers.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="alexnet_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import numpy as np
import pytest
from PIL import Image


# JAX sets it for itself; the processes that tests start have a user's environment.
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("alexnet_jax", "typechecker.check")


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """The two photographs that come with scikit-learn, 427 x 640."""
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


@pytest.fixture
def image_folder(tmp_path, photographs):
    """Two classes of pieces of photographs: mixed sizes, kinds and orientations."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 8), ("val", 3)):
        for label, photograph in enumerate(photographs):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(70, 160, 2)
                row, column = rng.integers(0, 200, 2)
                piece = photograph[row : row + height, column : column + width]
                image = Image.fromarray(piece)
                kind = ("RGB", "L", "RGBA", "RGB")[number % 4]
                ending = "png" if kind == "RGBA" else "jpg"
                image.convert(kind).save(folder / f"{split}{number}.{ending}")
    return root


class Disk:
    """Takes the place of `os.fsync`; from a call on the disk is full.

    Attributes:
      room: for so many calls; None for all.
      full: whether there is no room, whatever the calls.
      calls: so far.
    """

    def __init__(self) -> None:
        self.begin()
        self._fsync = os.fsync

    def begin(
        self, room: int | None = None, full: Callable[[], bool] = lambda: False
    ) -> None:
        self.room, self.full, self.calls = room, full, 0

    def fsync(self, descriptor: int) -> None:
        self.calls += 1
        if self.full() or (self.room is not None and self.calls > self.room):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


@pytest.fixture
def disk(monkeypatch):
    """A disk that finds out while it syncs that it has no room, as those do that put
    off writing."""
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A run of a tiny network on digits, of four steps."""
    import runs

    short = ("--config.train.steps=4", "--config.data.validation_fraction=0.5")
    return runs.run(tmp_path_factory.mktemp("short"), "run", *short)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Twelve images in three folders; one is broken, one smaller than the crop."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        place = folder / str(number % 3)
        place.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        size = (30, 25) if number == 5 else (110, 90)
        Image.fromarray(coarse).resize(size).save(place / f"{number}.png")
    (folder / "1" / "4.png").write_bytes(b"no image")
    return folder
