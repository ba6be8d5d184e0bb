"""Published weights by name: fetched once, checked, imported, and used as they were."""

import hashlib
import http.server
import json
import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax import explain, figures, predict, weights
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.interop.fetching import Patience, fetch, recorded_sha256
from alexnet_jax.interop.importing import ORIGINS, import_weights
from alexnet_jax.interop.published import PUBLISHED, Published
from alexnet_jax.runs import pretrained
from alexnet_jax.runs.config import plain
from alexnet_jax.runtime.errors import Failure, InputError

import runs
from weight_files import SMALL, caffemodel_bytes, pth, random_layers, small


CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA1 = hashlib.sha1(CONTENT).hexdigest()
PATIENT = Patience(seconds=30.0, tries=3, pause=0.0)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT in the ways of `mode`, and notes where each answer began."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.begins, self.content = "whole", [], CONTENT

    def item(self, **changes):
        url = f"http://127.0.0.1:{self.server_port}/alexnet.pth"
        about = {"top1_error": None, "about": "", "imagenet": False}
        stated = {"stated": f"sha256:{SHA256[:8]}", "resize": "torchvision"}
        given = {"preset": "owt", "url": url, "file": "alexnet.pth", **about, **stated}
        return Published(**{**given, **changes})


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_GET(self):
        mode, content = self.server.mode, self.server.content
        if mode == "missing":
            self.send_error(404)
            return
        begin = int(re.findall(r"\d+", self.headers["Range"])[0])
        if mode == "no ranges":
            begin = 0
        self.server.begins.append(begin)
        if begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        last = len(content) - 1
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        rest = content[begin:]
        if mode in ("breaks off", "no ranges"):
            self.wfile.write(rest[:100_000])
        elif mode == "slow":
            for place in range(0, len(rest), 50_000):
                self.wfile.write(rest[place : place + 50_000])
                time.sleep(0.02)
        elif mode == "stalls":
            self.wfile.write(rest[:50_000])
            time.sleep(1.5)
        else:
            self.wfile.write(rest)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def requests():
    return pytest.importorskip("requests")


def test_a_file_is_fetched_once_and_recorded(server, tmp_path, capsys):
    path = fetch(server.item(), tmp_path / "cache", PATIENT)
    assert path.read_bytes() == CONTENT
    shown = capsys.readouterr().err
    assert re.match(
        rf"fetching http://127.*/alexnet.pth \(0.3 MiB\) to {path}\n", shown
    )
    assert f"SHA-256 {SHA256}, checked by sha256:{SHA256[:8]}" in shown
    assert recorded_sha256(path) == SHA256
    server.mode = "missing"
    assert fetch(server.item(), tmp_path / "cache", PATIENT) == path
    assert capsys.readouterr().err == ""
    # By a SHA-1, by none, and by a whole SHA-256, of a file that was put there.
    for stated, sha256 in ((f"sha1:{SHA1}", None), ("", SHA256)):
        put = tmp_path / stated[:4] / "alexnet.pth"
        put.parent.mkdir(exist_ok=True)
        put.write_bytes(CONTENT)
        fetch(server.item(stated=stated, sha256=sha256), put.parent, PATIENT)


@pytest.mark.parametrize("mode", ["slow", "breaks off", "stalls"])
def test_what_arrived_is_kept_through_any_break(server, tmp_path, mode):
    server.mode = mode
    # Seconds without a byte: too few for what stalls, enough on a busy machine.
    seconds = 0.3 if mode == "stalls" else 30.0
    path = fetch(server.item(), tmp_path, Patience(seconds, 3, 0.0))
    assert path.read_bytes() == CONTENT
    assert sorted(server.begins) == server.begins
    assert (len(server.begins) == 1) == (mode == "slow")
    assert not list(tmp_path.glob("*.part"))


def test_a_command_that_was_stopped_continues(server, tmp_path):
    server.mode = "no ranges"
    with pytest.raises(Failure, match="can't be fetched .*put it to .*alexnet.pth"):
        fetch(server.item(), tmp_path, PATIENT)
    part = (tmp_path / "alexnet.pth.part").stat().st_size
    assert 0 < part <= 100_000
    server.mode = "whole"
    server.begins.clear()
    assert fetch(server.item(), tmp_path, PATIENT).read_bytes() == CONTENT
    assert server.begins == [part]
    # Stopped between the last byte and the check; or the part is of a longer file.
    for part in (CONTENT, CONTENT + b"more"):
        folder = tmp_path / str(len(part))
        folder.mkdir()
        (folder / "alexnet.pth.part").write_bytes(part)
        assert fetch(server.item(), folder, PATIENT).read_bytes() == CONTENT


