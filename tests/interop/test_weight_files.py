"""Files of weights as people have them: read whole, or refused in one line."""

import argparse
import functools
import json
import pickle
import struct
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from alexnet_jax import weights
from alexnet_jax.interop import torch_pickle
from alexnet_jax.interop.class_names import read_class_names
from alexnet_jax.interop.importing import CAFFE as CAFFE_PIXELS
from alexnet_jax.interop.importing import ORIGINS
from alexnet_jax.interop.mean_image import mean_image
from alexnet_jax.interop.readers import read_layers
from alexnet_jax.runtime.errors import InputError

from weight_files import (
    CAFFE,
    OWT,
    bfloat16_bits,
    blob,
    caffemodel_bytes,
    evaluated,
    legacy_pth,
    pth,
    random_layers,
    torchvision_state,
)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_caffemodel(tmp_path, legacy):
    layers = random_layers(CAFFE, 67)
    path = tmp_path / "net.caffemodel"
    data = caffemodel_bytes(layers, legacy=legacy)
    path.write_bytes(data)
    read = read_layers(path)
    assert [layer.name for layer in read] == [layer.name for layer in layers]
    for found, expected in zip(read, layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        np.testing.assert_array_equal(found.bias, expected.bias)
    for length in (len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="is cut off or no .caffemodel"):
            read_layers(path)


def test_a_pth_and_a_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    layers = random_layers(OWT, 64)
    state = torchvision_state(layers)
    pth(tmp_path / "net.pth", state)
    safetensors.save_file(state, tmp_path / "net.safetensors")
    for ending in ("pth", "safetensors"):
        path = tmp_path / f"net.{ending}"
        read = read_layers(path)
        assert [layer.name for layer in read][:2] == ["features.0", "features.3"]
        for found, expected in zip(read, layers, strict=True):
            np.testing.assert_array_equal(found.kernel, expected.kernel)
            np.testing.assert_array_equal(found.bias, expected.bias)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match="is cut off"):
            read_layers(path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({"a": Evil()}, protocol))
    with pytest.raises(InputError, match=r"asks for \w+.exec, .*may run anything"):
        torch_pickle.read(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="no file as PyTorch"):
        torch_pickle.read(path)


def pickled(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
    return path


@pytest.mark.parametrize(
    ("program", "instruction"),
    [
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        (b"(icollections\nOrderedDict\n.", "INST"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.", "BYTEARRAY8"),
        # Refused before the name in front of it is looked up.
        (b"cos\nsystem\n(S'true'\ntR.", "STRING"),
    ],
)
def test_instructions_that_tensors_do_not_need_are_refused(
    tmp_path, program, instruction
):
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(
        InputError, match=f"has an instruction {instruction}, .*refused"
    ):
        torch_pickle.read(path)


REBUILD_NAME = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "program",
    [
        # Known names that are called with what is no storage, or are no functions.
        REBUILD_NAME + b"(K\x01K\x00))tR.",
        b"ctorch\nFloatStorage\n)R.",
        b"}(X\x01\x00\x00\x00a" + REBUILD_NAME + b"(}K\x00))tRu.",
        # A place in memory for which the standard library would take 64 GB.
        b"}r\xff\xff\xff\xff.",
        # Cut off; without a value; of something that is no dictionary to be filled.
        b"}(X\x01\x00\x00\x00a",
        b".",
        b"NK\x01K\x02s.",
    ],
)
def test_damaged_programs_are_refused_in_one_line(tmp_path, program):
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match="is damaged") as error:
        torch_pickle.read(path)
    assert "\n" not in str(error.value)


def test_one_file_does_not_change_how_the_next_is_read(tmp_path):
    """BUILD sets attributes, of a function too: here its defaults, to (1, 2, 3, 4)."""
    defaults = b"(X\x0c\x00\x00\x00__defaults__(K\x01K\x02K\x03K\x04td"
    defaults = defaults.replace(b"(X", b"}X", 1).replace(b"td", b"ts")
    program = REBUILD_NAME + b"N" + defaults + b"\x86b)R."
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match="is damaged"):
        torch_pickle.read(path)
    good = tmp_path / "good.pth"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pth(good, {"a.weight": array})
    np.testing.assert_array_equal(torch_pickle.read(good)["a.weight"], array)


def test_names_that_are_refused_stay_on_one_line(tmp_path):
    program = b"\x80\x04\x8c\x03o\ns\x8c\x06system\x93."
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match=r"asks for o\\ns\.system, ") as error:
        torch_pickle.read(path)
    assert "\n" not in str(error.value)


