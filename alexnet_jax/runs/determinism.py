"""The same bits again on a GPU, as `train.deterministic` says.

On a CPU the same program gives the same bits. On a GPU XLA chooses algorithms by timing
them, and some add in an order that differs from run to run: so the steps are compiled
without these, and what was chosen is kept in the work directory for the next start.
"""

import atexit
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

from jax.sharding import Mesh

from alexnet_jax.distributed.multihost import is_main
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.training import compilation
from alexnet_jax.training.compilation import CompilerOptions


# `auto` until its cost on a GPU is measured.
AUTO = "false"
EXCLUDE = "xla_gpu_exclude_nondeterministic_ops"
DUMP = "xla_gpu_dump_autotune_results_to"
LOAD = "xla_gpu_load_autotune_results_from"
# XLA writes and reads text where a file's name ends so.
ENDING = ".pbtxt"


def _own_folder() -> Path:
    """A folder that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="alexnet_jax_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@dataclasses.dataclass(frozen=True, eq=False)
class Autotuning:
    """The algorithms that XLA has chosen, in a file of a work directory.

    Attributes:
      kept: the file, one a kind of device.
      fresh: the folder where XLA writes them, whenever it has compiled: only whole
        files come into the work directory.
    """

    kept: Path
    fresh: Path = dataclasses.field(default_factory=_own_folder)

    @property
    def written(self) -> Path:
        """The file that XLA writes."""
        return self.fresh / f"chosen{ENDING}"

    def options(self) -> dict[str, bool | str]:
        """What has XLA take the choices of an earlier start, and write its own."""
        found: dict[str, bool | str] = {}
        if self.kept.exists():
            found[LOAD] = str(self.kept)
        if is_main():
            found[DUMP] = str(self.written)
        return found

    def keep(self) -> None:
        """Put what XLA has written, if anything new, into the work directory."""
        if not self.written.exists():
            return
        chosen = self.written.read_bytes()
        if not chosen or (self.kept.exists() and self.kept.read_bytes() == chosen):
            return
        with writing(self.kept):
            atomic.make_folder(self.kept.parent)
            # On the disk, so that whoever resumes from a checkpoint finds them.
            atomic.replace(self.kept, chosen)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Determinism:
    """How the steps of a run are compiled.

    Attributes:
      options: of XLA.
      same_bits: whether another start on the same kind of device, with the same
        versions, is promised to give the same bits.
      repeats: whether the same program gives the same bits twice.
      autotuning: what is kept for that start.
    """

    options: CompilerOptions = dataclasses.field(default_factory=dict)
    same_bits: bool = False
    repeats: bool = True
    autotuning: Autotuning | None = None

    def noted(self) -> dict[str, object]:
        """What `run.json` says of it."""
        names = (name for name in self.options if name not in (DUMP, LOAD))
        return {"compiler_options": " ".join(names), "same_bits": self.same_bits}


def choose(
    deterministic: str, *, platform: str, kind: str, folder: Path | None
) -> Determinism:
    """How steps are compiled for a platform.

    Args:
      deterministic: `auto`, `true` or `false`; see `make_plan`.
      platform: `cpu`, `gpu` or `tpu`, as JAX names it.
      kind: of its devices, as JAX names it.
      folder: where the chosen algorithms are kept; None keeps none.
    """
    if platform != "gpu":
        return Determinism(same_bits=platform == "cpu")
    wanted = AUTO if deterministic == "auto" else deterministic
    if wanted == "false":
        return Determinism(repeats=False)
    name = re.sub(r"[^\w.-]+", "_", kind)
    autotuning = None if folder is None else Autotuning(folder / f"{name}{ENDING}")
    options: dict[str, bool | str] = {EXCLUDE: True}
    if autotuning is not None:
        options |= autotuning.options()
    taken = compilation.known(options)
    same = taken.keys() == options.keys() and autotuning is not None
    return Determinism(
        options=taken, same_bits=same, repeats=EXCLUDE in taken, autotuning=autotuning
    )


def of_run(deterministic: str, mesh: Mesh, folder: Path | None) -> Determinism:
    """How the steps of a run are compiled for its devices; see `choose`."""
    device = mesh.devices.flat[0]
    return choose(
        deterministic,
        platform=device.platform,
        kind=device.device_kind,
        folder=folder,
    )
