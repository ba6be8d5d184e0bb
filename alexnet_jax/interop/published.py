"""Published weights by name: where they lie, what proves them, what they should reach.

Addresses, hashes and errors are from the publishers' own pages. torchvision states the
first eight hex digits of the SHA-256, in the file's name; BVLC a SHA-1 in the readme of
each model's folder; Places365 and ecoset's file state none. No full SHA-256 stands here
before somebody has fetched the file and found it to agree with what its publisher
states; `sha256` is where it is then written, and it is checked from then on.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A file of weights.

    Attributes:
      preset: the network that it is for.
      url: where the publisher serves it.
      file: what it is called here; its ending says the format.
      stated: how its publisher lets it be checked: `sha256:` or `sha1:` and the first
        or all hex digits; empty if not at all.
      top1_error: on the validation images of its own data set, one view of each, as
        its publisher states it; None if not stated.
      about: where the error is from, and what else to know.
      imagenet: whether the classes are ImageNet's thousand, in their usual order.
      resize: how its publisher makes images square; see `decoding.RESIZES`.
      sha256: all of it, once the file has been checked; None until then.
    """

    preset: str
    url: str
    file: str
    stated: str
    top1_error: float | None
    about: str
    imagenet: bool
    resize: str
    sha256: str | None = None


CAFFE = "http://dl.caffe.berkeleyvision.org"
CAFFE_MEAN = (
    "with Caffe's mean image (--mean=imagenet_mean.binaryproto, from "
    f"{CAFFE}/caffe_ilsvrc12.tar.gz)"
)

# By the name that `--input` takes.
PUBLISHED = {
    "torchvision": Published(
        preset="owt",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        file="alexnet-owt-7be5be79.pth",
        stated="sha256:7be5be79",
        top1_error=0.43478,
        about="AlexNet_Weights.IMAGENET1K_V1, torchvision's documentation",
        imagenet=True,
        resize="torchvision",
    ),
    "bvlc": Published(
        preset="caffe",
        url=f"{CAFFE}/bvlc_alexnet.caffemodel",
        file="bvlc_alexnet.caffemodel",
        stated="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        top1_error=0.429,
        about=f"BVLC/caffe, models/bvlc_alexnet/readme.md, {CAFFE_MEAN}",
        imagenet=True,
        resize="squash",
    ),
    "caffenet": Published(
        preset="caffenet",
        url=f"{CAFFE}/bvlc_reference_caffenet.caffemodel",
        file="bvlc_reference_caffenet.caffemodel",
        stated="sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        top1_error=0.426,
        about=f"BVLC/caffe, models/bvlc_reference_caffenet/readme.md, {CAFFE_MEAN}",
        imagenet=True,
        resize="squash",
    ),
    "places365": Published(
        preset="owt",
        url="http://places2.csail.mit.edu/models_places365/alexnet_places365.pth.tar",
        file="alexnet_places365.pth.tar",
        stated="",
        top1_error=None,
        about="CSAILVision/places365, PyTorch's AlexNet; no error and no hash stated; "
        "classes: its categories_places365.txt",
        imagenet=False,
        resize="torchvision",
    ),
    "ecoset": Published(
        preset="owt",
        url="https://osf.io/xtdf4/download",
        file="alexnet_ecoset.pth",
        stated="",
        top1_error=None,
        about="torchvision's AlexNet on ecoset's 565 classes, the file of thingsvision "
        "and not of ecoset's authors; no error and no hash stated",
        imagenet=False,
        resize="torchvision",
    ),
}


def error_in_words(item: Published) -> str:
    """`top-1 error 43.5 %`, or that none is stated."""
    if item.top1_error is None:
        return "no top-1 error stated"
    return f"top-1 error {item.top1_error:.1%}"
