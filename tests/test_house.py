"""The shape of the package: which way imports point, what importing does."""

import ast
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet_jax"


def rows():
    """The README's table of modules: the names of each row, and its limits."""
    text = (ROOT / "README.md").read_text()
    table = text.split("## How it is built")[1].split("|---|---|---|")[1]
    found = []
    for line in table.strip().splitlines():
        if not line.startswith("|"):
            break
        _, modules, _, limits, _ = line.split("|")
        found.append((re.findall(r"`(\w+)\.py`", modules), limits.strip()))
    return found


def limited(limit):
    """The modules of the rows with a limit."""
    names = [name for modules, limits in rows() if limits == limit for name in modules]
    assert names
    return names


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


def test_every_module_has_its_row():
    names = sorted(name for modules, _ in rows() for name in modules)
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert names == sorted(modules)


def test_imports_point_down():
    below = [set(modules) for modules, _ in rows()]
    for height, row in enumerate(below):
        lower = set().union(*below[height + 1 :])
        for name in row:
            for neighbour in imports(name)[0] - lower:
                assert neighbour in row, f"{name} imports {neighbour} from above"
                assert name not in imports(neighbour)[0], f"{name} and {neighbour}"


def test_the_core_needs_neither_grain_nor_ml_collections_nor_orbax():
    program = f"""
import sys
for name in {limited("pure")!r}:
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
    for name in limited("no JAX"):
        assert not {"jax", "flax", "optax"} & imports(name)[1], name


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
