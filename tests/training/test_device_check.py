"""A layer that computes more than roundings away is found."""

import json

import jax
import numpy as np
import pytest

from alexnet_jax import verify
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs.device_check import _products
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import device_check
from alexnet_jax.training.device_check import ROUNDINGS, compare
from alexnet_jax.training.schedule import make_schedule

from networks import mesh_of, tiny
from runs import write_config


NAMES = ("conv1", "conv2", "fc3", "fc4")


def updates():
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": rng.normal(size=(2, 40, 40)), "bias": rng.normal(size=(2, 40))}
        for name in NAMES
    }


def off(got, exact, kind="bfloat16"):
    checks = compare(got, exact, ROUNDINGS[kind])
    assert list(checks) == list(NAMES)
    return [name for name, check in checks.items() if check.off]


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_roundings_that_add_up_towards_the_first_layer_pass(kind):
    exact, rng = updates(), np.random.default_rng(1)

    def rounded(array, layers_behind):
        size = ROUNDINGS[kind] * (2 + 12 * layers_behind)
        return array * (1 + size * rng.normal(size=array.shape))

    got = {
        name: {kind: rounded(array, 3 - place) for kind, array in exact[name].items()}
        for place, name in enumerate(NAMES)
    }
    assert off(exact, exact, kind) == []
    assert off(got, exact, kind) == []
    assert off({**exact, "fc4": got["conv1"]}, exact, kind) == ["fc4"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["kernel", "bias"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.8, 1.25, 2.0, -1.0, np.nan, np.inf])
def test_a_gradient_off_by_a_factor_is_found(name, kind, factor):
    exact = updates()
    wrong = {**exact[name], kind: exact[name][kind] * factor}
    assert off({**exact, name: wrong}, exact) == [name]


def test_a_frozen_layer_passes_unless_it_moves():
    exact = updates()
    still = {kind: np.zeros_like(array) for kind, array in exact["conv1"].items()}
    frozen = {**exact, "conv1": still}
    assert off(frozen, frozen) == []
    assert off(exact, frozen) == ["conv1"]


@pytest.mark.extended
def test_a_layer_whose_gradient_is_wrong_on_a_device_is_found():
    """Half of conv2's, in a step of a small network in bfloat16."""
    batch, mesh = device_check.random_batch(8, 67, 5), mesh_of(1, 1)

    def update(dtype, **rates):
        schedule = make_schedule(steps_per_epoch=10, layer_rates=rates)
        return device_check.one_update(tiny(dtype=dtype), mesh, batch, schedule)

    exact, wrong = update("float32"), update("bfloat16", conv2=((0, 0.5),))
    checks = compare(wrong, exact, ROUNDINGS["bfloat16"])
    assert [name for name, check in checks.items() if check.off] == ["conv2"]


@pytest.mark.extended
def test_the_command_checks_this_machines_device(tmp_path, capsys):
    config = f"--config={write_config(tmp_path)}"
    asked = ["--config.model.dtype=bfloat16", "--config.model.implementation=fused"]
    verify.main(["--device", config, *asked])
    shown = capsys.readouterr()
    assert "model.implementation=fused: this is a CPU, and" in shown.err
    result = json.loads(shown.out.splitlines()[-1])
    assert result["platform"] == "cpu" and result["off"] == []
    assert result["dtype"] == "bfloat16" and result["jaxlib"]
    assert {"driver", "cudnn"} <= set(result)
    for name, layer in result["layers"].items():
        assert 0 < layer["error"] < layer["usual"]
        assert f"\n{name} " in shown.err


@pytest.mark.parametrize(
    ("dtype", "platform", "precision", "products"),
    [
        ("float32", "cpu", None, "float32"),
        ("float32", "gpu", None, "tensorfloat32"),
        ("float32", "tpu", None, "bfloat16"),
        ("float32", "gpu", "highest", "float32"),
        ("bfloat16", "gpu", "highest", "bfloat16"),
    ],
)
def test_products_are_as_precise_as_jax_is_set_to(dtype, platform, precision, products):
    with jax.default_matmul_precision(precision):
        assert _products(dtype, platform) == products


def test_a_signal_keeps_its_size_also_through_local_layers():
    network = AlexNet.from_preset("cifar_13pct", num_classes=10)
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), np.zeros((1, 24, 24, 3), np.float32)
    )["params"]
    zeros = jax.tree.map(lambda shape: np.zeros(shape.shape, np.float32), shapes)
    drawn = jax.device_get(device_check._loud(jax.device_put(zeros)))
    for name, layer in drawn.items():
        assert not layer["bias"].any()
        # The channels, and of a window its sides.
        shape = layer["kernel"].shape
        inputs = shape[-2] if "fc" in name else np.prod(shape[-4:-1])
        assert layer["kernel"].std() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)


def test_what_is_checked_must_be_said_once(tmp_path):
    for arguments, shown in (
        ([], "--path --device"),
        (["--device", f"--path={tmp_path}"], "not allowed with"),
        ([f"--path={tmp_path}", "--config=imagenet"], "--config goes with --device"),
        (["--device", "--workers=2"], "--workers goes with --path"),
        (
            ["--device", "--config.mesh.platform=cpu"],
            "JAX_PLATFORMS=cpu, gpu or tpu",
        ),
        ([f"--path={tmp_path}", "--stray"], "unrecognized arguments: --stray"),
    ):
        with pytest.raises(InputError, match=shown):
            verify.main(arguments)
