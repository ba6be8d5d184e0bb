"""What `train.recipe` sets, by the number of training images."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from alexnet_jax import load_config, train
from alexnet_jax.data.sources.arrays import array_dataset
from alexnet_jax.runs import hints, recipes
from alexnet_jax.runs.config import plain
from alexnet_jax.runs.network import plan_network
from alexnet_jax.runs.overrides import override
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training.recipes import RECIPES

from networks import TINY


SIDE = 67


def images(count):
    """Grey images of two classes."""
    labels = np.arange(count, dtype=np.int32) % 2
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    parts = {"train": count, "validation": 4}
    return array_dataset(
        {split: pixels[:some] for split, some in parts.items()},
        {split: labels[:some] for split, some in parts.items()},
        ["a", "b"],
    )


def finetuning(*changes, variant=None):
    config = load_config("finetune", variant)
    override(config, [f"--config.data.crop={SIDE}", *changes])
    return config


def test_the_fewer_images_the_more_often_each_is_seen():
    counts = (2, 10, 100, 500, 2000, 9999, 10_000, 100_000, 1_000_000)
    for recipe in RECIPES.values():
        values = [recipe(count, "fc8").values for count in counts]
        epochs = [value["train.epochs"] for value in values]
        seen = [e * count for e, count in zip(epochs, counts, strict=True)]
        assert all(a >= b >= 1 for a, b in itertools.pairwise(epochs))
        assert all(a < b for a, b in itertools.pairwise(seen))
        # A step moves the parameters as far for each image, whatever the batch.
        rates = {
            value["schedule.learning_rate"] / value["train.batch_size"]
            for value in values
        }
        assert len({round(rate, 12) for rate in rates}) == 1


def test_a_recipe_sets_what_is_open_and_says_so(tmp_path):
    begin = f"--config.train.init_from={tmp_path}"
    setup = build_setup(finetuning(begin), images(40))
    values = RECIPES["finetune"](40, "fc8").values
    plan, schedule = setup.plan, setup.config["schedule"]
    assert plan.batch_size == values["train.batch_size"]
    assert plan.steps == round(values["train.epochs"] * 40 / plan.batch_size)
    assert plan.validate_steps == values["train.validate_steps"]
    assert schedule["learning_rate"] == values["schedule.learning_rate"]
    assert schedule["layer_rates"] == {"fc8": values["schedule.layer_rates.fc8"]}
    (line,) = [t for t in hints.at_start(setup, tmp_path) if "train.recipe" in t]
    assert line.startswith("train.recipe=finetune, for 40 training images: ")
    for key, value in values.items():
        assert f"{key}={value}" in line


def test_what_the_user_sets_is_left_as_it_is(tmp_path):
    begin = f"--config.train.init_from={tmp_path}"
    own = ("train.batch_size=8", "train.steps=3", "schedule.learning_rate=0.5")
    own = (*own, "schedule.layer_rates.fc8=2.0", "schedule.layer_rates.conv1=0")
    config = finetuning(begin, *(f"--config.{text}" for text in own))
    setup = build_setup(config, images(40))
    assert (setup.plan.batch_size, setup.plan.steps) == (8, 3)
    assert setup.config["schedule"]["learning_rate"] == 0.5
    assert plain(setup.config["schedule"]["layer_rates"]) == {"fc8": 2.0, "conv1": 0}
    assert setup.config["train"]["epochs"] is None
    for text in own:
        assert text.partition("=")[0] not in setup.recipe
    # What a run notes is a config as well, of which nothing is open.
    again = build_setup(setup.config, images(40))
    assert again.config == setup.config
    assert again.recipe.endswith("all that it would set is set already")
    # Without a recipe nothing is set.
    assert build_setup(finetuning(*_all_set()), images(40)).recipe == ""
    *others, rate = _all_set()
    assert "learning_rate" in rate
    with pytest.raises(InputError, match="schedule.learning_rate is not set; give"):
        build_setup(finetuning(*others), images(40))


def test_the_rate_follows_the_batch_that_the_user_sets(tmp_path):
    begin = f"--config.train.init_from={tmp_path}"
    config = finetuning(begin, "--config.train.batch_size=8")
    setup = build_setup(config, images(40))
    values = RECIPES["finetune"](40, "fc8").values
    rate, batch = values["schedule.learning_rate"], values["train.batch_size"]
    assert setup.plan.batch_size == 8
    assert setup.config["schedule"]["learning_rate"] == pytest.approx(rate * 8 / batch)


def test_conv1_of_torchvision_s_pixels_takes_steps_as_the_others():
    """Its kernels are divided by 255 deviations here, and pixels are not: a step of a
    kernel k / s for pixels s x is one of k for x at s^2 times the rate."""
    config = plain(load_config("finetune", "owt"))
    own = config["schedule"]["layer_rates"]["conv1"]
    far = np.square(255 * np.asarray([0.229, 0.224, 0.225])).mean()
    assert own * far == pytest.approx(1, rel=0.05)


def _all_set():
    return [
        f"--config.{text}"
        for text in (
            *("train.recipe=None", "train.batch_size=8", "train.steps=3"),
            "schedule.learning_rate=0.1",
        )
    ]


def test_the_last_layer_is_the_network_s_own():
    config = plain(load_config("finetune", "conv6"))
    config["train"]["init_from"] = "elsewhere"
    settings, said = recipes.completed(config, 100)
    factor = RECIPES["finetune"](100, "fc9").values["schedule.layer_rates.fc9"]
    assert settings["schedule"]["layer_rates"] == {"fc9": factor}
    assert "schedule.layer_rates.fc9=" in said
    network = plan_network(config)
    assert (
        network.batch_size
        == RECIPES["finetune"](10**6, "fc9").values["train.batch_size"]
    )


def test_without_a_trained_network_one_line_says_what_to_give():
    missing = (finetuning(), "train.init_from is not set; give --config.train.init_fro")
    unknown = (finetuning("--config.train.recipe=fast"), "recipe='fast' unknown")
    for config, said in (missing, unknown):
        # Before the data are looked at.
        config.data.path = "nowhere"
        with pytest.raises(InputError, match=said) as error:
            build_setup(config)
        assert "\n" not in str(error.value)


@pytest.mark.extended
def test_a_run_continues_with_what_its_recipe_has_set(tmp_path, workdir, capsys):
    config = load_config("finetune")
    config.model.layers.update(TINY)
    config.data.update({"source": "digits", "size": 77, "crop": 67, "flip": False})
    config.data.validation_fraction = 0.98
    config.train.update({"init_from": str(workdir), "steps": 2, "validate_steps": 2})
    first = train.run(config, tmp_path / "tuned")
    noted = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert noted["train"]["batch_size"] == 32
    assert "train.recipe=finetune" in capsys.readouterr().err
    assert train.run(config, tmp_path / "tuned") == first
    config.train.batch_size = 16
    with pytest.raises(InputError, match="train.batch_size 32 -> 16"):
        train.run(config, tmp_path / "tuned")


@pytest.mark.parametrize("length", ["epochs=40", "steps=100"])
def test_a_run_of_another_length_is_validated_as_often(tmp_path, length):
    config = finetuning(
        f"--config.train.init_from={tmp_path}", f"--config.train.{length}"
    )
    training: dict[str, Any] = recipes.completed(plain(config), 320)[0]["train"]
    steps = training.get("steps") or 40 * 320 // 32
    assert steps // training["validate_steps"] == 10
