"""Which settings of two networks differ."""

import dataclasses

from flax import linen as nn

from alexnet_jax.inference import finetune

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
