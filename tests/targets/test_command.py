"""What `compile` refuses, which needs no plugin."""

import importlib.util

import jax
import pytest

from alexnet_jax import compile as command
from alexnet_jax.runs.config_file import load_config
from alexnet_jax.runs.network import plan_network
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.targets import summary
from alexnet_jax.targets.catalogue import TARGETS
from alexnet_jax.targets.compiling import Overfull


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--target=h200"], "choose from v5e, v6e, h100, a100, l4, t4"),
        (["--target=h100", "--mesh=2"], "--mesh: 2 must be DATAxTOWER"),
        (["--target=h100", "--mesh=1x3"], "3 does not divide the network's 2 towers"),
        (["--target=h100", "--text=nowhere/x.txt"], "its folder isn't there"),
        (["--target=h100", "--batch_size=0"], "--batch_size=0 must be at least 1"),
        (["--target=h100", "--mesh=2x1", "--batch_size=3"], "use 2 or 4"),
        (["--target=h100", "--config.model.stray=1"], "config.model.stray"),
        (["--target=h100", "--config.mesh.data=2"], "give --mesh=DATAxTOWER"),
        (["--target=h100", "--config.data.mixup=-1"], "data.mixup=-1.0 must not be"),
        (
            ["--target=h100", "--config.data.cutmix=1.0", "--batch_size=5"],
            "--batch_size=5 on 1 device gives each an odd number",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, shown):
    with pytest.raises(InputError, match=shown):
        command.main(["--config=imagenet", *arguments])


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed"
)
def test_a_missing_plugin_is_one_line_with_its_installation():
    with pytest.raises(InputError) as raised:
        command.main(["--config=imagenet", "--target=v5e"])
    shown = str(raised.value)
    assert f'`pip install "jax[tpu]=={jax.__version__}"`' in shown
    assert "\n" not in shown


def test_a_step_that_the_compiler_gives_up_is_reported_as_any_other():
    """A TPU's compiler makes no program that does not fit."""
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G."
    )
    network = plan_network(load_config("imagenet"))
    result = summary.Summary(
        network=network,
        target=TARGETS["v5e"],
        shape=(1, 1),
        steps={"train": Overfull(message), "evaluation": Overfull("no room")},
        largest={"train": 64, "evaluation": 0},
    )
    shown = summary.as_json(result)
    assert shown["fits"] is False and shown["largest_batch_size"] == 64
    needs = {"arguments": None, "outputs": None, "temporary": None, "total": 26.307}
    train, evaluation = shown["train"], shown["evaluation"]
    assert isinstance(train, dict) and isinstance(evaluation, dict)
    assert train["memory_gb"] == needs
    assert evaluation["memory_gb"]["total"] is None
    assert "train, batch 128: does not fit; it needs 26.3 GB" in summary.lines(result)
    assert summary.advice(result) == (
        "the training step of batch 128 needs 26.3 GB, and a program can have 16.9 GB "
        "(TPU v5e); of smaller batches (--config.train.batch_size) 64 fits; "
        f"the evaluation step of batch {network.evaluation_batch} does not fit, and a "
        "program can have 16.9 GB (TPU v5e); of smaller batches "
        "(--config.eval.batch_size) none was found that fits"
    )
