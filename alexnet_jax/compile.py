"""Compiles a config's steps for a GPU or TPU that is not there; see `targets/`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.runtime import atomic, cli, paths, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import Failure, InputError, check_number
from alexnet_jax.targets.cards import Card
from alexnet_jax.targets.catalogue import TARGETS, named
from alexnet_jax.targets.target import Target


if TYPE_CHECKING:
    from alexnet_jax.runs.network import Network


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    # The plugins would look for a GPU or a TPU, and print a traceback.
    os.environ["JAX_PLATFORMS"] = "cpu"
    parser = Parser(
        "compile",
        description="Compile a config's training and evaluation step for a GPU or\n"
        "TPU that is not there: does it fit, and what will limit it. Estimates come\n"
        "from a data sheet; nothing is run. The exit status is 1 where a step does\n"
        "not fit.",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="NAME[:VARIANT]", help="as in training")
    add("--target", required=True, metavar="NAME", help=", ".join(TARGETS))
    add(
        "--mesh",
        type=cli.mesh_shape,
        default=(1, 1),
        metavar="DATAxTOWER",
        help="devices along data and tower (default: 1x1)",
    )
    add("--batch_size", type=int, metavar="N", help="default: the config's")
    add("--text", type=Path, metavar="FILE", help="keep the compiled training step")
    given, changes = parser.parse_known_args(arguments)
    if given.text is not None:
        paths.check_output(given.text, [given.text.suffix], "--text", new=False)
    if any(text.startswith("--config.mesh.") for text in changes):
        raise InputError("--config.mesh does nothing here; give --mesh=DATAxTOWER")
    # Here, since JAX reads the variable when it is imported.
    from alexnet_jax.runs import overrides
    from alexnet_jax.runs.network import plan_network
    from alexnet_jax.targets import summary
    from alexnet_jax.targets.compiling import Compiled

    target = named(given.target)
    network = plan_network(overrides.changed_config(given.config, changes))
    network = _as_it_runs(network, target)
    if given.batch_size is not None:
        check_number("--batch_size", given.batch_size, least=1, whole=True)
        network = dataclasses.replace(network, batch_size=given.batch_size)
    result = summary.compile_for(network, target, *given.mesh)
    for line in summary.lines(result):
        progress.say(line)
    # First on standard output: what was compiled must not hang on a disk.
    progress.print_result({"target": given.target, **summary.as_json(result)})
    training = result.steps["train"]
    if given.text is not None and isinstance(training, Compiled):
        with atomic.writing(given.text):
            atomic.replace(given.text, training.text)
    elif given.text is not None:
        progress.say(f"no training step was compiled: {given.text} is not written")
    if not result.fits:
        raise Failure(summary.advice(result))


def _as_it_runs(network: "Network", target: Target) -> "Network":
    """The network with XLA's operations, and a line, where it asks for kernels that the
    target or they themselves don't take."""
    from alexnet_jax.nn.fused.support import Device, explanation

    if isinstance(target, Card):
        capability = float("{}.{}".format(*target.capability))
        device = Device("gpu", target.name, capability)
    else:
        device = Device(target.platform, target.name, None)
    said = explanation(network.model, device)
    if said is None:
        return network
    progress.say(said)
    model = network.model.clone(implementation="xla")
    return dataclasses.replace(network, model=model)


if __name__ == "__main__":
    cli.run_command(main)
