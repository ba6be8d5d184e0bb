"""Packages that not every user needs: imported when used, named when missing."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from alexnet_jax.runtime.errors import InputError


# The extra that each of them belongs to.
EXTRAS = {
    "fsspec": "mirror",
    "gcsfs": "mirror",
    "google_crc32c": "tfds",
    "h5py": "features",
    "jinja2": "figures",
    "matplotlib": "figures",
    "onnx": "weights",
    "pooch": "weights",
    "pillow_heif": "heif",
    "pyarrow": "parquet",
    "requests": "weights",
    "s3fs": "mirror",
    "safetensors": "weights",
    "tensorboardX": "tensorboard",
    "tensorflow_datasets": "tfds",
    "zarr": "features",
}


def is_installed(name: str) -> bool:
    """Whether a top-level package is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


def require(name: str, purpose: object) -> Any:
    """Import a module of an optional package.

    Raises:
      InputError: if it is not installed: `purpose` needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"{purpose} needs the package {package}; `{install(package)}`"
        ) from error


def install(package: str) -> str:
    """The command that installs an optional package, with its whole extra."""
    extra = EXTRAS.get(package)
    return f"pip install {package}" if extra is None else install_extra(extra)


def install_extra(extra: str) -> str:
    """The command that installs an extra of this package: from the checkout, if it is
    one; else the extra's packages by name, since what pip finds under this package's
    name may be another."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        folder = "." if checkout == Path.cwd() else checkout
        return f'pip install -e "{folder}[{extra}]"'
    packages = [package for package, of in EXTRAS.items() if of == extra]
    # The other extras are JAX's own, of the same name.
    own = [f'"jax[{extra}]"']
    return f"pip install {' '.join(packages or own)}"