def test_a_wrong_file_is_kept_aside_and_not_used(server, tmp_path):
    server.content = b"<html>" + CONTENT
    wrong = hashlib.sha256(server.content).hexdigest()
    for name in ("alexnet.pth.wrong", "alexnet.pth.wrong2"):
        with pytest.raises(Failure, match=rf"SHA256 is {wrong}, .*{name} and not used"):
            fetch(server.item(), tmp_path, PATIENT)
        assert (tmp_path / name).read_bytes() == server.content
        assert not (tmp_path / "alexnet.pth").exists()
    server.content = CONTENT
    path = fetch(server.item(), tmp_path, PATIENT)
    # A file that has changed since it was checked, though its publisher states no hash.
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(Failure, match=f"alexnet.pth.json states {SHA256}"):
        fetch(server.item(stated=""), tmp_path, PATIENT)
    with pytest.raises(Failure, match=f"alexnet_jax states {'0' * 64}"):
        fetch(server.item(sha256="0" * 64), tmp_path, PATIENT)


def test_no_network_is_one_line_with_the_place(server, tmp_path):
    server.mode = "missing"
    place = re.escape(str(tmp_path / "alexnet.pth"))
    with pytest.raises(Failure, match=rf"404.*put it to {place}"):
        fetch(server.item(), tmp_path, PATIENT)
    down = server.item(url="http://127.0.0.1:9/alexnet.pth")
    with pytest.raises(Failure, match=rf"can't be fetched .*put it to {place}"):
        fetch(down, tmp_path, PATIENT)


def test_the_table_has_presets_and_hashes():
    for item in PUBLISHED.values():
        assert item.preset in ORIGINS
        kind, _, digits = item.stated.partition(":")
        assert re.fullmatch("[0-9a-f]*", digits)
        assert not kind or len(digits) in (8, hashlib.new(kind).digest_size * 2)


@pytest.mark.parametrize("preset", ORIGINS)
def test_a_preset_cuts_what_its_weights_take(preset):
    config = alexnet_jax.preset_config(preset)
    assert config.data.get("crop", Pipeline.crop) == ORIGINS[preset].crop


def literal_torchvision(image, size=256):
    """torchvision's Resize(256), and the square whose centre its CenterCrop takes."""
    width, height = image.size
    short, long = sorted(image.size)
    long = int(size * long / short)
    new = (size, long) if width <= height else (long, size)
    image = image.resize(new, Image.Resampling.BILINEAR)
    left = round((new[0] - 224) / 2.0) - 16
    top = round((new[1] - 224) / 2.0) - 16
    return np.asarray(image)[top : top + size, left : left + size]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["owt", "caffe"])
def test_imported_weights_see_what_their_publisher_showed_them(
    tmp_path, monkeypatch, photographs, preset, capsys
):
    pytest.importorskip("pooch")
    safetensors = pytest.importorskip("safetensors")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = alexnet_jax.load_config("imagenet", preset)
    config.model.layers.update(SMALL)
    origin = ORIGINS[preset]
    layers = random_layers(small(preset), origin.crop)
    if preset == "owt":
        path = tmp_path / "x.pth"
        named = {"weight": "kernel", "bias": "bias"}
        state = {
            f"{layer.name}.{end}": getattr(layer, array)
            for layer in layers
            for end, array in named.items()
        }
        pth(path, state)
    else:
        path = tmp_path / "x.caffemodel"
        path.write_bytes(caffemodel_bytes(layers))
    with pytest.raises(InputError, match=r"tiny is neither .*weights import --help"):
        alexnet_jax.load("tiny")
    workdir = pretrained.workdir_of("tiny")
    # As an import that was killed leaves it.
    left = workdir.with_name("tiny.part") / "checkpoints"
    left.mkdir(parents=True)
    with pretrained.imported(workdir) as staging:
        assert staging is not None and not workdir.exists()
        import_weights(path, staging, plain(config), origin)
    with pretrained.imported(workdir) as staging:
        assert staging is None
    monkeypatch.chdir(tmp_path)
    loaded = alexnet_jax.load("tiny")
    sizes = [(427, 640), (427, 301), (300, 257), (3, 5), (256, 256)]
    for height, width in sizes:
        image = Image.fromarray(photographs[0][:height, :width])
        if preset == "owt":
            square = literal_torchvision(image)
        else:
            square = np.asarray(image.resize((256, 256), Image.Resampling.LANCZOS))
        border = (256 - origin.crop) // 2
        inside = slice(border, border + origin.crop)
        expected = square[inside, inside].astype(np.float32)
        expected = expected - np.asarray(origin.mean, np.float32)
        np.testing.assert_array_equal(loaded.preprocess(image)[0], expected)
    if preset == "caffe":
        return
    Image.fromarray(photographs[0]).save(tmp_path / "one.png")
    predict.main(["--workdir=tiny", "one.png", "--json"])
    shown = capsys.readouterr()
    assert "long side rounded down" in shown.err
    assert len(json.loads(shown.out)["classes"]) == 5
    with safetensors.safe_open(exported("tiny", tmp_path), "np") as file:
        assert "the short side resized" in file.metadata()["images"]


