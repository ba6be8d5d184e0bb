"""The parts in small, on the CPU shown as two devices, two at a time.

python experiments/accelerator/dry.py OUT SCRIPT ... [OPTION ...]
"""

import multiprocessing
import os
import runpy
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


# By how long they take: the longest begin.
ORDER = ("a3", "a1", "a2", "c", "a4", "b")
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    # Most of the time goes into compiling, and no program runs for long.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    # What one part has compiled another takes, also in another process.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # XLA finds its own hints in what it takes from a cache, and takes them for missing
    # features of the processor.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def run(script: str, output: str, options: list[str]) -> int:
    """Run a part in this process, which has done others before, and give its exit
    status."""
    sys.path.insert(0, str(Path(script).parent))
    # Here: the process that hands out the parts needs no JAX.
    import pieces  # noqa: F401, I001
    import commands

    commands.in_this_process = True
    sys.argv = [script, f"--output={output}", *options]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        # One part's fault is not the others'.
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    output, *others = sys.argv[1:]
    options = [text for text in others if text.startswith("-")]
    scripts = [text for text in others if text not in options]
    scripts.sort(key=lambda script: ORDER.index(Path(script).name.partition("_")[0]))
    # Processes read these when they import JAX.
    os.environ.update(SETTINGS)
    cache = str(Path(output, "compiled").resolve())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, len(scripts)), mp_context=fresh) as pool:
        count = len(scripts)
        found = pool.map(run, scripts, [output] * count, [options] * count)
        status = max(found)
    sys.exit(status)


if __name__ == "__main__":
    main()
