"""How the devices of a mesh are opened."""

import os
import subprocess
import sys
import types

import jax
import pytest

from alexnet_jax.distributed import mesh
from alexnet_jax.runtime.errors import InputError

import users


@pytest.mark.parametrize(
    ("cores", "threads"),
    [(1, "4"), (2, None), (64, None)],
)
def test_devices_have_threads_enough_on_few_cores(monkeypatch, cores, threads):
    # Set first, so that it is taken back afterwards.
    monkeypatch.setenv("PJRT_NPROC", "")
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setattr(mesh, "cores", lambda: cores)
    mesh.open_mesh(towers=2)
    assert os.environ.get("PJRT_NPROC") == threads


def test_a_number_of_threads_that_is_given_stays(monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "3")
    monkeypatch.setattr(mesh, "cores", lambda: 1)
    mesh.open_mesh(towers=2)
    assert os.environ["PJRT_NPROC"] == "3"


@pytest.mark.parametrize(("wanted", "said"), [(3, 1), (2, 0), (None, 0)])
def test_devices_that_are_open_already_are_taken(monkeypatch, capsys, wanted, said):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    opened = mesh.open_mesh(towers=2, virtual_cpu_devices=wanted)
    assert dict(opened.shape) == {"data": 1, "tower": 2}
    shown = capsys.readouterr().err
    assert shown.count("has no effect") == shown.count("takes the 2 there") == said


@pytest.mark.parametrize(
    ("order", "towers", "spread"),
    [
        # One process may leave a device out; several would have one without any.
        ("000", 2, True),
        ("012", 2, False),
        ("01", 2, True),
        ("0011", 2, True),
        ("000111", 2, False),
        ("0011", 4, True),
        ("001122", 4, False),
    ],
)
def test_towers_are_spread_where_every_process_has_its_part(order, towers, spread):
    devices = [types.SimpleNamespace(process_index=int(number)) for number in order]
    assert mesh._fit(towers, devices) == spread


@pytest.mark.parametrize("order", ["0101", "0011", "01100110", "0123301212300321"])
@pytest.mark.parametrize("tower", [1, 2])
def test_a_process_has_neighbouring_rows_of_a_batch(order, tower):
    """Whatever the order that a TPU's network gives its devices."""
    devices = [
        types.SimpleNamespace(process_index=int(process), id=number)
        for number, process in enumerate(order)
    ]
    found = mesh.by_process(devices, len(order) // tower, tower)
    assert {device.id for device in found.flat} == {*range(len(order))}
    rows = [{device.process_index for device in row} for row in found]
    assert [*map(min, rows)] == sorted(map(max, rows))
    assert all(len(row) == 1 for row in rows)


@pytest.mark.parametrize("process", [0, 1])
def test_every_process_refuses_what_one_has_no_part_in(monkeypatch, process):
    one = mesh.one_device()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    with pytest.raises(InputError, match="process 1 has 0 of 1 places"):
        mesh.data_share(one)


def test_devices_that_are_left_are_said(capsys):
    """Of two, since three towers need three."""
    assert mesh.open_mesh(towers=2).devices.size == 2
    assert capsys.readouterr().err == ""
    assert mesh.open_mesh(towers=1, data=1).devices.size == 1
    assert capsys.readouterr().err == ""
    program = """
from alexnet_jax.distributed import mesh
print(mesh.open_mesh(towers=2, virtual_cpu_devices=3).devices.size)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=users.environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2\n"
    said = "2 of the 3 devices are used, as groups of 2; --config.mesh.tower=1 takes"
    assert done.stderr.startswith(said)


def test_a_cpu_shows_itself_as_several_devices():
    program = """
from alexnet_jax.distributed import mesh
print(dict(mesh.open_mesh(towers=2, virtual_cpu_devices=2).shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=users.environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("{'data': 1, 'tower': 2}\n", "")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's")
def test_a_process_bound_to_one_core_counts_one():
    program = """
import os
from alexnet_jax.runtime.process_pool import cores
assert cores() == int(os.environ["LOKY_MAX_CPU_COUNT"])
os.environ.pop("LOKY_MAX_CPU_COUNT")
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
assert cores() == 1
"""
    # One less than there are, as a container may say; at least one.
    fewer = str(max(1, len(os.sched_getaffinity(0)) - 1))
    environment = {**os.environ, "LOKY_MAX_CPU_COUNT": fewer}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_a_platform_that_comes_too_late_is_one_line():
    """JAX takes it without a word, and opens nothing anew."""
    assert jax.devices()[0].platform == "cpu"
    try:
        for asked in ("cuda", "tpu,gpu"):
            with pytest.raises(InputError, match=f"platform={asked} comes too late"):
                mesh.open_mesh(towers=2, platform=asked)
        assert mesh.open_mesh(towers=2, platform="cuda,cpu").devices.size == 2
    finally:
        jax.config.update("jax_platforms", "cpu")


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_cannot_be_opened_is_one_line(platform):
    program = """
from alexnet_jax.distributed import mesh
from alexnet_jax.runtime import cli
cli.run_command(mesh.one_device)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": platform},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: JAX can't open the platform {platform} (")
    assert "JAX_PLATFORMS=cpu" in line


@pytest.mark.parametrize("name", mesh.NOT_WITH)
def test_debugging_that_does_not_fit_is_one_line(name):
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        with pytest.raises(InputError, match=f"^{name.upper()} is on, .*; unset it"):
            mesh.one_device()
    finally:
        jax.config.update(name, before)
