"""What changes over a run, against values written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.runs.config import plain, section
from alexnet_jax.runs.config_file import load_config
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training.schedule import make_schedule


def rates(schedule, steps, plateaus=0):
    return [
        float(schedule.rate(jnp.int32(step), jnp.int32(plateaus)))
        for step in range(steps)
    ]


def test_a_large_batch_warms_up_from_the_unscaled_rate():
    schedule = make_schedule(
        steps_per_epoch=4,
        batch_size=1024,
        kind="steps",
        learning_rate=0.01,
        epochs=(4,),
        reference_batch=128,
        warmup_epochs=2,
    )
    rising = [0.01 + 0.07 * step / 8 for step in range(8)]
    expected = [*rising, *[0.08] * 8, *[0.008] * 4]
    np.testing.assert_allclose(rates(schedule, 20), expected, rtol=1e-6)


def test_without_a_reference_batch_it_warms_up_from_zero():
    schedule = make_schedule(
        steps_per_epoch=2, batch_size=512, learning_rate=0.1, warmup_epochs=2
    )
    expected = [0.0, 0.025, 0.05, 0.075, 0.1, 0.1]
    np.testing.assert_allclose(rates(schedule, 6), expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [64, 256])
def test_the_rate_follows_the_batch_in_a_line(batch_size):
    schedule = make_schedule(
        steps_per_epoch=4,
        batch_size=batch_size,
        learning_rate=0.02,
        reference_batch=128,
    )
    for plateaus in (0, 1, 2):
        expected = 0.02 * batch_size / 128 * 0.1**plateaus
        np.testing.assert_allclose(rates(schedule, 2, plateaus), expected, rtol=1e-6)


def test_the_rate_falls_along_a_cosine_after_the_warm_up():
    """To zero at the end of the run; a drop or a plateau changes nothing."""
    schedule = make_schedule(
        steps_per_epoch=4,
        steps=20,
        kind="cosine",
        learning_rate=0.5,
        epochs=(1,),
        warmup_epochs=1,
    )
    rising = [0.5 * step / 4 for step in range(4)]
    falling = [0.25 * (1 + np.cos(np.pi * step / 16)) for step in range(17)]
    expected = [*rising, *falling]
    np.testing.assert_allclose(rates(schedule, 21, plateaus=2), expected, atol=1e-7)


def test_the_colour_shift_is_turned_off_at_its_epoch():
    schedule = make_schedule(steps_per_epoch=10.4, colour_shift=0.1, colour_epochs=3)
    values = [
        float(schedule.colour_coefficient(jnp.int32(step))) for step in (0, 30, 31)
    ]
    np.testing.assert_allclose(values, [0.1, 0.1, 0.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "linear"}, "choose from plateau, steps, cosine"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be finite"),
        ({"patience": 0}, "patience=0 must be at least 1"),
        ({"kind": "steps", "epochs": (-1, 2)}, "epochs=-1 must not be negative"),
        ({"factor": 0.0}, "above 0"),
        ({"kind": "steps", "epochs": (3, 2)}, "must rise"),
        ({"warmup_epochs": -1.0}, "warmup_epochs=-1.0 must not be negative"),
        ({"reference_batch": 0}, "reference_batch=0 must be at least 1"),
        ({"layer_rates": {"conv1": ()}}, r"layer_rates of conv1, \(\), must be"),
        ({"layer_rates": {"fc6": (1, 0.1)}}, "layer_rates of fc6"),
        ({"layer_rates": {"fc6": ((1, 0.1), (0, 1))}}, "in the order of epochs"),
        ({"layer_rates": {"fc6": "0.1"}}, "layer_rates of fc6"),
        ({"layer_rates": {"fc6": -0.1}}, "layer_rates.fc6=-0.1 must not be negative"),
        ({"layer_rates": {"fc6": float("nan")}}, "layer_rates.fc6=nan must be finite"),
        ({"layer_rates": {"fc6": ((1e999, 1),)}}, "layer_rates.fc6=inf must be finite"),
    ],
)
def test_wrong_schedules(settings, message):
    with pytest.raises(InputError, match=message):
        make_schedule(steps_per_epoch=1, **settings)


def test_the_fine_tuning_of_the_2012_logs():
    """Run 146, by epoch: what its log says of the rates of conv1, of the last layer and
    of all others, and of the colour noise."""
    config = plain(load_config("imagenet", "conv6_finetune"))
    assert config["train"]["epochs"] == 54
    schedule = make_schedule(
        steps_per_epoch=10, batch_size=128, **section(config, "schedule")
    )
    rows = [
        (0, 1e-4, 1e-2, 1e-3, 0.1),
        (5, 1e-5, 1e-2, 1e-3, 0.1),
        (7, 0.0, 1e-2, 1e-3, 0.1),
        (9, 0.0, 1e-3, 1e-3, 0.1),
        (22, 0.0, 1e-4, 1e-4, 0.1),
        (38, 0.0, 1e-4, 1e-4, 0.0),
        (42, 0.0, 1e-5, 1e-5, 0.0),
    ]
    for number, (begin, *values) in enumerate(rows):
        end = rows[number + 1][0] if number + 1 < len(rows) else 54
        for step in (10 * begin, 10 * end - 1):
            now, none = jnp.int32(step), jnp.int32(0)
            layers = ("conv1", "fc9", "conv4")
            found = [float(schedule.rate(now, none, layer)) for layer in layers]
            found.append(float(schedule.colour_coefficient(now)))
            assert found == pytest.approx(values), step
