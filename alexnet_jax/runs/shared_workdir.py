"""Whether all processes of a run have the same work directory before them."""

import time
from pathlib import Path

import jax

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.runs.workdir import CHECKPOINTS
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.lock import LOCK_FILE


# A client of NFS may list a folder for so long as it was.
SECONDS_TO_SEE = 75.0
SECONDS_BETWEEN_LOOKS = 0.5


def check_shared(workdir: Path) -> None:
    """Check that every process sees what the main process has in the directory, which
    it has locked: its lock, and its checkpoints.

    Raises:
      InputError: in every process, if one does not.
    """
    if jax.process_count() == 1:
        return
    steps = directories.steps_in(workdir / CHECKPOINTS) if multihost.is_main() else []
    names = [LOCK_FILE, *(f"{CHECKPOINTS}/{step}" for step in steps)]
    wanted = [workdir / name for name in consensus.of_main(names)]
    begin = time.monotonic()
    while absent := [path for path in wanted if not path.exists()]:
        if time.monotonic() - begin > SECONDS_TO_SEE:
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if consensus.all_of(not absent):
        return
    multihost.leave()
    what = f"{absent[0]} is not there" if absent else "another process does not see it"
    raise InputError(
        f"{workdir} must be one folder that all processes see, and {what}; give every "
        "process a --workdir on a disk that they share"
    )
