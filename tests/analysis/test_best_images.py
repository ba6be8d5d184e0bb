"""The best images of units against a whole pass by hand."""

import json

import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax import features as command
from alexnet_jax.analysis.best_images import best_images
from alexnet_jax.analysis.best_so_far import PATCH, towers_of
from alexnet_jax.analysis.unit_numbers import chosen_units
from alexnet_jax.data import image_paths
from alexnet_jax.inference import image_input
from alexnet_jax.nn.receptive_fields import receptive_fields
from alexnet_jax.runtime.errors import Failure, InputError

from networks import features_of


# In one process, since all need what `by_hand` computes.
pytestmark = pytest.mark.xdist_group("best images")


@pytest.fixture(scope="module")
def by_hand(workdir, images):
    """Paths in order, the stored images and a layer of those that can be read."""
    model, variables, preprocess, _ = alexnet_jax.load(workdir)
    paths = image_paths.find([str(images)])
    good = [path for path in paths if path.name != "4.png"]
    _, kept = features_of(model, variables, preprocess(good), ("conv2", "fc7"))
    stored = image_input.stored(good, 77)
    return paths, good, stored, {name: np.asarray(x) for name, x in kept.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch_size", [5, pytest.param(64, marks=pytest.mark.extended)]
)
def test_they_are_the_largest_values_of_each_unit(
    workdir, images, by_hand, batch_size, capsys
):
    paths, good, stored, kept = by_hand
    best = best_images(workdir, images, "conv2", 3, batch_size=batch_size)
    assert "4.png is not a" in capsys.readouterr().err
    assert (best.count, best.refused, best.towers) == (12, 1, 2)
    values = kept["conv2"]
    flat = values.reshape(len(values), -1, values.shape[-1])
    order = np.argsort(-flat.max(axis=1), axis=0, kind="stable")[:3]
    field = receptive_fields(alexnet_jax.load(workdir).model)["conv2"]
    assert field is not None
    for unit in range(values.shape[-1]):
        expected = flat.max(axis=1)[order[:, unit], unit]
        np.testing.assert_allclose(best.values[unit], expected, rtol=1e-4, atol=1e-5)
        for slot, image in enumerate(order[:, unit]):
            assert best.images[unit, slot] == paths.index(good[image])
            assert best.names[unit, slot] == str(good[image].relative_to(images))
            row, column = divmod(int(flat[image, :, unit].argmax()), values.shape[2])
            assert best.places[unit, slot].tolist() == [row, column]
            # The crop of 67 begins at pixel 5 of the stored 77.
            box = [edge + 5 for edge in field.box(row, column)]
            assert best.boxes[unit, slot].tolist() == np.clip(box, 5, 72).tolist()
    # What is drawn are those pixels, as large as they fit.
    top, left, bottom, right = best.boxes[0, 0].tolist()
    seen = stored[order[0, 0], top:bottom, left:right]
    height, width = (PATCH * side // max(seen.shape[:2]) for side in seen.shape[:2])
    how = Image.Resampling.NEAREST if max(seen.shape) < PATCH else Image.Resampling.BOX
    small = np.asarray(Image.fromarray(seen).resize((width, height), how))
    above, before = (PATCH - height) // 2, (PATCH - width) // 2
    drawn = np.full((PATCH, PATCH, 3), 128)
    drawn[above : above + height, before : before + width] = small
    np.testing.assert_array_equal(best.patches[0, 0], drawn)


@pytest.mark.slow
def test_the_command_writes_arrays_and_a_sheet(
    workdir, images, by_hand, tmp_path, capsys
):
    output = tmp_path / "best.npz"
    options = [f"--workdir={workdir}", f"--input={images}", "--layer=fc7", "--top=20"]
    options += ["--units=3,0-1", f"--output={output}"]
    with pytest.raises(Failure, match="1 of the images can't be read"):
        command.main(options)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["images"], result["unreadable"], result["units"]) == (12, 1, 3)
    with np.load(output) as found:
        assert found["unit"].tolist() == [3, 0, 1]
        expected = -np.sort(-by_hand[3]["fc7"][:, [3, 0, 1]].T, axis=1)
        np.testing.assert_allclose(
            found["value"][:, :11], expected, rtol=1e-4, atol=1e-5
        )
        # Fewer images than places; the whole crop is seen.
        assert np.isnan(found["value"][:, 11:]).all()
        assert (found["image"][:, 11:] == -1).all()
        assert (found["box"][:, :11] == [5, 5, 72, 72]).all()
    with Image.open(tmp_path / "best.png") as sheet:
        assert sheet.width > 400
    # A class's logit is the sum of both towers.
    model = alexnet_jax.load(workdir).model
    assert [towers_of(model, layer) for layer in ("conv2", "fc7", "fc8")] == [2, 2, 1]
    with pytest.raises(InputError, match="best.npz exists already"):
        command.main(options)


def test_what_is_wrong_is_said_before_the_network_is_opened(tmp_path):
    def refused(match, *options):
        given = [f"--workdir={tmp_path}", f"--input={tmp_path}", *options]
        with pytest.raises(InputError, match=match):
            command.main([*given, "--layer=conv5"])

    refused("x.npy must end in .npz", "--top=9", f"--output={tmp_path / 'x.npy'}")
    refused("folder isn't there", "--top=9", f"--output={tmp_path / 'none' / 'x.npz'}")
    refused("give --top=9 as well", "--units=3", f"--output={tmp_path / 'x.npy'}")
    refused("--top=0", "--top=0", f"--output={tmp_path / 'x.npz'}")


def test_units_by_number():
    assert chosen_units(None, 3).tolist() == [0, 1, 2]
    assert chosen_units("7,0-2", 8).tolist() == [7, 0, 1, 2]
    for wrong in ("8", "3-1", "a", "", "-1"):
        with pytest.raises(InputError, match="must name units from 0 to 7"):
            chosen_units(wrong, 8)
    with pytest.raises(InputError, match="names a unit twice"):
        chosen_units("1,0-2", 8)
