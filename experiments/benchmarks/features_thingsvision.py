"""The side of `features_torchvision.py` that thingsvision computes, in its own Python.

    ENVIRONMENT/bin/python features_thingsvision.py FOLDER IMAGES OUTPUT.npy

torchvision's AlexNet with the weights FOLDER/alexnet.pth, fc7 of a folder's images, by
thingsvision's own extractor, data set and loader, as its documentation has it. Prints
images a second, from the first batch to the last.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from thingsvision import (  # pyright: ignore[reportMissingImports]
    get_extractor_from_model,
)
from thingsvision.utils.data import (  # pyright: ignore[reportMissingImports]
    DataLoader,
    ImageDataset,
)


BATCH_SIZE = 64
LAYER = "classifier.5"


def main():
    folder, images, output = map(Path, sys.argv[1:])
    network = torchvision.models.alexnet(weights=None)
    network.load_state_dict(torch.load(folder / "alexnet.pth"))
    extractor = get_extractor_from_model(model=network, device="cpu", backend="pt")
    dataset = ImageDataset(
        root=str(images),
        out_path=str(folder / "order"),
        backend="pt",
        transforms=torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms(),
    )
    batches = DataLoader(dataset=dataset, batch_size=BATCH_SIZE, backend="pt")
    extract, done = extractor._extract_batch, []

    def timed(**given):
        found = extract(**given)
        done.append(time.perf_counter())
        return found

    extractor._extract_batch = timed
    features = extractor.extract_features(
        batches=batches, module_name=LAYER, flatten_acts=True, output_type="ndarray"
    )
    np.save(output, features)
    print((len(dataset) - BATCH_SIZE) / (done[-1] - done[0]))


if __name__ == "__main__":
    main()
