"""What do the paper's rule, `optax.sgd` and PyTorch's SGD do at a learning-rate drop?

    paper:   v <- momentum v - rate (g + decay w),    w <- w + v
    others:  v <- momentum v + (g + decay w),         w <- w - rate v

With a constant rate the two are the same. When the rate drops, the paper's velocity
stays as it is and fades by the momentum; the others' step shrinks at once. Each rule
trains softmax regression on the same batches of scikit-learn's digits, with a drop to a
tenth in the middle; the length of every step is measured, and the loss on all digits.

    python experiments/optimizer/run.py --output=FOLDER [--quick]

PyTorch is compared where it is installed.
"""

import importlib.util
import itertools
import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from sklearn.datasets import load_digits

from alexnet_jax.runtime import cli, progress
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

import harness


RATE, FACTOR, MOMENTUM, DECAY, BATCH = 0.05, 0.1, 0.9, 0.0005, 64


def digits():
    pixels, labels = load_digits(return_X_y=True)
    return (np.asarray(pixels) / 16).astype(np.float32), np.asarray(labels, np.int32)


def batch(number, count):
    return np.random.default_rng([0, number]).integers(count, size=BATCH)


@jax.jit
def loss_of(kernel, pixels, labels):
    log_probabilities = jax.nn.log_softmax(pixels @ kernel)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))


def by_optax(rule, steps):
    """Each step's kernel, by an Optax transformation."""
    pixels, labels = digits()
    params: PyTree = {"fc1": {"kernel": jnp.zeros((pixels.shape[1], 10))}}
    state = rule.init(params)
    gradient = jax.jit(jax.grad(loss_of))
    update = jax.jit(rule.update)
    kernels = [np.asarray(params["fc1"]["kernel"])]
    for number in range(steps):
        chosen = batch(number, len(labels))
        slope = gradient(params["fc1"]["kernel"], pixels[chosen], labels[chosen])
        updates, state = update({"fc1": {"kernel": slope}}, state, params)
        params = optax.apply_updates(params, updates)
        kernels.append(np.asarray(params["fc1"]["kernel"]))
    return kernels


def by_torch(steps, drop):
    """Each step's kernel, by PyTorch's SGD and its step schedule."""
    import torch  # pyright: ignore[reportMissingImports]

    pixels, labels = (torch.from_numpy(array) for array in digits())
    kernel = torch.zeros((pixels.shape[1], 10), requires_grad=True)
    rule = torch.optim.SGD([kernel], RATE, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.MultiStepLR(rule, [drop], FACTOR)
    kernels = [kernel.detach().numpy().copy()]
    for number in range(steps):
        chosen = torch.from_numpy(batch(number, len(labels)))
        rule.zero_grad()
        logits = pixels[chosen] @ kernel
        torch.nn.functional.cross_entropy(logits, labels[chosen].long()).backward()
        rule.step()
        schedule.step()
        kernels.append(kernel.detach().numpy().copy())
    return kernels


def trajectories(steps, drop):
    """Every step's kernel, for each rule."""
    schedule = make_schedule(
        steps_per_epoch=1, kind="steps", learning_rate=RATE, epochs=(drop,)
    )
    paper = momentum_sgd(schedule, momentum=MOMENTUM, weight_decay=DECAY)
    rate = optax.piecewise_constant_schedule(RATE, {drop: FACTOR})
    sgd = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate, MOMENTUM))
    found = {"paper": by_optax(paper, steps), "optax.sgd": by_optax(sgd, steps)}
    if importlib.util.find_spec("torch"):
        found["torch.optim.SGD"] = by_torch(steps, drop)
    return found


def apart(kernels, others):
    """The distance of two kernels, relative to the norm of the first."""
    return float(np.linalg.norm(kernels - others) / np.linalg.norm(kernels))


def draw(results, drop, path):
    from matplotlib import pyplot

    figure, (lengths, losses) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    styles = zip(("-", "--", ":"), (1.2, 1.2, 2.5), strict=True)
    for result, (style, width) in zip(results, styles, strict=False):
        for axes, what in ((lengths, "step_lengths"), (losses, "losses")):
            axes.plot(result[what], style, linewidth=width, label=result["rule"])
    for axes, what in ((lengths, "length of the step"), (losses, "loss")):
        axes.axvline(drop, color="grey", linewidth=0.8)
        axes.set_xlim(drop - 20, drop + 50)
        axes.set_xlabel("step")
        axes.set_ylabel(what)
        axes.legend()
    lengths.set_yscale("log")
    shown = [x for result in results for x in result["losses"][drop - 20 : drop + 50]]
    losses.set_ylim(min(shown), max(shown))
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def main():
    parser = experiment.parser(__doc__, runs=False, quick="a fifth of the steps")
    given = parser.parse_args()
    steps, drop = (80, 30) if given.quick else (400, 200)
    pixels, labels = digits()
    found = trajectories(steps, drop)
    results = []
    for rule, kernels in found.items():
        moves = [np.linalg.norm(b - a) for a, b in itertools.pairwise(kernels)]
        losses = [float(loss_of(kernel, pixels, labels)) for kernel in kernels]
        lengths = [round(float(length), 7) for length in moves]
        losses = [round(loss, 6) for loss in losses]
        results.append({"rule": rule, "step_lengths": lengths, "losses": losses})
    paper, sgd = found["paper"], found["optax.sgd"]
    done = {
        "experiment": "optimizer",
        "before_the_drop": apart(paper[drop], sgd[drop]),
        "ten_steps_after": apart(paper[drop + 10], sgd[drop + 10]),
        "at_the_end": apart(paper[-1], sgd[-1]),
        "first_step_after": {
            result["rule"]: result["step_lengths"][drop]
            / result["step_lengths"][drop - 1]
            for result in results
        },
        "loss_fifty_steps_after": {
            result["rule"]: result["losses"][drop + 50] for result in results
        },
        **harness.machine("jax", "optax"),
    }
    if "torch.optim.SGD" in found:
        done["torch_against_optax"] = apart(sgd[-1], found["torch.optim.SGD"][-1])
        done["versions"] |= harness.machine("torch")["versions"]
    given.output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) for line in (*results, done)]
    (given.output / "optimizer.jsonl").write_text("\n".join(lines) + "\n")
    draw(results, drop, given.output / "optimizer.svg")
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