@pytest.mark.slow
def test_weights_are_imported_by_their_name_once(server, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def small_config(name, preset):
        config = alexnet_jax.load_config(name, preset)
        config.model.layers.update(SMALL)
        return config

    monkeypatch.setattr(weights, "load_config", small_config)
    layers = random_layers(small("owt").clone(num_classes=1000), 224)
    named = {"weight": "kernel", "bias": "bias"}
    state = {
        f"{layer.name}.{end}": getattr(layer, array)
        for layer in layers
        for end, array in named.items()
    }
    pth(tmp_path / "x.pth", state)
    server.content = (tmp_path / "x.pth").read_bytes()
    stated = f"sha256:{hashlib.sha256(server.content).hexdigest()}"
    item = server.item(stated=stated, imagenet=True)
    monkeypatch.setitem(PUBLISHED, "nearly", item)

    def imported(*more):
        weights.main(["import", "--input=nearly", *more])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first = imported()
    assert first["parameters"] == sum(a.size for a in state.values())
    assert first["sha256"] == stated.partition(":")[2]
    assert alexnet_jax.load("nearly").class_names[0] == "tench, Tinca tinca"
    assert "parameters" not in imported()
    assert len(server.begins) == 1
    with pytest.raises(InputError, match="nearly is imported already, to .*--workdir"):
        imported("--mean=0,0,0")
    with pytest.raises(InputError, match="weights for --preset=owt, not caffe"):
        imported("--preset=caffe")


def exported(name, folder):
    safetensors_output = folder / f"{name}.safetensors"
    weights.main(["export", f"--workdir={name}", f"--output={safetensors_output}"])
    return safetensors_output


@pytest.mark.parametrize("command", [explain, figures, weights])
def test_every_command_looks_for_a_name(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    more = {explain: ["cat.jpg"], figures: [], weights: ["--output=net.onnx"]}
    verb = ["export"] if command is weights else []
    with pytest.raises(InputError, match="torchvison is neither a work directory nor"):
        command.main([*verb, "--workdir=torchvison", *more[command]])


def test_an_image_too_long_to_resize_is_named(tmp_path):
    from alexnet_jax.inference.image_input import stored

    with pytest.raises(InputError, match="3000 x 1 pixels, too long to be resized"):
        stored(Image.new("RGB", (3000, 1)), 256, "torchvision")


def test_a_run_from_a_name_that_is_not_imported_is_one_line(tmp_path):
    with pytest.raises(InputError, match="torchvison is neither a work directory nor"):
        runs.run(tmp_path, "run", "--config.train.init_from=torchvison")


def test_bad_names_and_missing_flags_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bvlc").mkdir()
    for given, message in (
        (["--input=torchvision", "--preset=caffe"], "weights for --preset=owt"),
        (["--input=x.pth"], "--preset is missing"),
        (["--input=x.pth", "--preset=owt"], "--workdir is missing"),
        (["--input=torchvison", "--preset=owt", "--workdir=w"], "no known format"),
        # A folder of this name, as the work directory of an import before.
        (["--input=bvlc", "--preset=owt"], "weights for --preset=caffe"),
    ):
        with pytest.raises(InputError, match=message):
            weights.main(["import", *given])
