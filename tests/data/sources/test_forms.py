"""The same images with the same names in the same order give the same prepared bytes,
whatever they came in."""

import json

import pytest

from alexnet_jax.data.prepared import preparation

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
