"""The parts in small, on the CPU shown as two devices, in one process.

python experiments/accelerator/dry.py OUT SCRIPT ... [OPTION ...]
"""

import os
import runpy
import sys
import traceback
from pathlib import Path


# Before JAX is imported, here and in what is started from here.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
# XLA finds its own hints in what it takes from a cache, and takes them for missing
# features of the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import pieces  # noqa: F401


# isort: split

import commands


def main() -> None:
    output, *others = sys.argv[1:]
    # What one part has compiled another takes, also in another process.
    cache = str(Path(output, "compiled").resolve())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    commands.in_this_process = True
    options = [text for text in others if text.startswith("-")]
    status = 0
    for script in (text for text in others if text not in options):
        sys.argv = [script, f"--output={output}", *options]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = status or int(end.code or 0)
        except Exception:
            # One part's fault is not the others'.
            traceback.print_exc()
            status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
