"""One small run, and some images, that the tests of this folder share."""

import numpy as np
import pytest
from PIL import Image

import runs


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    short = ("--config.train.steps=4", "--config.data.validation_fraction=0.98")
    return runs.run(tmp_path_factory.mktemp("analysis"), "run", *short)


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
