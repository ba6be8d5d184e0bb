"""The short forms of the experiments, as their own help gives them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.sources.arrays import array_dataset

import users


EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TABLES = ("ablations", "ensembles", "finetuning", "generalisation", "imagenette")
NAMES = (*TABLES, "initialisation", "lrn_cifar", "optimizer", "quickstart", "relu")

# Others show the same, in less time.
LONG = {
    *("ablations", "ensembles", "finetuning", "imagenette", "initialisation"),
    *("generalisation", "lrn_cifar", "quickstart", "relu"),
}
# What keeps a short form short here, beside --quick.
SHORTER = {
    "ablations": ("--ablations", "no_exchange"),
    "generalisation": ("--networks", "mlp", "--rows", "plain", "random labels"),
    "lrn_cifar": ("--networks", "four_layers_norm", "cifar_11pct"),
    "relu": ("--activations", "tanh", "--pixels", "whitened", "example"),
}


def run(name, tmp_path, *arguments):
    runs = () if name == "optimizer" else (f"--runs={tmp_path / 'runs'}",)
    script = EXPERIMENTS / name / "run.py"
    return subprocess.run(
        [
            sys.executable,
            str(script),
            *runs,
            f"--output={tmp_path / 'out'}",
            *arguments,
        ],
        env=users.environment(compiled=True, JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=getattr(pytest.mark, "extended" if name in LONG else "slow")
        )
        for name in NAMES
    ],
)
def test_a_short_form_runs(name, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(name, tmp_path, "--quick", *SHORTER.get(name, ()))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["experiment"] == name
    (results,) = [
        path
        for path in (tmp_path / "out").iterdir()
        if (path.suffix == ".jsonl" and not path.name.endswith("-metrics.jsonl"))
        or (name == "ensembles" and path.suffix == ".json")
    ]
    for line in results.read_text().splitlines() if results.suffix == ".jsonl" else ():
        json.loads(line)
    check = globals().get(f"check_{name}")
    if check is not None:
        check(result)


def check_optimizer(result):
    # Before the drop they differ by rounding; then one step shrinks at once.
    assert result["before_the_drop"] < 1e-5
    assert result["first_step_after"]["paper"] > 0.7
    assert result["first_step_after"]["optax.sgd"] < 0.2


def check_ensembles(result):
    assert result["members"] == ["network-0", "with_past-0"]
    for evaluation in result["evaluations"]:
        assert len(evaluation["alone"]) == len(evaluation["first"]) == 2
        assert evaluation["first"][-1]["loss"] == evaluation["loss"]


def check_finetuning(result):
    errors = result["top1_error"]
    assert set(errors) == {"scratch", "default", "recipe"}
    for by_images in errors.values():
        ((images, (error,)),) = by_images.items()
        assert images == "4" and 0 <= error <= 1


def check_ablations(result):
    assert set(result["table"]) == {"code2012", "no_exchange"}
    assert result["table"]["code2012"]["worse_by"] == 0
    assert result["table"]["no_exchange"]["published"] == {"logs": [1.16, 1.12]}


def check_imagenette(result):
    one, several = result["evaluations"]
    views = result["by_view"]
    assert views[0]["alone"] == pytest.approx(one["top1_error"], abs=1e-5)
    assert views[-1]["up_to_it"] == pytest.approx(several["top1_error"], abs=1e-5)


def test_an_unknown_ablation_lists_the_known_ones(tmp_path):
    done = run("ablations", tmp_path, "--ablations", "no_lrn")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no ablation no_lrn; choose from no_norm, pool_2x2, one_tower" in line


@pytest.mark.slow
def test_what_a_command_refuses_is_printed_once(tmp_path):
    wrong = "--config.data.path=nowhere"
    done = run("ablations", tmp_path, "--ablations", "--seeds", "0", wrong)
    assert done.returncode == 2
    (line,) = [t for t in done.stderr.splitlines() if not t.startswith("code2012")]
    assert line.startswith("error: data.path has no meaning for the digits")


STARTED = """
import os, pathlib, runpy, sys
from alexnet_jax.runtime import hugepages
hugepages.POLICY = pathlib.Path(sys.argv[2])
os.execve = lambda *arguments: sys.exit("restarts")
runpy.run_path(sys.argv[1], run_name=sys.argv[3])
"""


@pytest.mark.parametrize(
    ("name", "said"), [("__main__", "restarts\n"), ("imported", "")]
)
def test_an_experiment_runs_on_huge_pages_as_the_commands_do(tmp_path, name, said):
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    started = EXPERIMENTS / "ablations" / "differences.py"
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    # Where Python looks for the modules beside a script.
    environment["PYTHONPATH"] = str(started.parent)
    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(started), str(policy), name],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == said


def script(name, monkeypatch):
    """An experiment's functions."""
    monkeypatch.syspath_prepend(EXPERIMENTS / name)
    return runpy.run_path(str(EXPERIMENTS / name / "run.py"))


