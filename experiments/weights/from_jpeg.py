"""Do imported weights give their publisher's logits from the JPEG on, layer by layer?

Random weights of torchvision's AlexNet, saved by `torch.save`, are served by a server
on 127.0.0.1 that breaks off, fetched, imported and loaded as a user would. JPEG files
of many shapes go through torchvision's own transforms and network, and through
`alexnet_jax.load`; so do the same pixels. The layers of `features` are compared with
those of torchvision's `create_feature_extractor`.

    python experiments/weights/from_jpeg.py --output=FOLDER

Caffe's networks: random weights of their shapes as .caffemodel, and the same JPEG files
squeezed to 256x256 by Pillow, whose centres go through the network by PyTorch's own
operations, blue first, less Caffe's mean of each channel.

Needs torch, torchvision, requests and h5py. Each difference is the largest of any value
over the largest value.
"""

import argparse
import dataclasses
import hashlib
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

import h5py
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models import (  # pyright: ignore[reportMissingImports]
    feature_extraction,
)

import alexnet_jax
from alexnet_jax import load_config
from alexnet_jax.inference import layer_names
from alexnet_jax.inference.extraction import write_features
from alexnet_jax.interop.fetching import fetch
from alexnet_jax.interop.importing import CAFFE, ORIGINS, import_weights
from alexnet_jax.interop.published import PUBLISHED
from alexnet_jax.runs.config import plain

import harness
from torch_networks import CAFFE_SHAPES, NAMES, by_torch, random_weights
from weight_files import caffemodel_bytes


# Heights and widths; the photographs themselves, odd ones, and a small one.
SHAPES = ((427, 640), (426, 333), (300, 401), (257, 300), (256, 256), (90, 61))
MEAN = np.asarray(ORIGINS["owt"].mean, np.float32)
DEVIATIONS = np.asarray(ORIGINS["owt"].deviations, np.float32)


class BreaksOff(http.server.SimpleHTTPRequestHandler):
    """Serves a file from a byte on, and ends after a third of it."""

    data = b""

    def do_GET(self):
        begin = int(self.headers["Range"].split("=")[1].rstrip("-"))
        length = len(self.data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{length - 1}/{length}")
        self.send_header("Content-Length", str(length - begin))
        self.end_headers()
        self.wfile.write(self.data[begin : begin + length // 3 + 1])

    def log_message(self, format, *args):
        pass


def served(path, folder):
    """The file as `fetch` gets it from the server."""
    BreaksOff.data = path.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = hashlib.sha256(BreaksOff.data).hexdigest()
        item = dataclasses.replace(
            PUBLISHED["torchvision"],
            url=f"http://127.0.0.1:{server.server_port}/{path.name}",
            file=path.name,
            stated=f"sha256:{digest[:8]}",
        )
        fetched = fetch(item, folder)
        server.shutdown()
    return fetched


def random_network():
    """torchvision's network with random weights that keep a signal's size."""
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        else:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def write_images(folder):
    """JPEG files of the shapes, in colour and one in grey."""
    photographs = [Image.fromarray(a) for a in load_sample_images().images]
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        image = photographs[number % 2].crop((0, 0, width, height))
        image = image.convert("L") if number == 3 else image
        paths.append(folder / f"{number}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def worst(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def layers_of(network, pixels):
    """Every module's output as `create_feature_extractor` names it. The ReLUs work in
    place, which would overwrite what it keeps; this is turned off."""
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    names = [n for n in layer_names.TORCHVISION if n != "avgpool"]
    extractor = feature_extraction.create_feature_extractor(network, names)
    return {name: value.numpy() for name, value in extractor(pixels).items()}


def compare(folder):
    network = random_network()
    transforms = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    paths = write_images(folder / "images")
    found = {}
    with torch.no_grad():
        pixels = torch.stack(
            [transforms(Image.open(path).convert("RGB")) for path in paths]
        )
        theirs = network(pixels).numpy()
        modules = layers_of(network, pixels)
    for form, zipped in (("alexnet.pth", True), ("old.pth", False)):
        saved = folder / form
        torch.save(network.state_dict(), saved, _use_new_zipfile_serialization=zipped)
        path = served(saved, folder / "cache")
        workdir = folder / saved.stem
        settings = plain(load_config("imagenet", "owt"))
        import_weights(path, workdir, settings, ORIGINS["owt"])
        model, variables, preprocess, _ = alexnet_jax.load(workdir)
        ours = np.asarray(model.apply(variables, preprocess(paths)))
        found[f"{form}, from the JPEG on"] = worst(ours, theirs)
    raw = pixels.numpy().transpose(0, 2, 3, 1) * DEVIATIONS
    found["from the pixels on"] = worst(model.apply(variables, raw), theirs)
    exact = preprocess(paths) - raw
    found["grey levels between the pixels"] = float(np.abs(exact).max())
    output = folder / "features.h5"
    write_features(folder / "alexnet", folder / "images", "all", output)
    for name, layer in layer_names.TORCHVISION.items():
        if name not in modules:
            continue
        values = modules[name]
        if values.ndim == 4:
            values = values.transpose(0, 2, 3, 1)
        with h5py.File(output) as file:
            ours = np.asarray(file[layer])
        found[f"features, {name}"] = worst(ours, values)
    return found


def compare_caffe(folder):
    """Logits of Caffe's two networks from the JPEG on."""
    paths = sorted((folder / "images").iterdir())
    layers = random_weights(CAFFE_SHAPES, 0)
    named = [(name, *layer) for name, layer in zip(NAMES, layers, strict=True)]
    pixels = np.stack([squeezed(path) for path in paths])
    blue_first = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2))
    found = {}
    for preset, pool_first in (("caffe", False), ("caffenet", True)):
        path = folder / f"{preset}.caffemodel"
        path.write_bytes(caffemodel_bytes(named))
        settings = plain(load_config("imagenet", preset))
        import_weights(path, folder / preset, settings, ORIGINS[preset])
        how = {"groups": 2, "norm": (1e-4, 1.0), "padding": 0}
        theirs = by_torch(layers, blue_first, pool_first=pool_first, **how)
        model, variables, preprocess, _ = alexnet_jax.load(folder / preset)
        ours = model.apply(variables, preprocess(paths))
        found[f"{preset}, from the JPEG on"] = worst(ours, theirs)
        found[f"{preset}, from the pixels on"] = worst(
            model.apply(variables, pixels), theirs
        )
    return found


def squeezed(path):
    """What Caffe's networks take of an image: RGB less the mean."""
    image = Image.open(path).convert("RGB")
    image = image.resize((256, 256), Image.Resampling.LANCZOS)
    cut = (256 - CAFFE.crop) // 2
    inside = np.asarray(image)[cut : cut + CAFFE.crop, cut : cut + CAFFE.crop]
    return inside.astype(np.float32) - np.asarray(CAFFE.mean, np.float32)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        found = {**compare(folder), **compare_caffe(folder)}
    result = {
        "experiment": "from_jpeg",
        "differences": found,
        "shapes": SHAPES,
        "worst": max(v for k, v in found.items() if "grey" not in k),
        **harness.machine("jax", "torch", "torchvision", "pillow", "simplejpeg"),
    }
    for what, value in found.items():
        print(f"{value:8.1e}  {what}", file=sys.stderr)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "from_jpeg.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))
    if result["worst"] > 1e-3:
        sys.exit(1)


if __name__ == "__main__":
    main()
