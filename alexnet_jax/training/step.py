"""One training step and one evaluation step, for every mesh.

Functions in here see global arrays; those that `mesh.sharded` runs see one device's
shards. State is arrays only, and every random draw is a function of the seed, the step
and the place.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.linen.spmd import logical_to_mesh
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, PyTree

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.distributed.mesh import DATA, EVERYWHERE, EXAMPLES
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.towers import TOWERS
from alexnet_jax.training import compilation, losses
from alexnet_jax.training.compilation import CompilerOptions
from alexnet_jax.training.local_loss import Batch, local_loss
from alexnet_jax.training.optimizer import after_validation
from alexnet_jax.training.optimizer_state import (
    SpikeState,
    learning_params,
    rule_state,
)
from alexnet_jax.training.preprocess import cut_views
from alexnet_jax.training.schedule import Schedule
from alexnet_jax.training.spikes import LOSS_SPIKE


# Which mesh axis splits an axis that a parameter names.
MESH_AXES = ((TOWERS, meshes.TOWER),)


class TrainState(NamedTuple):
    """Everything that training carries from step to step."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """The functions that a training loop calls, for one network on one mesh.

    The state may be any NamedTuple of arrays with `step` and `params`.

    Attributes:
      initial: makes the state before the first step.
      abstract: shapes, dtypes and shardings of the state.
      train: one step, from state, batch and mean image to state and metrics.
      after_validation: from a state and its top-1 validation error to the state that
        training continues with.
    """

    initial: Callable[[], TrainState]
    abstract: TrainState
    train: TrainStep
    after_validation: Callable[[TrainState, float], TrainState]


def make_steps(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    *,
    size: int,
    seed: int,
    label_smoothing: float = 0.0,
    compiler_options: CompilerOptions | None = None,
) -> Steps:
    """The steps of an AlexNet, for images of `size` a side.

    `compiler_options` are XLA's, for the training step.
    """
    learn = jax.jit(partial(after_validation, schedule), donate_argnums=0)

    def after(state: TrainState, error: float) -> TrainState:
        # One number from the host, also where JAX_TRANSFER_GUARD is set.
        with jax.transfer_guard("allow"):
            return state._replace(opt_state=learn(state.opt_state, np.float32(error)))

    return Steps(
        initial=partial(init_state, model, optimizer, mesh, size, seed),
        abstract=abstract_state(model, optimizer, mesh, size),
        train=make_train_step(
            model,
            optimizer,
            schedule,
            mesh,
            seed,
            compiler_options,
            label_smoothing=label_smoothing,
        ),
        after_validation=after,
    )


def abstract_state(
    model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh, size: int
) -> TrainState:
    """Shapes, dtypes and shardings of the state, for images of `size` a side."""
    initialise = _initialiser(model, optimizer, size)
    declared = jax.eval_shape(initialise, root_key(0))
    specs = logical_to_mesh(nn.get_partition_spec(declared), MESH_AXES)

    def place(array: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        # Every axis is spelled, as in what a step returns, or it is compiled again.
        whole = PartitionSpec(*spec, *[None] * (len(array.shape) - len(spec)))
        sharding = NamedSharding(mesh, whole)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(place, nn.unbox(declared), specs)


def abstract_params(model: AlexNet, mesh: Mesh, size: int) -> PyTree:
    """Shapes, dtypes and shardings of the parameters alone."""
    return abstract_state(model, optax.identity(), mesh, size).params


def init_state(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    size: int,
    seed: int,
) -> TrainState:
    """The state before the first step: the same bits on every mesh."""
    return make_initial(model, optimizer, mesh, size)(root_key(seed))


def make_initial(
    model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh, size: int
) -> Callable[[Array], TrainState]:
    """The jitted function from a seed's `root_key` to the state before the first step:
    one program for all seeds."""
    abstract = abstract_state(model, optimizer, mesh, size)
    shardings = jax.tree.map(lambda array: array.sharding, abstract)
    declared = _initialiser(model, optimizer, size)
    return jax.jit(
        lambda key: nn.unbox(declared(key)),
        out_shardings=shardings,
        # Without it all layers' random bits are there at once.
        compiler_options=dict(compilation.of_program(mesh)),
    )


def _initialiser(
    model: AlexNet, optimizer: optax.GradientTransformation, size: int
) -> Callable[[Array], TrainState]:
    """A function from a key to a state whose arrays declare the names of their axes."""
    whole = model.clone(tower_axis=None)

    def initialise(key: Array) -> TrainState:
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        # Not `AlexNet.init`, which takes the names of the axes off.
        params = nn.Module.init(whole, key, images)["params"]
        # The velocity is shaped like the parameters, and declares the same axes.
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return initialise


def root_key(seed: int) -> Key[Array, ""]:
    """The key of a seed from 0 to 2**32 - 1, whatever generator the process has as its
    default, and whatever its offset of seeds."""
    numbers = jax.device_put(np.array([0, seed], np.uint32))
    return jax.random.wrap_key_data(numbers, impl="threefry2x32")


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    seed: int,
    compiler_options: CompilerOptions | None = None,
    *,
    label_smoothing: float = 0.0,
) -> TrainStep:
    """The jitted training step: `step(state, batch, mean) -> (state, metrics)`.

    The state is donated. A batch has `image` (uint8 crops), `label` and `colour_shift`
    (float32, three for each image), and where recipes are on what they take (see
    `data.loading.later_recipes.drawn`); `mean` is the mean image's centre crop. Metrics
    are the sums of `losses.sums` over the batch, with the loss that is minimised, the
    `learning_rate`, and where the optimizer skips spikes `LOSS_SPIKE`, its factor.
    """
    of_key = train_step(model, optimizer, schedule, mesh, label_smoothing)

    def step(
        state: TrainState, batch: Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        return of_key(root_key(seed), state, batch, mean)

    options = compilation.of_program(mesh, compiler_options)
    return jax.jit(step, donate_argnums=0, compiler_options=dict(options))


def train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    label_smoothing: float = 0.0,
) -> Callable[
    [Key[Array, ""], TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]
]:
    """What `make_train_step` jits, as a function of the seed's `root_key` as well."""
    loss_of_part = partial(
        local_loss, model.clone(tower_axis=meshes.TOWER), label_smoothing
    )

    def step(
        root: Key[Array, ""], state: TrainState, batch: Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(root, state.step)
        coefficient = schedule.colour_coefficient(state.step)
        learning = learning_params(state.params, state.opt_state)
        parameters = placement.specs(learning)
        loss = meshes.sharded(
            loss_of_part,
            mesh,
            in_specs=(parameters, EXAMPLES, EVERYWHERE, EVERYWHERE, EVERYWHERE),
            out_specs=EVERYWHERE,
        )
        grads, sums = jax.grad(loss, has_aux=True)(
            learning, batch, mean, coefficient, key
        )
        rule = rule_state(state.opt_state)
        rate = schedule.rate(rule.step, rule.drops)
        metrics = {**sums, "learning_rate": rate}
        skips = isinstance(state.opt_state, SpikeState)
        given = {"loss": sums["loss"]} if skips else {}
        update = optax.with_extra_args_support(optimizer).update
        updates: PyTree
        opt_state: PyTree
        updates, opt_state = update(grads, state.opt_state, state.params, **given)
        if skips:
            metrics[LOSS_SPIKE] = opt_state.factor
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def make_eval_step(
    model: AlexNet,
    mesh: Mesh,
    *,
    crop: int,
    views: int,
    mirrors: bool = True,
    compiler_options: CompilerOptions | None = None,
) -> Callable[[PyTree, Batch, Array], tuple[dict[str, Array], Array]]:
    """The jitted evaluation: `evaluate(params, batch, mean) -> (sums, logits)`.

    A batch has `image` (uint8, whole stored images), `label` and `mask` (false for
    padding). Sums are those of `losses.sums` for the probabilities averaged over views;
    logits are `[examples, views, classes]`. For `views` and `mirrors` see `cut_views`.
    """
    model = model.clone(tower_axis=meshes.TOWER)

    def local_eval(
        params: PyTree, batch: Batch, mean: Array
    ) -> tuple[dict[str, Array], Array]:
        images = cut_views(batch["image"], crop=crop, views=views, mirrors=mirrors)
        flat = images.reshape(-1, *images.shape[2:]).astype(jnp.float32) - mean[None]
        logits: PyTree = model.apply({"params": params}, flat)
        logits = logits.reshape(*images.shape[:2], -1)
        log_probabilities = losses.log_mean_probabilities(logits)
        sums = losses.sums(log_probabilities, batch["label"], batch["mask"])
        return lax.psum(sums, DATA), logits

    def evaluate(
        params: PyTree, batch: Batch, mean: Array
    ) -> tuple[dict[str, Array], Array]:
        return meshes.sharded(
            local_eval,
            mesh,
            in_specs=(placement.specs(params), EXAMPLES, EVERYWHERE),
            out_specs=(EVERYWHERE, EXAMPLES),
        )(params, batch, mean)

    options = compilation.of_program(mesh, compiler_options)
    return jax.jit(evaluate, compiler_options=dict(options))
