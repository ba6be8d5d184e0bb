"""Training from arrays, which the experiments share."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.runs.metrics_file import CLOCK_FIELDS
from alexnet_jax.runtime.errors import InputError

from networks import flat


sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import arrays
import in_memory
from sections import preset
from signals import signals


def test_it_needs_neither_grain_nor_ml_collections():
    program = """
import sys
sys.path[:0] = ["experiments", "experiments/benchmarks"]
import arrays, in_memory, signals, sections
unwanted = {"grain", "ml_collections", "array_record", "sklearn"} & set(sys.modules)
assert not unwanted, unwanted
"""
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


@pytest.fixture(scope="module")
def digits():
    dataset = arrays.digits(14)
    few = {
        name: arrays.ArraySource(source.images[:50], source.labels[:50])
        for name, source in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=few)


def batches_from(digits, start, count, **changes):
    source = digits.splits["train"]
    made = arrays.train_batches(
        source,
        source.statistics,
        start,
        **{
            **dict(batch_size=8, seed=3, crop=12, crops=True, flip=True),
            **changes,
        },
    )
    found = list(itertools.islice(made, count))
    made.close()
    return found


def test_a_batch_is_a_function_of_seed_and_step(digits):
    whole, later = batches_from(digits, 0, 14), batches_from(digits, 9, 5)
    for one, other in zip(whole[9:], later, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    (other,) = batches_from(digits, 0, 1, seed=4)
    assert (other["image"] != whole[0]["image"]).any()


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(digits):
    made = batches_from(digits, 0, 25, crop=14, crops=False, flip=False)
    images = np.concatenate([batch["image"] for batch in made])
    stored = digits.splits["train"].images
    places = [int(np.flatnonzero((stored == i).all((1, 2, 3)))[0]) for i in images]
    epochs = [places[start : start + 50] for start in range(0, 200, 50)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_arrays_survive_the_way_to_another_machine(digits, tmp_path):
    arrays.save_arrays(tmp_path / "digits.npz", digits)
    found = arrays.open_data(tmp_path / "digits.npz")
    assert found.class_names == digits.class_names
    assert (found.size, found.fingerprint) == (digits.size, digits.fingerprint)
    for name, source in digits.splits.items():
        np.testing.assert_array_equal(found.splits[name].images, source.images)
        np.testing.assert_array_equal(found.splits[name].labels, source.labels)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "digits.npz").read_bytes()[:99])
    with pytest.raises(InputError, match=r"cut.npz is no file of arrays"):
        arrays.open_data(tmp_path / "cut.npz")


def test_a_prepared_set_is_written_into_one_file(
    image_folder, tmp_path, monkeypatch, capsys
):
    prepared = tmp_path / "prepared"
    prepare(
        source="folder",
        input_path=str(image_folder),
        output=prepared,
        size=16,
        encoding="raw",
        workers=1,
    )

    def written(output):
        arguments = ["arrays.py", f"--data={prepared}", f"--output={output}"]
        monkeypatch.setattr(sys, "argv", arguments)
        arrays.main()

    written(tmp_path / "set.npz")
    expected = arrays.open_data(prepared)
    found = arrays.open_data(tmp_path / "set.npz")
    assert found.class_names == expected.class_names
    for name, source in expected.splits.items():
        np.testing.assert_array_equal(found.splits[name].images, source.images)
        np.testing.assert_array_equal(found.splits[name].labels, source.labels)
    result = json.loads(capsys.readouterr().out)
    assert result["train"] == len(expected.splits["train"])
    with pytest.raises(InputError, match="set.npy must end in .npz"):
        written(tmp_path / "set.npy")


def values():
    made = preset("four_layers")
    for name in ("conv1", "conv2", "conv3"):
        made["model"]["layers"][name]["channels"] = 4
    return made


def fit(workdir, digits, epochs, **changes):
    options = dict(batch_size=8, epochs=epochs, seed=1, crop=12, crops=True)
    return in_memory.fit(workdir, digits, values(), **{**options, **changes})


def told(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if k not in CLOCK_FIELDS} for x in lines]


def test_a_run_goes_on_where_it_stood(digits, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", digits, 3)
    fit(tmp_path / "parts", digits, 3, enough=lambda workdir: True)

    def begin_anew(*arguments):
        raise AssertionError("the run begins anew")

    monkeypatch.setattr(in_memory.steps, "init_state", begin_anew)
    state = fit(tmp_path / "parts", digits, 3)
    for name, array in flat(whole).items():
        np.testing.assert_array_equal(array, flat(state)[name])
    assert told(tmp_path / "whole") == told(tmp_path / "parts")
    again = fit(tmp_path / "parts", digits, 3)
    assert int(again.step) == int(whole.step) == 19
    assert len(in_memory.metrics_of(tmp_path / "parts", "train")) == 19


def test_enough_ends_a_run_also_when_it_is_started_again(digits, tmp_path):
    for _ in range(2):
        state = fit(tmp_path / "run", digits, 9, enough=lambda workdir: True)
        assert int(state.step) == 7  # The first step at which an epoch is over.


def test_the_gradient_beside_finite_differences(digits):
    from alexnet_jax.nn.alexnet import AlexNet

    model = AlexNet(num_classes=10, **values()["model"])
    source = digits.splits["train"]
    images = source.images[:, 1:13, 1:13].astype(np.float32)
    params = model.init(jax.random.key(0), images[:1])["params"]
    sizes = signals(model, params, images, source.labels)
    assert [size["layer"] for size in sizes] == list(model.layers)

    def loss(kernel):
        changed = {**params, "fc4": {**params["fc4"], "kernel": jnp.asarray(kernel)}}
        logits = np.asarray(model.apply({"params": changed}, images), np.float64)
        logits -= logits.max(-1, keepdims=True)
        own = logits[np.arange(len(images)), source.labels]
        return np.mean(np.log(np.exp(logits).sum(-1)) - own)

    # The loss is nearly linear this close; along a random direction the slope's mean
    # square is that of the gradient over the number of directions.
    kernel = np.asarray(params["fc4"]["kernel"])
    rng, slopes = np.random.default_rng(0), []
    for _ in range(300):
        direction = rng.choice([-1.0, 1.0], kernel.shape)
        step = (1e-2 * direction).astype(np.float32)
        slopes.append((loss(kernel + step) - loss(kernel - step)) / 2e-2)
    norm = np.sqrt(np.mean(np.square(slopes))) / np.linalg.norm(kernel)
    assert sizes[-1]["gradient"] == pytest.approx(norm, rel=0.15)
