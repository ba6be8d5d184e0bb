"""Which settings of two networks differ."""

import dataclasses
import runpy

import pytest
from flax import linen as nn

from alexnet_jax.inference import finetune
from alexnet_jax.runs import config_file
from alexnet_jax.runtime.errors import InputError

import runs
from networks import tiny


def test_settings_that_change_what_parameters_compute_are_named():
    ours = tiny()
    assert finetune.differing_settings(ours, ours) == []
    drawn_otherwise = ours.clone(num_classes=7, dtype="bfloat16", tower_axis="tower")
    assert finetune.differing_settings(drawn_otherwise, ours) == []
    assert finetune.differing_settings(ours.clone(norm_k=1.0, dropout=0.1), ours) == [
        "model.norm_k=1.0 there and 2.0 here",
        "model.dropout=0.1 there and 0.5 here",
    ]


@dataclasses.dataclass(frozen=True)
class Row:
    stride: int
    kernel_std: float = 0.01


class Rows(nn.Module):
    layers: dict[str, Row]


def test_rows_of_layers_are_compared_field_by_field():
    theirs = Rows({"conv1": Row(4), "conv2": Row(1)})
    ours = Rows({"conv1": Row(4, kernel_std=0.03), "conv2": Row(2)})
    assert finetune.differing_settings(theirs, ours) == [
        "model.layers.conv2.stride=1 there and 2 here"
    ]


def test_the_networks_that_fine_tuning_has_a_config_of():
    """What an error may advise."""
    path = config_file.config_folder() / "finetune.py"
    assert config_file.load_config(str(path)) is not None
    assert runpy.run_path(str(path))["VARIANTS"] == finetune.VARIANTS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["--config.data.size=110", "--config.data.crop=99"],
            "a run on other crops .*--config.data.crop=67$",
        ),
        (["--config.model.towers=1"], "another network .*of the same layers$"),
    ],
)
def test_what_to_do_where_shapes_differ(tmp_path, changes, said):
    run = runs.run(tmp_path, "run", "--config.train.steps=1")
    with pytest.raises(InputError, match=said):
        begin = [f"--config.train.init_from={run}", "--config.data.mean=dataset"]
        runs.run(tmp_path, "new", *begin, *changes)
