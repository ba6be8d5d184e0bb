"""The command `explain`: its figure, its arrays, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax import explain as command
from alexnet_jax.analysis.explaining import class_number
from alexnet_jax.runtime.errors import InputError

from networks import logits_of


@pytest.mark.slow
@pytest.mark.extended
def test_a_figure_and_all_arrays(workdir, images, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    # Smaller than the crop: enlarged, as in training.
    image, output = images / "2" / "5.png", tmp_path / "five.npz"
    options = [f"--workdir={workdir}", str(image), "--patch=30", "--stride=30"]
    command.main([*options, "--class=7", "--samples=2", f"--output={output}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["class"] == "7"
    figure = workdir / "figures" / "explain_5.png"
    assert result["figure"] == str(figure)
    with Image.open(figure) as drawn:
        assert drawn.width == 2200
    model, variables, preprocess, _ = alexnet_jax.load(workdir)
    logits = np.asarray(logits_of(model, variables, preprocess(image)))[0]
    given = np.exp(logits - logits.max())
    given /= given.sum()
    with np.load(output) as arrays:
        np.testing.assert_allclose(arrays["probabilities"], given, rtol=1e-4)
        assert result["probability"] == pytest.approx(given[7], rel=1e-4)
        assert arrays["occlusion"].shape == (3, 3)
        assert arrays["occlusion_places"].tolist() == [0, 30, 37]
        for name in ("gradient", "smooth_gradient", "guided_gradient"):
            assert arrays[name].shape == (67, 67, 3)
        assert arrays["activations_conv5"].shape == (3, 3, 8)
        assert arrays["grad_cam"].shape == (3, 3)
        assert arrays["class_names"].tolist() == list("0123456789")


def test_classes_by_name_and_number():
    names = ["cat", "crane", "crane", "7", "dog"]
    assert [class_number(text, names) for text in ("cat", "7", "2")] == [0, 3, 2]
    with pytest.raises(InputError, match="several classes; give a number: 1 and 2"):
        class_number("crane", names)
    with pytest.raises(
        InputError, match="no class 'cart'; the nearest: cat, .* 0 to 4"
    ):
        class_number("cart", names)
    with pytest.raises(InputError, match="no class '9'; give a name, or a number from"):
        class_number("9", names)


@pytest.mark.slow
def test_what_is_wrong_is_one_line(tmp_path, images, workdir):
    pytest.importorskip("matplotlib")
    image = str(images / "0" / "0.png")

    def refused(match, *options, image=image):
        with pytest.raises(InputError, match=match):
            command.main([f"--workdir={workdir}", image, *options])

    refused("must end in .png, .svg or .pdf", f"--figure={tmp_path / 'x.txt'}")
    refused("must end in .npz", f"--output={tmp_path / 'x.npy'}")
    refused("folder isn't there", f"--output={tmp_path / 'none' / 'x.npz'}")
    refused("--patch=68 is larger than the crop", "--patch=68")
    refused("no class 'zero'", "--class=zero")
    refused("--samples=0", "--samples=0")
    refused("is not a file", image=str(tmp_path / "none.png"))
    refused("4.png is not an image", image=str(images / "1" / "4.png"))
    (tmp_path / "mine.npz").write_text("mine")
    refused("mine.npz exists already", f"--output={tmp_path / 'mine.npz'}")
