"""Steps compiled for a TPU v5e without one; in an environment that has libtpu.

`.ci/plugin tpu` makes that environment. The full network takes minutes, and is compiled
by `.ci/extended`; what its step is for a TPU before XLA compiles it is tested without
libtpu, in `test_exchanges.py` and `tests/nn/`.
"""

import json
import re

import pytest

from alexnet_jax import compile as command
from alexnet_jax.targets.catalogue import TARGETS
from alexnet_jax.targets.traffic import traffic

from networks import exchanges
from programs import compiled, narrow_sums, plugin_is_missing


V5E = TARGETS["v5e"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.deviceless,
    pytest.mark.skipif(plugin_is_missing("v5e"), reason="libtpu is missing"),
]

# Chips, with a tower each or both on one, and whether it is the training step.
CASES = [(1, True), (2, True), (1, False)]
# Megabytes to and from memory an image, a tenth above what was compiled (32.6).
MOST_TRAFFIC = {(1, True): 36}


def spelt(exchanged):
    """Exchanges, with a sum that each device has a part of as one that it has whole:
    XLA may compute the former so, and use the part."""
    other = {"reduce-scatter": "all-reduce"}
    return sorted((other.get(kind, kind), layer) for kind, layer in exchanged)


@pytest.mark.extended
@pytest.mark.parametrize(("towers", "training"), CASES)
def test_a_step_compiles_and_fits_and_has_its_exchanges(towers, training):
    network, made = compiled("v5e", "code2012", "bfloat16", towers, training)
    assert made.fits(V5E)
    assert narrow_sums(made.program) == []
    kinds = {shape.kind for i in made.program.instructions() for shape in i.arrays}
    assert "f64" not in kinds and "bf16" in kinds
    operations = {i.operation for i in made.program.instructions()}
    assert not operations & {"send", "recv", "infeed", "outfeed"}
    assert ("select-and-scatter" in operations) == training
    targets = re.findall(r'custom_call_target="([^"]*)"', made.text)
    assert not [target for target in targets if "callback" in target]
    expected = [] if towers == 1 else exchanges(network.model, training=training)
    found = [(c.kind, c.layer) for c in made.collectives]
    assert spelt(found) == spelt(expected)
    if (towers, training) in MOST_TRAFFIC:
        moved = traffic(made.program) / made.images / 1e6
        assert 0 < moved < MOST_TRAFFIC[towers, training]
    assert made.cycles.total() > 0
    assert {"conv1", "conv2", "fc6"} <= set(made.cycles)


def test_the_command_says_what_limits_a_step(capsys):
    arguments = ["--config=quickstart", "--config.model.dtype=bfloat16"]
    command.main([*arguments, "--target=v5e", "--mesh=1x2"])
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert list(result) == [
        *("target", "jax", "mesh", "batch_size", "dtype", "classes", "fits"),
        *("train", "evaluation"),
    ]
    assert result["target"] == "v5e" and result["fits"]
    layers = ("conv3", "fc6", "fc7")
    exchanged = {
        "train": [(kind, n) for kind in ("all-gather", "all-reduce") for n in layers],
        "evaluation": [("all-gather", n) for n in layers],
    }
    for name, expected in exchanged.items():
        step = result[name]
        assert set(step) == {
            *("memory_gb", "traffic_mb_per_image", "gflop_per_image"),
            *("estimated_cycles", "estimated_images_per_second", "collectives"),
        }
        assert set(step["memory_gb"]) == {"arguments", "outputs", "temporary", "total"}
        assert step["estimated_cycles"] > 0
        found = [(c["kind"], c["layer"]) for c in step["collectives"]]
        assert spelt(found) == sorted([*expected, ("all-reduce", "fc8")])
    assert re.search(r"^  conv1 +[\d.]+ +0\.[\d]+ +[\d.]+$", shown.err, re.MULTILINE)
