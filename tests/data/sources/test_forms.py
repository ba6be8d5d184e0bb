"""The same images with the same names in the same order give the same prepared bytes,
whatever they came in."""

import json

import numpy as np
import pytest

from alexnet_jax.data.prepared import preparation
from alexnet_jax.data.selection import ReplacingSource
from alexnet_jax.data.sources import registry
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import Failure

import forms


def prepared(folder, source, path, **options):
    """The files of the prepared set, and its manifest without its origin."""
    content = preparation.prepare(
        source=source,
        input_path=str(path),
        output=folder,
        size=forms.SIZE,
        workers=1,
        **options,
    )
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    manifest = json.loads(files.pop("dataset.json"))
    assert manifest == json.loads(json.dumps(content))
    assert manifest.pop("source") == source
    return files, manifest


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The set prepared from ImageNet's archives."""
    folder = tmp_path_factory.mktemp("reference")
    forms.tars(folder / "archives")
    return prepared(folder / "prepared", "imagenet", folder / "archives")


def test_the_set_has_odd_images_and_all_are_repaired(reference):
    files, manifest = reference
    assert manifest["counts"] == {"train": 40, "validation": 20}
    assert set(manifest["repaired"]) == {
        "CMYK",
        "PNG named .jpeg",
        "WEBP named .jpeg",
        "greyscale",
        "orientation",
        "transparency",
    }
    assert manifest["class_ids"] == forms.WNIDS
    assert manifest["class_names"] == [forms.WORDS[wnid] for wnid in forms.WNIDS]
    assert (manifest["left_out"], manifest["unreadable"]) == ({}, [])
    assert len(files) == 3


@pytest.mark.parametrize("form", list(forms.SAME))
def test_every_form_gives_the_same_bytes(tmp_path, reference, form):
    source, write = forms.SAME[form]
    write(tmp_path / "input")
    files, manifest = prepared(tmp_path / "out", source, tmp_path / "input")
    assert files == reference[0]
    assert manifest == reference[1]


def examples(folder):
    """The images and classes of a prepared set, in no order, by split."""
    dataset = registry.open_dataset(
        source="prepared", path=str(folder), size=1, validation_fraction=0.1
    )
    return {
        split: sorted(
            (source[i]["image"].tobytes(), source.label(i)) for i in range(len(source))
        )
        for split, source in dataset.splits.items()
    }


@pytest.fixture(scope="module")
def expected(reference, tmp_path_factory):
    """The images and classes of the reference."""
    folder = tmp_path_factory.mktemp("expected")
    for name, data in reference[0].items():
        (folder / name).write_bytes(data)
    (folder / "dataset.json").write_text(json.dumps(reference[1]))
    return examples(folder)


def check_same_but_for_order_and_names(tmp_path, reference, expected, source, path):
    """The same images, classes and statistics, and the same bytes each time."""
    files, manifest = prepared(tmp_path / "out", source, path)
    assert prepared(tmp_path / "again", source, path) == (files, manifest)
    assert files["mean.npy"] == reference[0]["mean.npy"]
    found, wanted = ({**m, "shards": None} for m in (manifest, reference[1]))
    # An image without a name has no ending that could be wrong.
    repaired = {k: n for k, n in wanted["repaired"].items() if "named" not in k}
    assert found == {**wanted, "repaired": repaired}
    assert examples(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("source", "write"), [("parquet", forms.parquet), ("tfds", forms.tfrecord)]
)
def test_without_names_and_in_another_order(
    tmp_path, reference, expected, source, write
):
    """As TensorFlow Datasets shuffles, and as the Hub may have no names."""
    order = np.random.default_rng(0).permutation(40).tolist()
    write(tmp_path / "in", named=False, order=order)
    check_same_but_for_order_and_names(
        tmp_path, reference, expected, source, tmp_path / "in"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        "Kaggle's tree",
        "Parquet",
        *(
            pytest.param(form, marks=pytest.mark.extended)
            for form in ("class folders", "TFRecord", "WebDataset")
        ),
    ],
)
def test_a_killed_preparation_continues_and_ends_the_same(
    tmp_path, monkeypatch, capsys, form
):
    monkeypatch.setattr(preparation, "EXAMPLES_WORTH_A_SHARD", 4)
    source, write = forms.SAME[form]
    write(tmp_path / "in")
    straight = prepared(tmp_path / "straight", source, tmp_path / "in")
    output = tmp_path / "killed"
    forms.prepare_and_kill(source, tmp_path / "in", output, size=16)
    assert not output.exists()
    capsys.readouterr()
    assert prepared(output, source, tmp_path / "in") == straight
    assert "continuing: " in capsys.readouterr().err


@pytest.mark.parametrize("form", ["Parquet", "TFRecord", "WebDataset"])
def test_a_drive_that_is_away_is_waited_for(form, tmp_path, monkeypatch, capsys):
    pytest.importorskip({"Parquet": "pyarrow"}.get(form, "google_crc32c"))
    kind, write = forms.SAME[form]
    folder = tmp_path / "set"
    write(folder)
    expected = forms.opened(kind, folder).splits["train"][3]["image"]
    source = forms.opened(kind, folder).splits["train"]
    forms.away_for_a_while(folder)
    np.testing.assert_array_equal(source[3]["image"], expected)
    away, back = capsys.readouterr().err.splitlines()
    assert away.endswith("trying again for 4 minutes")
    assert back.endswith("is back")
    # It is no image that can't be read, which a run may leave out.
    monkeypatch.setattr(patience, "SECONDS_TO_READ", 0.0)
    source = ReplacingSource(forms.opened(kind, folder).splits["train"])
    folder.rename(tmp_path / "gone")
    with pytest.raises(Failure, match="can't be reached .*; when its drive is back"):
        source[3]
