"""Steps compiled for an H100 without one; in the environment that has JAX's plugin.

`.ci/run` makes that environment, and sees that the plugin is there.
"""

import json
import re

import pytest

from alexnet_jax import compile as command
from alexnet_jax.runtime.errors import Failure
from alexnet_jax.targets.catalogue import TARGETS
from alexnet_jax.targets.traffic import traffic

from networks import exchanges
from programs import compiled, narrow_sums, plugin_is_missing


H100 = TARGETS["h100"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deviceless,
    pytest.mark.skipif(
        plugin_is_missing("h100"), reason="JAX's plugin for CUDA is missing"
    ),
    # XLA sorts without a GPU's library, and says so.
    pytest.mark.filterwarnings("default"),
]


CASES = [
    ("code2012", "float32", 1, True),
    ("code2012", "bfloat16", 1, True),
    ("code2012", "bfloat16", 1, False),
    ("code2012", "bfloat16", 2, True),
    ("code2012", "bfloat16", 2, False),
    ("caffe", "bfloat16", 2, True),
    ("conv6", "bfloat16", 2, True),
    ("no_exchange", "bfloat16", 2, True),
]
# Megabytes to and from memory an image, a tenth above what was compiled: what one
# change costs shows.
MOST_TRAFFIC = {
    ("code2012", "float32", 1, True): 95,
    ("code2012", "bfloat16", 1, True): 62,
    ("code2012", "bfloat16", 1, False): 17,
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_compiles_and_fits_and_has_its_exchanges(case):
    network, made = compiled("h100", *case)
    assert made.fits(H100)
    assert narrow_sums(made.program) == []
    kinds = {shape.kind for i in made.program.instructions() for shape in i.arrays}
    assert "f64" not in kinds
    assert case[1] == "float32" or "bf16" in kinds
    targets = re.findall(r'custom_call_target="([^"]*)"', made.text)
    assert any("cudnn" in target for target in targets)
    assert not [target for target in targets if "callback" in target]
    alone = case[2] == 1
    expected = [] if alone else exchanges(network.model, training=case[3])
    assert sorted((c.kind, c.layer) for c in made.collectives) == expected
    if case in MOST_TRAFFIC:
        moved = traffic(made.program) / made.images / 1e6
        assert 0 < moved < MOST_TRAFFIC[case]


def test_conv1_is_folded_and_serves_both_towers():
    _, made = compiled("h100", "code2012", "bfloat16", 1, True)
    convolutions = [
        re.findall(r"tensor<([0-9x]*)x[a-z]", line.rpartition(" : ")[2])
        for line in made.lowered.splitlines()
        if "stablehlo.convolution" in line
    ]
    assert ["128x57x57x48", "3x3x48x96", "128x55x55x96"] in convolutions
    # Neither forward nor for the kernel's gradient is there a strided one.
    assert not [shapes for shapes in convolutions if shapes[0].endswith("x3")]


@pytest.mark.parametrize(
    ("preset", "towers"),
    [
        pytest.param("code2012", 1, marks=pytest.mark.extended),
        pytest.param("code2012", 2, marks=pytest.mark.extended),
        pytest.param("paper", 1, marks=pytest.mark.extended),
        ("owt", 1),
    ],
)
def test_fused_kernels_compile_inside_shard_map(preset, towers):
    network, made = compiled(
        "h100", preset, "bfloat16", towers, True, implementation="fused"
    )
    kernels = made.text.count("gpu.triton")
    # A stage has a kernel each way at least, and ReLU alone one back.
    assert kernels >= 2 * len([n for n in network.model.layers if "conv" in n]) - 2
    assert narrow_sums(made.program) == []
    assert "callback" not in made.text


@pytest.mark.extended
def test_a_fused_step_moves_and_keeps_less():
    """At batch 1,024: 2.62 GB beside the arguments, and 17 MB an image to and from
    memory, kernels and convolutions included."""
    _, made = compiled(
        "h100", "code2012", "bfloat16", 1, True, 1024, implementation="fused"
    )
    assert made.memory["temporary"] < 2.7e9
    assert 0 < traffic(made.program) / made.images / 1e6 < 19


def test_the_command_says_what_limits_a_step(capsys, tmp_path):
    text = tmp_path / "step.hlo"
    arguments = ["--config=quickstart", "--config.model.dtype=bfloat16"]
    command.main([*arguments, "--target=l4", "--mesh=1x2", f"--text={text}"])
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result["target"] == "l4" and result["mesh"] == "1x2" and result["fits"]
    assert result["classes"] == 10 and result["batch_size"] == 32
    for step in ("train", "evaluation"):
        assert result[step]["memory_gb"]["total"] > 0
        assert result[step]["gflop_per_image"] > 0
        assert result[step]["estimated_images_per_second"] > 0
        assert {c["layer"] for c in result[step]["collectives"]} == {
            *("conv3", "fc6", "fc7", "fc8")
        }
    assert "all-gather for conv3: " in shown.err
    assert text.read_text().startswith("HloModule")


def test_a_batch_that_does_not_fit_names_one_that_does(capsys):
    batch = 2**18
    preset = "--config=cifar10:four_layers"
    fused = "--config.model.implementation=fused"
    arguments = [preset, "--target=t4", f"--batch_size={batch}", fused]
    with pytest.raises(Failure, match=f"batch {batch} needs .* GB .* [1-9][0-9]* fits"):
        command.main(arguments)
    shown = capsys.readouterr()
    assert "T4 has compute capability 7.5, and the kernels need 8.0" in shown.err
    result = json.loads(shown.out.splitlines()[-1])
    assert not result["fits"]
    assert 0 < result["largest_batch_size"] < batch
