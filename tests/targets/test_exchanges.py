"""The step of every preset for platforms that are not there, as it is before XLA.

No plugin is needed.
"""

import re

import pytest

from alexnet_jax.nn.alexnet import AlexNet

from networks import each_preset, exchanges, traced


PLACE = re.compile(r"loc\((#loc\d*)\)$")
NAMED = re.compile(r'^(#loc\d*) = loc\("([^"]*)"', re.MULTILINE)
OPERATION = re.compile(r"\"stablehlo\.(all_gather|all_reduce|reduce_scatter)\"")
GROUPS = re.compile(r"replica_groups = dense<.*?> : tensor<\d+x(\d+)xi64>")


def between_devices(text):
    """The exchanges in a program's text, and the layer that each serves."""
    names, found, opened = dict(NAMED.findall(text)), [], None
    for line in text.splitlines():
        if operation := OPERATION.search(line):
            groups = GROUPS.search(line)
            assert groups is not None
            # A sum over an axis of one device is none.
            opened = operation[1].replace("_", "-") if int(groups[1]) > 1 else ""
            ends = not line.rstrip().endswith("({")
        else:
            ends = line.lstrip().startswith("})")
        if opened is not None and ends:
            place = PLACE.search(line.rstrip())
            assert place is not None
            layer = re.findall(r"/((?:conv|fc)\d+)/", names[place[1]])
            if opened:
                found.append((opened, layer[-1] if layer else None))
            opened = None
    return sorted(found)


def test_what_code2012_exchanges_is_what_the_paper_says():
    layers = ("conv3", "fc6", "fc7")
    assert exchanges(AlexNet(num_classes=10)) == sorted(
        [
            *(("all-gather", layer) for layer in layers),
            *(("reduce-scatter", layer) for layer in layers),
            ("all-reduce", "fc8"),
        ]
    )


@pytest.mark.slow
@pytest.mark.deviceless
@pytest.mark.parametrize("name", each_preset())
def test_towers_exchange_in_their_layers_and_nowhere_else(name):
    model = AlexNet.from_preset(name, num_classes=10, dtype="bfloat16")
    size = next(size for size in range(64, 100) if model.sizes(size))
    step = traced(model, size)
    for platform in ("cuda", "tpu"):
        lowered = step.lower(lowering_platforms=(platform,))
        text = lowered.as_text(debug_info=True)
        assert between_devices(text) == exchanges(model)
        assert "f64" not in text and "callback" not in text