def test_fine_tuning_learns_no_image_that_it_is_chosen_by(monkeypatch):
    of = script("finetuning", monkeypatch)
    labels = np.repeat(np.arange(3, dtype=np.int32), 20)
    pixels = np.zeros((60, 2, 2, 3), np.uint8)
    # Every image is known by a pixel.
    pixels[:, 0, 0, 0] = np.arange(60)
    dataset = array_dataset(
        {"train": pixels, "validation": pixels + 100},
        {"train": labels, "validation": labels},
        ["a", "b", "c"],
    )

    def numbers(images):
        return set(images[0][:, 0, 0, 0].tolist())

    classes = of["photographs"](dataset, (0, 2), 5)
    assert classes.names == ("a", "c")
    held, test = numbers(classes.held_out), numbers(classes.test)
    assert len(held) == 10 and test == {*range(100, 120), *range(140, 160)}
    smaller, larger = (
        of["first_of_each"](classes.learned, count, 1)[0] for count in (4, 9)
    )
    assert numbers(smaller) < numbers(larger)
    assert not numbers(larger) & held
    assert np.bincount(larger[1]).tolist() == [9, 9]
    other = of["first_of_each"](classes.learned, 4, 2)[0]
    assert numbers(other) != numbers(smaller)


def write_metrics(workdir, errors):
    lines = [
        {"step": step, "split": "train", "loss": 1.0, "top1_error": error}
        for step, error in enumerate(errors, start=1)
    ]
    lines.insert(5, {"step": 5, "split": "validation", "loss": 1, "top1_error": 0.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def test_the_target_is_reached_when_the_mean_over_an_epoch_is_there(
    tmp_path, monkeypatch
):
    reached = script("relu", monkeypatch)["reached"]
    # Epochs of four steps. The mean over the last four is 0.25 first after step 9.
    errors = [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1]
    write_metrics(tmp_path, errors)
    assert reached(tmp_path, 4.0, epochs=9.0) == 9 / 4
    write_metrics(tmp_path, errors[:8])
    assert reached(tmp_path, 4.0, epochs=9.0) is None
    write_metrics(tmp_path, [0, 0, 0])
    assert reached(tmp_path, 4.0, epochs=9.0) is None


def test_a_rate_is_tuned_by_its_first_epochs_however_long_it_learned(
    tmp_path, monkeypatch
):
    """The rate that is chosen continues in the run it was tuned in."""
    functions = script("relu", monkeypatch)
    write_metrics(tmp_path, [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1])
    assert functions["reached"](tmp_path, 4.0, epochs=2.0) is None
    ends = [point[0] for point in functions["curve"](tmp_path, 4.0, epochs=2.0)]
    assert max(ends) == 2.0


def test_how_many_times_as_long_tanh_takes(monkeypatch):
    """Three seeds: Student's quantile is 4.3027. A rate with which one seed did not
    come to the target counts for nothing, and neither does a run of tuning."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "relu")
    factors = runpy.run_path(str(EXPERIMENTS / "relu" / "factors.py"))["factors"]

    def lines(activation, rate, *taken, chosen=True):
        what = {"pixels": "raw", "activation": activation, "rate": rate}
        return [
            {**what, "seed": n, "epochs_to_target": t, "chosen": chosen}
            for n, t in enumerate(taken)
        ]

    (found,) = factors(
        [
            *lines("relu", 0.1, 2.0, 2.0, 2.0),
            *lines("tanh", 0.1, 12.0, 14.0, 16.0),
            *lines("tanh", 0.2, 9.0, 9.0, None),
            *lines("tanh", 0.3, 20.0, 20.0, 20.0),
            *lines("tanh", 0.4, 1.0, chosen=False),
            *lines("sigmoid", 0.1, 99.0),
        ]
    ).values()
    assert (found["by_seed"], found["mean"]) == ([6.0, 7.0, 8.0], 7.0)
    half = 4.3027 / np.sqrt(3)
    assert found["interval"] == pytest.approx([7 - half, 7 + half], abs=1e-3)


def test_learned_means_three_epochs_without_an_error(tmp_path, monkeypatch):
    learned = script("generalisation", monkeypatch)["learned"]
    for errors, expected in (
        ([1, *[0] * 9], True),
        ([*[0] * 8, 0.1, 0], False),
        ([1, 1, *[0] * 8], False),
        ([0] * 8, False),
    ):
        write_metrics(tmp_path, errors)
        assert learned(tmp_path, 3.0) == expected, errors


def test_a_curve_has_each_epoch_once(tmp_path, monkeypatch):
    curve = script("generalisation", monkeypatch)["curve"]
    # Epochs of three and a half steps; the run ended after step 3 and was made longer.
    errors = [0.6, 0.3, 0.3, 0.2, 0.1, 0.1, 0.0]
    lines = [
        {"step": step, "split": "train", "loss": 2 * error, "top1_error": error}
        for step, error in enumerate(errors, start=1)
    ]
    for step, error in ((3, 0.9), (4, 0.8), (7, 0.5)):
        line = {"step": step, "split": "validation", "loss": 1.0, "top1_error": error}
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert curve(tmp_path, 3.5) == [[1, 0.8, 0.4, 1.0, 0.8], [2, 0.2, 0.1, 1.0, 0.5]]


def test_a_result_takes_the_place_of_an_older_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    keep = runpy.run_path(str(EXPERIMENTS / "experiment.py"))["keep"]
    path = tmp_path / "out" / "results.jsonl"
    first, second = {"name": "a", "seed": 0, "x": 1}, {"name": "a", "seed": 1, "x": 2}
    summary, newer = {"table": 3}, {"name": "a", "seed": 0, "x": 4}
    for line in (first, second, summary, newer):
        results = keep(path, line, "name", "seed")
    assert results == [newer, second, summary]
    assert [json.loads(t) for t in path.read_text().splitlines()] == results


def test_a_result_that_is_the_same_keeps_what_it_was_measured_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    keep = runpy.run_path(str(EXPERIMENTS / "experiment.py"))["keep"]
    path = tmp_path / "results.jsonl"
    first = {"seed": 0, "curve": [[1, 0.5]], "commit": "a", "processor": "old"}
    keep(path, first, "seed")
    again = {**first, "curve": ((1, 0.5),), "commit": "b", "processor": "new"}
    assert keep(path, again, "seed") == [first]
    longer = {**again, "curve": [[1, 0.5], [2, 0.4]]}
    assert keep(path, longer, "seed") == [longer]


def test_the_networks_have_the_published_numbers_of_parameters(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "generalisation")
    from zhang import NETWORKS

    counts = {}
    for name, network in NETWORKS.items():
        images = jnp.zeros((2, 28, 28, 3))
        variables = jax.eval_shape(
            lambda network=network, images=images: network(num_classes=10).init(
                jax.random.key(0), images, learning=True
            )
        )
        arrays = jax.tree.leaves(variables["params"])
        counts[name] = sum(array.size for array in arrays)
    assert counts == {
        "mlp": 1_209_866,
        "alexnet": 1_387_786,
        "inception": 1_649_402,
        "wide_resnet": 8_949_210,
    }


def accelerator(*arguments):
    command = ["bash", str(EXPERIMENTS / "accelerator" / "run.sh"), *arguments]
    environment = users.environment(compiled=True, PYTHON=sys.executable)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("wrong", ["Z9", "--dray", "--minutes=a", ""])
def test_a_part_or_option_that_there_is_not_is_named(wrong, tmp_path):
    done = accelerator(*([str(tmp_path), wrong] if wrong else []))
    assert done.returncode == 2
    assert (wrong.removeprefix("--minutes=") or "run.sh OUT [PART") in done.stderr


def parts_of(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if '"part"' in line]


@pytest.mark.slow
@pytest.mark.extended
def test_every_part_of_an_accelerator_runs_in_small_and_goes_on(tmp_path):
    output = str(tmp_path)
    done = accelerator(output, "--dry")
    parts = {part["part"]: part for part in parts_of(done)}
    assert sorted(parts) == ["a1", "a2", "a3", "a4", "c"]
    for name, part in parts.items():
        results = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert len(results) == part["measured"] > 0
        assert not part["left"]
    assert (tmp_path / "imagenette.jsonl").read_text()
    for line in map(json.loads, (tmp_path / "a1.jsonl").read_text().splitlines()):
        if line["what"] == "updates":
            assert all(0 < error < 1 for error in line["result"].values())
    # The second time nothing is left to measure.
    again = parts_of(accelerator(output, "A1", "C", "--dry"))
    assert [part["measured"] for part in again] == [0, 0]


@pytest.mark.slow
@pytest.mark.extended
def test_what_equal_maxima_change_of_a_step(tmp_path):
    script = EXPERIMENTS / "accelerator" / "roundings.py"
    subprocess.run(
        [sys.executable, str(script), "--quick", f"--output={tmp_path}"], check=True
    )
    *rows, _ = map(json.loads, (tmp_path / "roundings.jsonl").read_text().splitlines())
    found = {(row["side"], row["images"]): row for row in rows}
    photographs = found["xla", "photographs"]
    # Neighbours that are alike are equal once they are rounded, and only then.
    several = {t: m["several"] for t, m in photographs["maxima"].items()}
    assert several["bfloat16"] > found["xla", "random"]["maxima"]["bfloat16"]["several"]
    assert several["float32"] == 0
    farther = found["every", "photographs"]["updates"]["conv1"]
    for side in ("xla", "fused"):
        assert found[side, "photographs"]["updates"]["conv1"] < 0.5 * farther


@pytest.mark.slow
def test_a_part_of_an_accelerator_starts_what_it_has_time_for(tmp_path):
    arguments = (str(tmp_path), "A4", "--dry")
    done = accelerator(*arguments, "--minutes=1")
    (part,) = parts_of(done)
    assert (part["measured"], part["left"]) == (1, 1)
    assert "a4 main raw device: not measured yet, 90 s" in done.stderr
    (line,) = map(json.loads, (tmp_path / "a4.jsonl").read_text().splitlines())
    assert line["what"] == "costs" and line["dry"]
    (plan,) = parts_of(accelerator(*arguments, "--plan"))
    assert (plan["measured"], plan["left"]) == (0, 1)


@pytest.mark.extended
def test_initial_signals_beside_the_losses_of_runs_of_one_protocol(tmp_path):
    pytest.importorskip("matplotlib")
    one = {
        **{"set": "digits", "held_out": 0.0, "epochs": 10.0, "dtype": "float32"},
        **{"overrides": [], "train_losses": [2.0, 1.0]},
    }
    others = [
        *({"set": "0123"}, {"held_out": 0.1}, {"epochs": 30.0}, {"dtype": "bfloat16"}),
        {"overrides": ["--config.train.batch_size=64"]},
    ]
    lines = [
        {**one, "row": row} for row in ("code2012", "code2012", "paper", "no_norm")
    ]
    lines += [{**one, "row": "paper", **other} for other in others]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "imagenette.jsonl").write_text(text)
    script = EXPERIMENTS / "ablations" / "why_it_learns.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", f"--output={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "why_it_learns.json").read_text())
    assert result["runs"] == {"code2012": 2, "paper": 1}
    ratios = {
        row: {size["layer"]: size["signal"] / size["constant"] for size in sizes}
        for row, sizes in result["signals"].items()
    }
    # Narrow networks, but the same initial deviations: the paper's lose the signal.
    assert ratios["paper"]["conv5"] < 0.5 * ratios["code2012"]["conv5"]
    assert "</svg>" in (tmp_path / "why_it_learns.svg").read_text()


@pytest.mark.slow
@pytest.mark.extended
def test_grouped_convolutions_are_timed_beside_ours(tmp_path):
    script = EXPERIMENTS / "benchmarks" / "grouped_convolution.py"
    small = ["--batch_size=2", "--rounds=1", "--steps=1", f"--output={tmp_path}"]
    subprocess.run([sys.executable, str(script), *small], check=True)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["ratio"] > 0


@pytest.mark.extended
def test_rows_on_real_images_go_on_where_they_stood(tmp_path):
    script = EXPERIMENTS / "ablations" / "imagenette.py"

    def rows(*names):
        arguments = ["--quick", f"--output={tmp_path}", "--rows", *names]
        done = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return (tmp_path / "imagenette.jsonl").read_text().splitlines()

    (first,) = rows("code2012")
    assert not (tmp_path / "unfinished").exists() and not (tmp_path / "lock").exists()
    again = rows("code2012", "no_exchange@0.02")
    assert again[0] == first and len(again) == 2
    assert json.loads(again[1])["row"] == "no_exchange@0.02"