def changed(path: Path, array: np.ndarray, *replacements: tuple[bytes, bytes]) -> Path:
    """A .pth of one array, with places of its pickle replaced that occur once."""
    pth(path, {"a.weight": array})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("net/data.pkl")
    for old, new in replacements:
        assert program.count(old) == 1
        program = program.replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
        archive.writestr("net/data/0", array.tobytes())
    return path


def test_a_tensor_that_repeats_a_number_without_end_is_refused(tmp_path):
    # 44 rows become 2 to the 40, at a stride of 0.
    path = changed(
        tmp_path / "net.pth",
        np.zeros((44, 1), np.float32),
        (b"K,K\x01", b"\x8a\x06\0\0\0\0\0\x01K\x01"),
        (b"K\x01K\x01\x86", b"K\x00K\x00\x86"),
    )
    with pytest.raises(InputError, match="is larger than a network's"):
        torch_pickle.read(path)


def test_tensors_that_reach_past_their_numbers_are_refused(tmp_path):
    # The shape of 4 by 4 becomes one of 4 by 44.
    path = changed(
        tmp_path / "net.pth",
        np.zeros((4, 4), np.float32),
        (b"K\x04K\x04", b"K\x04K\x2c"),
    )
    with pytest.raises(InputError, match="damaged"):
        torch_pickle.read(path)


def test_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    layers = random_layers(CAFFE, 67)
    pixels = np.zeros((1, 3, 67, 67), np.float32)
    made, _ = evaluated(onnx, layers, pixels, groups=2, norm=(1e-4, 1.0))
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    for found, expected in zip(read_layers(path), layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        np.testing.assert_array_equal(found.bias, expected.bias)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is cut off or no ONNX"):
        read_layers(path)


SMALL_STATE = {
    f"{name}.{part}": np.full(shape, number, np.float32)
    for number, name in enumerate(("features.0", "features.10", "classifier.1"))
    for part, shape in (("weight", (2, 3)), ("bias", (2,)))
}


def assert_small(path):
    layers = read_layers(path)
    assert [layer.name for layer in layers] == [
        "features.0",
        "features.10",
        "classifier.1",
    ]
    for number, (_, kernel, bias) in enumerate(layers):
        np.testing.assert_array_equal(kernel, np.full((2, 3), number))
        np.testing.assert_array_equal(bias, np.full(2, number))


def beside(**more):
    """What training scripts save beside the tensors."""
    return {
        "epoch": 90,
        "args": argparse.Namespace(lr=0.01, data=PurePosixPath("images")),
        "best": np.float64(56.5),
        "order": np.arange(3),
        "history": defaultdict(list, {"loss": [0.5, 0.25]}),
        "seen": {1, 2},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "betas": (0.9, 1.0)}]},
        **more,
    }


def put(place, tensors):
    """A dictionary with the tensors where it has None."""
    return {
        key: tensors
        if value is None
        else put(value, tensors)
        if isinstance(value, dict)
        else value
        for key, value in place.items()
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model_best.pth.tar", "state_dict"),
        ("UPPER.PTH", "model"),
        ("checkpoint.pt", "model_state_dict"),
        ("pytorch_model.bin", "net"),
        ("last.ckpt", "state_dict"),
    ],
)
def test_the_tensors_of_a_training_script_are_found(tmp_path, name, key, protocol):
    path = tmp_path / name
    pth(path, SMALL_STATE, lambda tensors: beside(**{key: tensors}), protocol)
    assert_small(path)
    for inner in ({"net": {"model": None}}, {"epoch": 3, "encoder": None}):
        pth(path, SMALL_STATE, functools.partial(put, inner), protocol)
        assert_small(path)


def in_itself(tensors):
    whole: dict[str, object] = {}
    whole["model"] = whole
    return whole


@pytest.mark.parametrize(
    "around", [in_itself, lambda tensors: {"encoder": tensors, "decoder": tensors}]
)
def test_of_several_dictionaries_none_is_guessed(tmp_path, around):
    pth(tmp_path / "net.pth", SMALL_STATE, around)
    with pytest.raises(
        InputError, match=r"no dictionary of tensors; save model\.state"
    ):
        read_layers(tmp_path / "net.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_would_run_beside_the_tensors_is_refused(tmp_path, protocol):
    path = tmp_path / "net.pth"
    pth(path, SMALL_STATE, lambda t: beside(state_dict=t, evil=Evil()), protocol)
    with pytest.raises(InputError, match=r"builtins\.exec.*may run anything"):
        read_layers(path)


@pytest.mark.parametrize(
    "program",
    [
        # BUILD on the stand-in itself, with a method of its own; then as a list.
        b"cargparse\nNamespace\n}X\x0c\0\0\0__setstate__Nsb.",
        b"cargparse\nNamespace\n}X\x06\0\0\0appendNsb.",
        b"cargparse\nNamespace\nK\x01a.",
        b"cargparse\nNamespace\n(K\x01e.",
        b"cargparse\nNamespace\nK\x01K\x02s.",
        # NEWOBJ of what is no class.
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)\x81.",
        b"\x80\x02ctorch\nFloatStorage\n)\x81.",
    ],
)
def test_a_stand_in_that_is_changed_is_refused_and_stays_as_it_was(tmp_path, program):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
    with pytest.raises(InputError, match="is damaged"):
        read_layers(path)
    pth(tmp_path / "net.pth", SMALL_STATE, lambda t: beside(state_dict=t))
    assert_small(tmp_path / "net.pth")


