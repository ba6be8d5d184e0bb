"""The shape of the package: which way imports point, what importing does."""

import ast
import subprocess
import sys
from pathlib import Path


PACKAGE = Path(__file__).parent.parent / "alexnet_jax"

# From the top down; a module imports only from the tiers below its own, or its own tier
# where the order within it says so.
TIERS = [
    ["__main__"],
    ["weights"],
    ["main", "evaluate", "prepare", "verify", "predict", "features"],
    ["figures", "train"],
    ["charts"],
    ["insight", "export", "curves"],
    ["ensemble"],
    ["restore"],
    ["sections"],
    ["validation"],
    ["reading"],
    ["pipeline", "checkpoint", "report", "workdir", "step", "kernels", "interrupt"],
    ["gallery", "feature_files", "caffemodel", "torch_file", "layout", "page"],
    ["plan", "sources", "augment", "batches", "unfinished", "proof", "broken"],
    ["shards"],
    ["imagenet", "tfds", "digits"],
    ["folder", "prepared"],
    ["description"],
    ["originals", "archives"],
    ["corruption"],
    ["dataset", "model", "optimizer", "losses"],
    ["geometry", "mesh", "moments", "pictures", "schedule"],
    ["convolution", "lrn", "pooling", "towers", "whitening"],
    ["processes", "lock"],
    ["hugepages", "progress", "workers", "arguments", "files", "environment"],
    ["errors"],
]
PURE = [
    "model",
    "step",
    "optimizer",
    "schedule",
    "mesh",
    "losses",
    "convolution",
    "lrn",
    "pooling",
    "towers",
]


def imports(module):
    """The package's own modules that a module imports at its top, and the others."""
    own, other = set(), set()
    for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Import):
            other |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "alexnet_jax":
            own |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(
            "alexnet_jax."
        ):
            own.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            other.add(node.module.split(".")[0])
    return own, other


def test_every_module_has_its_tier():
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert names == {name for tier in TIERS for name in tier}


def test_imports_point_down():
    for height, tier in enumerate(TIERS):
        below = {name for lower in TIERS[height + 1 :] for name in lower}
        for name in tier:
            beside = imports(name)[0] - below
            for neighbour in beside:
                assert neighbour in tier, f"{name} imports {neighbour} from above"
                assert name not in imports(neighbour)[0], f"{name} and {neighbour}"


def test_the_core_needs_neither_grain_nor_ml_collections_nor_orbax():
    program = f"""
import sys
for name in {PURE!r}:
    __import__("alexnet_jax." + name)
unwanted = {{"grain", "ml_collections", "orbax", "sklearn"}} & set(sys.modules)
assert not unwanted, unwanted
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_only_the_edge_knows_what_it_should():
    for path in PACKAGE.glob("*.py"):
        _, other = imports(path.stem)
        if path.stem != "checkpoint":
            assert "orbax" not in other, path
        if path.stem not in ("main", "train"):
            assert "ml_collections" not in other, path
        if path.stem in (
            "archives",
            "augment",
            "batches",
            "dataset",
            "description",
            "digits",
            "feature_files",
            "files",
            "folder",
            "gallery",
            "imagenet",
            "moments",
            "originals",
            "pictures",
            "prepared",
            "shards",
            "sources",
            "tfds",
            "unfinished",
            "workers",
        ):
            assert "jax" not in other, path


def test_importing_asks_for_no_device():
    program = """
import alexnet_jax.main, alexnet_jax.evaluate, alexnet_jax.prepare
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
