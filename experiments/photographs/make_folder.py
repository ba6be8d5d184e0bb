"""A folder of photographs of mixed sizes and kinds, made from Imagenette.

Takes 500 training and 60 validation images of each class, stretches each to a random
width and height between 180 and 420 pixels, and writes some as RGBA or RGB PNG and some
as greyscale JPEG.

    python experiments/photographs/make_folder.py --input=IMAGENETTE --output=FOLDER
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image


def main():
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="has train and val")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    random.seed(0)
    counts = {"rgba": 0, "grey": 0, "png": 0, "jpeg": 0}
    for split, number in (("train", 500), ("val", 60)):
        for label in sorted((given.input / split).iterdir()):
            files = sorted(label.iterdir())
            random.shuffle(files)
            folder = given.output / split / label.name
            folder.mkdir(parents=True, exist_ok=True)
            for file in files[:number]:
                with Image.open(file) as opened:
                    size = random.randint(180, 420), random.randint(180, 420)
                    image = opened.resize(size, Image.Resampling.BICUBIC)
                kind = random.random()
                if kind < 0.03:
                    image.convert("RGBA").save(folder / f"{file.stem}.png")
                    counts["rgba"] += 1
                elif kind < 0.06:
                    image.convert("L").save(folder / f"{file.stem}.jpg")
                    counts["grey"] += 1
                elif kind < 0.10:
                    image.convert("RGB").save(folder / f"{file.stem}.png")
                    counts["png"] += 1
                else:
                    image.convert("RGB").save(folder / f"{file.stem}.JPEG", quality=90)
                    counts["jpeg"] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