def test_the_order_of_names_is_that_of_the_network(tmp_path):
    """Sorted as text, features.10 before features.3; or biases before kernels."""
    layers = random_layers(OWT, 64)
    state = torchvision_state(layers)
    path = tmp_path / "net.pth"
    pairs = [list(state.items())[n : n + 2][::-1] for n in range(0, 16, 2)]
    pth(path, dict(sorted(state.items())))
    for found, expected in zip(read_layers(path), layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
    pth(path, dict(pair for both in pairs for pair in both))
    for found, expected in zip(read_layers(path), layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)


def test_bfloat16_is_read_to_the_bit(tmp_path):
    pytest.importorskip("safetensors")
    exact = {name: array + np.float32(0.5) for name, array in SMALL_STATE.items()}
    bits = {name: bfloat16_bits(array) for name, array in exact.items()}
    pth(tmp_path / "net.pth", bits)
    header, data = {}, b""
    for name, array in bits.items():
        end = len(data) + array.nbytes
        place = [len(data), end]
        header[name] = {
            "dtype": "BF16",
            "shape": list(array.shape),
            "data_offsets": place,
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    file = struct.pack("<Q", len(text)) + text + data
    (tmp_path / "net.safetensors").write_bytes(file)
    for name in ("net.pth", "net.safetensors"):
        for layer in read_layers(tmp_path / name):
            np.testing.assert_array_equal(layer.kernel, exact[f"{layer.name}.weight"])
            assert layer.kernel.dtype == np.float32


def external(onnx, folder, location=None):
    """A model of two layers whose arrays lie in a file beside it, which may be named
    otherwise."""
    from onnx import helper, numpy_helper

    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = [
        ("a.w", kernel),
        ("a.b", kernel[:, 0]),
        ("b.w", kernel),
        ("b.b", kernel[0]),
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a.w", "a.b"], ["a"], name="a", transB=1),
        helper.make_node("MatMul", ["a", "b.w"], ["m"], name="b"),
        helper.make_node("Add", ["b.b", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        initializer=[numpy_helper.from_array(array, name) for name, array in arrays],
    )
    path = folder / "net.onnx"
    onnx.save(
        helper.make_model(graph),
        path,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    if location is not None:
        made = onnx.load(path, load_external_data=False)
        for array in made.graph.initializer:
            for entry in array.external_data:
                entry.value = location if entry.key == "location" else entry.value
        path.write_bytes(made.SerializeToString())
    return path, kernel


def test_onnx_arrays_in_a_file_beside_the_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, kernel = external(onnx, tmp_path)
    first, second = read_layers(path.rename(tmp_path / "NET.ONNX"))
    np.testing.assert_array_equal(first.kernel, kernel)
    np.testing.assert_array_equal(first.bias, kernel[:, 0])
    # A matrix product and a sum are a layer too.
    np.testing.assert_array_equal(second.kernel, kernel.T)
    np.testing.assert_array_equal(second.bias, kernel[0])
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:20])
    with pytest.raises(InputError, match="array .* can't be read"):
        read_layers(tmp_path / "NET.ONNX")
    data.unlink()
    with pytest.raises(InputError, match=r"needs the file .*net\.onnx\.data beside it"):
        read_layers(tmp_path / "NET.ONNX")


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/hostname", "sub/secret", "..\\secret", "", "..", "link"],
)
def test_onnx_arrays_outside_of_the_folder_are_never_read(tmp_path, location):
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "sub" / "secret"):
        place.write_bytes(bytes(1000))
    (folder / "link").symlink_to(tmp_path / "secret")
    path, _ = external(onnx, folder, location)
    with pytest.raises(InputError, match="refused|is missing"):
        read_layers(path)


def test_mean_images_as_people_have_them(tmp_path):
    image = np.random.default_rng(0).uniform(80, 140, (3, 256, 256)).astype(np.float32)
    expected = image[::-1].transpose(1, 2, 0)
    np.save(tmp_path / "whole.npy", image.astype(np.float64))
    np.save(tmp_path / "batch.npy", image[None])
    (tmp_path / "mean.binaryproto").write_bytes(blob(image, legacy=True))
    for name in ("whole.npy", "batch.npy", "mean.binaryproto"):
        made = mean_image(tmp_path / name, CAFFE_PIXELS, 256)
        np.testing.assert_array_equal(made, expected, err_msg=name)
    np.save(tmp_path / "three.npy", np.asarray([104.0, 117.0, 123.0]))
    for given in (tmp_path / "three.npy", "104,117,123"):
        made = mean_image(given, CAFFE_PIXELS, 256)
        np.testing.assert_array_equal(made, np.full((256, 256, 3), (123, 117, 104)))
    # torchvision's network takes red first.
    made = mean_image("104,117,123", ORIGINS["owt"], 256)
    np.testing.assert_array_equal(made[0, 0], (104, 117, 123))
    # One of the crop's side is subtracted from crops.
    np.save(tmp_path / "crop.npy", image[:, :227, :227])
    made = mean_image(tmp_path / "crop.npy", CAFFE_PIXELS, 256)
    start = (256 - 227) // 2
    middle = slice(start, start + 227)
    np.testing.assert_array_equal(made[middle, middle], expected[:227, :227])
    assert made.shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 100, 100)), r"shape \(3, 100, 100\); three numbers, "),
        (np.zeros((256, 256, 3)), r"shape \(256, 256, 3\); three numbers, "),
        (np.full(3, np.nan), "not finite"),
        (b"no array", "can't be read"),
    ],
)
def test_other_mean_images_are_refused(tmp_path, content, message):
    path = tmp_path / "mean.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        mean_image(path, CAFFE_PIXELS, 256)
    with pytest.raises(InputError, match=r"--mean=104,x,123 can't be read"):
        mean_image("104,x,123", CAFFE_PIXELS, 256)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("windows.txt", "\ufeffcat\r\ndög\r\n", ("cat", "dög")),
        ("index.json", '{"1": ["n2", "dog"], "0": ["n1", "cat"]}', ("cat", "dog")),
        ("names.json", '\ufeff["cat", "dog"]', ("cat", "dog")),
        ("class_to_idx.JSON", '{"dog": 1, "cat": 0}', ("cat", "dog")),
        (
            "synset_words.txt",
            "n01440764 tench, Tinca\nn00000002 b",
            ("tench, Tinca", "b"),
        ),
        ("synsets.txt", "n01440764\nn00000002", ("n01440764", "n00000002")),
        ("mixed.txt", "n01440764 tench\nn2 b", ("n01440764 tench", "n2 b")),
    ],
)
def test_class_names_as_people_have_them(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_class_names(path) == expected


@pytest.mark.parametrize(
    "content",
    ['{"0": "a", "2": "b"}', '{"a": 0, "b": 0}', "[1, 2]", "5", "{", '{"x": "y"}'],
)
def test_other_json_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(
        InputError, match="no list of names, nor names by number"
    ) as caught:
        read_class_names(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("a.h5", (), "must end in .onnx or .safetensors"),
        ("no/where/a.onnx", (), "its folder isn't there"),
        ("folder.onnx", (), "is a folder; name a file"),
        ("a.safetensors", ("--opset=13",), "--opset is for an --output of .onnx"),
        ("a.onnx", ("--opset=9",), "--opset=9 must lie from 13 to below"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_anything_is_opened(
    tmp_path, output, more, message
):
    pytest.importorskip("onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match=message):
        weights.main(
            ["export", f"--workdir={tmp_path}", f"--output={tmp_path / output}", *more]
        )


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "fetch that .`git lfs pu"),
        (b"\n<!DOCTYPE html><html>", "is a web page; download the file itself again"),
        (b"", "is empty; download it again"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.onnx", "a.safetensors", "a.caffemodel"])
def test_what_a_failed_download_leaves_is_said(tmp_path, name, data, shown):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=shown):
        read_layers(tmp_path / name)


def test_files_from_before_pytorch_1_6(tmp_path):
    layers = random_layers(OWT, 64)
    path = tmp_path / "alexnet_places365.pth.tar"
    legacy_pth(path, torchvision_state(layers))
    for read, layer in zip(read_layers(path), layers, strict=True):
        np.testing.assert_array_equal(read.kernel, layer.kernel)
        np.testing.assert_array_equal(read.bias, layer.bias)
    whole = path.read_bytes()
    for cut in (40, 400, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"tar is cut off or damaged"):
            read_layers(path)
    path.write_bytes(whole.replace(b"ctorch._utils\n", b"cposix\n"))
    with pytest.raises(InputError, match="asks for posix._rebuild"):
        read_layers(path)


@pytest.mark.parametrize(("name", "content"), [("names.txt", "\n"), ("n.json", "[]")])
def test_a_file_without_a_name_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match="has no name in it; give one for each class"):
        read_class_names(path)
