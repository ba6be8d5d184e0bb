"""How commands end: their exit status, and one line on standard error."""

import os
import subprocess
import sys

import pytest

from alexnet_jax.runtime import cpp_log


PROGRAM = """
import os, signal, sys
from alexnet_jax.runtime import cli, errors

class Lost(errors.Failure):
    abrupt = True

# Where the tests run in the background of a shell it would be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    {body}

try:
    cli.run_command(main)
finally:
    print("left in order", flush=True)
"""


# No room for another thread's stack.
NO_ROOM = """import resource, threading
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 2**22
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    """
IN_A_COLLECTION = """import gc, time
    gc.callbacks.append(
        lambda *_: gc.callbacks.clear() or os.kill(os.getpid(), signal.{})
    )
    gc.collect()
    time.sleep(20)"""
NO_THREADS = (
    "error: the system starts no more threads or processes: a limit of the user "
)


@pytest.mark.parametrize(
    ("body", "status", "line", "in_order"),
    [
        ("pass", 0, "", True),
        ("raise errors.InputError('no such thing')", 2, "error: no such thing\n", True),
        ("raise errors.Failure('it broke')", 1, "error: it broke\n", True),
        ("raise Lost('it hangs')", 1, "error: it hangs\n", False),
        (
            "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')",
            1,
            "error: the device's memory is full; take a smaller batch",
            True,
        ),
        ("raise OSError(28, 'No space left')", 1, "error: [Errno 28] No space", True),
        (NO_ROOM + "threading.Thread(target=int).start()", 1, NO_THREADS, False),
        ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", 143, "", True),
        ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130, "", True),
        # Where Python raises nothing.
        (IN_A_COLLECTION.format("SIGINT"), 130, "", True),
        (IN_A_COLLECTION.format("SIGTERM"), 143, "", True),
    ],
)
def test_status_and_one_line(body, status, line, in_order):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == bool(line)
    assert bool(done.stdout) == in_order


SHOW = """
from alexnet_jax.runtime import progress
def main(): progress.show("x")
"""
RUN = "from alexnet_jax.runtime import cli; cli.run_command(main)"
SHOWS = """
from alexnet_jax.runtime import progress
    progress.say("under way")
    print("a result", flush=True)
    raise errors.InputError("no such thing")
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_behind_a_stream_changes_no_more_than_what_is_shown():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=SHOWS.strip())],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (2, "a result\nleft in order\n")
        for body in (SHOW, "def main(): print('x')"):
            done = subprocess.run(
                [sys.executable, "-c", f"{body}\n{RUN}"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
                timeout=60,
            )
            assert done.returncode == 1
            assert done.stderr == (
                "error: standard output can't be written (No space left on device)\n"
            )


@pytest.mark.parametrize("body", [SHOW, "def main(): print('x')"])
def test_a_reader_that_has_ended_is_no_error(body):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", f"{body}\n{RUN}"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


WARNS = """
import logging, warnings
from PIL import Image
from alexnet_jax.runtime import cli

def main():
    for place in range(3):
        warnings.warn(f"Corrupt EXIF data.  Expecting to read {place} bytes.")
    warnings.warn("old", DeprecationWarning)
    warnings.warn("one more\\nover two lines")
    logging.getLogger("PIL.TiffImagePlugin").warning("Invalid TIFF tag")
    logging.getLogger("jax._src.xla_bridge").warning("An NVIDIA GPU may be present")
    # As absl does, which then has the root write what libraries log.
    logging.basicConfig()
    logging.getLogger("matplotlib").warning("created a temporary cache directory")

cli.run_command(main)
"""


def test_warnings_of_libraries_are_counted_and_said_once():
    done = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, timeout=60
    )
    exif, other, tiff, gpu, cache = done.stderr.splitlines()
    assert exif.startswith("note: some images have EXIF data that can't be read")
    assert exif.endswith("(3 times)")
    assert other.endswith("warns: one more over two lines")
    assert tiff.startswith("note: some TIFF files have fields")
    assert '[cuda12]"`' in gpu
    assert "MPLCONFIGDIR" in cache


def test_warnings_that_a_user_asks_python_for_are_shown():
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", WARNS],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "UserWarning: Corrupt EXIF data" in done.stderr
    assert "DeprecationWarning: old" in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "caf\\xe9 \\u732b"),
        ("latin-1", "café \\u732b"),
        ("utf-8", "café 猫"),
    ],
)
def test_what_the_output_can_t_show_is_escaped(encoding, shown):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body="print('caf\\xe9 \\u732b')")],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode(encoding) == f"{shown}\nleft in order\n"


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, "2"),
        ({"JAX_COMPILATION_CACHE_DIR": "cache"}, "3"),
        ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0"),
    ],
)
def test_what_jax_logs_in_cpp_is_the_users_choice(monkeypatch, given, level):
    for name in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
        # Set first, so that it is taken back afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cpp_log.silence()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == level
