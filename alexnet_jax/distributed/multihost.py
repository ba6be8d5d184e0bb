"""Several processes that train as one, through `jax.distributed`: they join and part.

Every process runs the same program on its own devices and reads its own part of each
batch. The first one, the main process, writes the run's files and talks; all of them
save their part of a checkpoint into one directory, which all of them must see.
"""

import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, Interrupted, ProcessLost, first_line


SECONDS_TO_JOIN = 120
SECONDS_OF_SILENCE = 30
SECONDS_TO_PART = 2
SECONDS_TO_LEAVE = 10
LOST = (
    "process {process}: another process has ended or can't be reached ({reason}); "
    "start all of them again, and the run goes on from its latest checkpoint"
)
# Set when a lost process has been noticed; the handler, which must not be collected.
_leaving = threading.Event()
_abort_handler: Any = None


def start(
    address: str | None,
    processes: int | None,
    process: int | None,
    seconds_to_join: int = SECONDS_TO_JOIN,
) -> None:
    """Join the other processes. To be called before anything asks for a device.

    Args:
      address: HOST:PORT where process 0 waits for the others, on that interface alone.
        None where JAX finds everything by itself: under SLURM, on a cloud TPU, under
        Kubernetes or Open MPI.
      processes: how many there are.
      process: which one this is, from 0.
      seconds_to_join: after which a missing process is given up.

    Raises:
      InputError: if an argument is missing, or a process doesn't join in time.
    """
    given = {"--distributed=HOST:PORT": address, "--processes": processes}
    given["--process"] = process
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"{' and '.join(missing)} must be given too; or --distributed alone, where "
            "a cluster tells JAX the rest"
        )
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"--distributed={address} must be HOST:PORT")
    if processes is not None and process not in range(processes):
        raise InputError(f"--process={process} must lie between 0 and {processes - 1}")
    # The others must not be torn down by JAX itself, which would say it in a page of
    # C++ and skip what a run does at its end; see `together`.
    jax.config.update("jax_enable_recoverability", True)
    # Where a process doesn't join JAX aborts this one, and doesn't say who is missing.
    clock = threading.Timer(
        seconds_to_join, _give_up, (address, processes, process, seconds_to_join)
    )
    clock.daemon = True
    clock.start()
    try:
        jax.distributed.initialize(
            address,
            processes,
            process,
            cluster_detection_method="deactivate" if address else None,
            coordinator_bind_address=address,
            initialization_timeout=seconds_to_join + 60,
            heartbeat_timeout_seconds=SECONDS_OF_SILENCE,
        )
    except (RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "here: JAX finds no cluster"
        raise InputError(
            f"can't join other processes {where} ({first_line(error)[:160]}); give "
            "--distributed=HOST:PORT --processes=N --process=I to each process"
        ) from error
    finally:
        clock.cancel()
    _leave_rather_than_abort()
    if jax.process_index() > 0:
        progress.console.quiet = True


def _leave_rather_than_abort() -> None:
    """Where the main process has gone JAX aborts the others from a thread of its own,
    at about the time when Python hears of it; let it be one line and status 1."""

    def leave(_: int) -> None:
        if _leaving.is_set():
            # Python has heard of it, and is about to say so.
            time.sleep(SECONDS_TO_LEAVE)
        else:
            line = f"error: {LOST.format(process=number, reason='JAX gave up')}\n"
            os.write(2, line.encode())
        os._exit(1)

    number = jax.process_index()
    global _abort_handler
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    # Python's own handlers wait for the main thread, which an abort does not.
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)


def _give_up(
    address: str | None, processes: int | None, process: int | None, seconds: int
) -> None:
    """End this process, with one line that says who is missing."""
    missing = "a process is missing"
    if address is not None and processes is not None and process is not None:
        absent = [number for number in range(1, processes) if number != process]
        if process > 0 and not _answers(address):
            absent = [0]
        missing = {
            0: f"process 0 at {address} does not let this one in",
            1: f"process {absent[0] if absent else None} is missing",
        }.get(len(absent), f"of processes {', '.join(map(str, absent))} one is missing")
    print(
        f"error: not all processes joined within {seconds} s: {missing}; start every "
        "process with the same command, and see that each can reach the address",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return when every process has come to the same place."""
    multihost_utils.sync_global_devices(what)


def is_of_devices(error: BaseException) -> bool:
    """Whether devices raised it, or the connection between processes."""
    # A collective that fails while it is dispatched says so in gloo's own words.
    of_gloo = type(error) is ValueError and "Gloo" in str(error)
    return of_gloo or isinstance(error, jax.errors.JaxRuntimeError)


@contextmanager
def together() -> Iterator[None]:
    """A run of several processes: they end together, or say that one is lost.

    Raises:
      ProcessLost: if another process has ended or fallen silent.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_of_devices(error):
            raise
        _leaving.set()
        reason = first_line(error)[:160]
        lost = LOST.format(process=jax.process_index(), reason=reason)
        raise ProcessLost(lost) from error
    except Interrupted:
        part()
        raise
    else:
        part()


def part() -> None:
    """Leave the others. JAX aborts a process whose coordinator has gone, so the main
    process, which is that, goes last."""
    wait_for_all("the run's end")
    if is_main():
        time.sleep(SECONDS_TO_PART)
    jax.distributed.shutdown()
