"""What error does the quickstart reach on held-out digits, over seeds?

Trains `configs/quickstart.py` with each seed and evaluates the last checkpoint, not the
best one: the held-out digits then choose nothing. Writes the table's raw results.

    python experiments/quickstart/run.py --output=FOLDER [--variant=paper]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

from commands import command


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", default="code2012")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            workdir = f"--workdir={folder}/run"
            begin = time.monotonic()
            config = f"--config=configs/quickstart.py:{given.variant}"
            command("main", config, workdir, f"--config.train.seed={seed}")
            seconds = time.monotonic() - begin
            last = "--checkpoint=latest"
            result = {"seed": seed, "seconds": round(seconds, 1)}
            for views in (1, 10):
                errors = command("evaluate", workdir, last, f"--views={views}")
                result[f"views_{errors['views']}"] = {
                    name: errors[name] for name in ("top1_error", "loss", "examples")
                }
            metrics = (Path(folder) / "run" / "metrics.jsonl").read_text()
        name = f"{given.variant}-seed{seed}-metrics.jsonl"
        (given.output / name).write_text(metrics)
        runs.append(result)
        print(json.dumps(result), file=sys.stderr)
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True).stdout.strip()
    summary = {
        "experiment": "quickstart",
        "variant": given.variant,
        "runs": runs,
        "top1_error_mean": {
            views: statistics.mean(run[views]["top1_error"] for run in runs)
            for views in ("views_1", "views_5")
        },
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "commit": commit,
    }
    path = given.output / f"{given.variant}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
