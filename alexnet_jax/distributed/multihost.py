"""Several processes that train one network, by `jax.distributed`: joining and leaving.

Every process runs the same program on its own devices and reads its own slice of each
batch. Process 0, the main process, writes the run's files and logs. All processes save
their shards of a checkpoint into one directory, which all of them must see.

JAX ends a process abruptly when another one is lost, with a page of C++ and without
running what a program does at its end. Most of this module turns that into one line and
an exit status.
"""

import ctypes
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
from jax.experimental import multihost_utils

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import ENDS_ALL, InputError, ProcessLost, first_line


SECONDS_TO_JOIN = 120
SECONDS_OF_SILENCE = 30
# How long the main process waits for the others to leave first.
SECONDS_TO_LEAVE = 2
# How long JAX's abort waits for Python to report the same loss in its own words.
SECONDS_TO_REPORT = 10
LOST = (
    "process {process}: another process has ended or can't be reached ({reason}); "
    "start all of them again, and the run continues from its latest checkpoint"
)
# Set once Python has noticed that a process is lost.
_noticed = threading.Event()
# C holds a bare pointer to the handler; this reference keeps it from being collected.
_abort_handler: object = None


def start(
    address: str | None,
    processes: int | None,
    process: int | None,
    seconds_to_join: int = SECONDS_TO_JOIN,
    not_joined: int = 1,
) -> None:
    """Join the other processes. Call this before anything asks for a device.

    Args:
      address: HOST:PORT where process 0 listens for the others, on that interface only.
        None on a cluster that JAX knows: SLURM, cloud TPU, Kubernetes, Open MPI.
      processes: how many there are.
      process: the number of this process, from 0.
      seconds_to_join: how long to wait for a missing process.
      not_joined: exit status of this process if another doesn't join in time, after
        one line that names it.

    Raises:
      InputError: if an argument is missing or out of range, or JAX can't join.
    """
    _check_arguments(address, processes, process)
    # Without this a lost process makes JAX end the others before `together` can.
    jax.config.update("jax_enable_recoverability", True)
    # When a process doesn't join, JAX aborts this one and doesn't say who is missing;
    # the timer comes first.
    clock = threading.Timer(
        seconds_to_join,
        _give_up,
        (address, processes, process, seconds_to_join, not_joined),
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
    except Exception as error:
        # Variables that a cluster sets in part make JAX raise many kinds.
        where = f"at {address}" if address else "here: JAX finds no cluster"
        reason = first_line(error)[:160]
        if isinstance(error, KeyError):
            reason = f"the variable {error.args[0]} is not set"
        raise InputError(
            f"can't join other processes {where} ({reason}); give "
            "--distributed=HOST:PORT --processes=N --process=I to each process, or "
            "leave --distributed out where there is one alone"
        ) from error
    finally:
        clock.cancel()
    _handle_abort()
    if jax.process_index() > 0:
        progress.console.quiet = True


def _check_arguments(
    address: str | None, processes: int | None, process: int | None
) -> None:
    given = {
        "--distributed=HOST:PORT": address,
        "--processes": processes,
        "--process": process,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"{' and '.join(missing)} must be given too; or give --distributed alone, "
            "on a cluster that JAX knows"
        )
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"--distributed={address} must be HOST:PORT")
    if processes is not None and process not in range(processes):
        raise InputError(f"--process={process} must lie between 0 and {processes - 1}")


def _handle_abort() -> None:
    """Turn JAX's abort into one line and status 1.

    When the main process is lost, JAX aborts the others from one of its own threads, at
    about the time at which Python notices the loss.
    """

    def leave(_: int) -> None:
        if _noticed.is_set():
            # Python is about to report it and to end the process.
            time.sleep(SECONDS_TO_REPORT)
        else:
            progress.leave_line()
            line = f"error: {LOST.format(process=number, reason='JAX gave up')}\n"
            with suppress(OSError):
                os.write(2, line.encode())
        os._exit(1)

    number = jax.process_index()
    global _abort_handler
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    # Not signal.signal: Python's handlers run when the main thread gets to them, and an
    # abort doesn't wait for that.
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)


def _give_up(
    address: str | None,
    processes: int | None,
    process: int | None,
    seconds: int,
    status: int,
) -> None:
    """End this process, with one line that says which process is missing."""
    missing = "a process is missing"
    if address is not None and processes is not None and process is not None:
        absent = [str(n) for n in range(1, processes) if n != process]
        if process > 0 and not _answers(address):
            absent = ["0"]
        if not absent:
            missing = f"process 0 at {address} does not accept this process"
        elif len(absent) == 1:
            missing = f"process {absent[0]} is missing"
        else:
            missing = f"of processes {', '.join(absent)} one is missing"
    progress.complain(
        f"not all processes joined within {seconds} s: {missing}; start every "
        "process with the same command, and check that each can reach the address"
    )
    os._exit(status)


def _answers(address: str) -> bool:
    """Whether something accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def is_main() -> bool:
    """Whether this is process 0, which writes the run's files and logs."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return when every process has made the same call.

    Args:
      what: names the call; processes that wait for different things fail.
    """
    multihost_utils.sync_global_devices(what)


def is_device_error(error: BaseException) -> bool:
    """Whether a device raised it, or the connection between processes."""
    # JAX raises what gloo says as a plain ValueError where a collective fails while it
    # is dispatched.
    from_gloo = type(error) is ValueError and "Gloo" in str(error)
    return from_gloo or isinstance(error, jax.errors.JaxRuntimeError)


@contextmanager
def together() -> Iterator[None]:
    """Inside the block a process trains with others; at its end they leave together.

    Raises:
      ProcessLost: if another process has ended or doesn't answer.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_device_error(error):
            raise
        _noticed.set()
        reason = first_line(error)[:160]
        lost = LOST.format(process=jax.process_index(), reason=reason)
        raise ProcessLost(lost) from error
    except ENDS_ALL:
        # At the same step, so all of them come here.
        leave()
        raise
    else:
        leave()


def leave() -> None:
    """Disconnect from the other processes; every process must call this.

    The main process goes last: it is the coordinator, and JAX aborts a process whose
    coordinator has gone.
    """
    wait_for_all("the run's end")
    if is_main():
        time.sleep(SECONDS_TO_LEAVE)
    jax.distributed.shutdown()
