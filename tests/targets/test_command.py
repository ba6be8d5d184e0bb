"""What `compile` refuses, which needs no plugin."""

import importlib.util

import jax
import pytest

from alexnet_jax import compile as command
from alexnet_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--target=h200"], "choose from v5e, v6e, h100, a100, l4, t4"),
        (["--target=h100", "--mesh=2"], "--mesh: 2 must be DATAxTOWER"),
        (["--target=h100", "--mesh=1x3"], "3 does not divide the network's 2 towers"),
        (["--target=h100", "--batch_size=0"], "--batch_size=0 must be at least 1"),
        (["--target=h100", "--mesh=2x1", "--batch_size=3"], "use 2 or 4"),
        (["--target=h100", "--config.model.stray=1"], "config.model.stray"),
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
