"""One training step and one evaluation step, for every mesh.

Functions in here see global arrays; those handed to `mesh.sharded` see one device's
shards. State is arrays only, and every random draw is a function of the seed, the step
and the place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed.mesh import DATA, EVERYWHERE, EXAMPLES
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import losses
from alexnet_jax.training.optimizer import rate_state
from alexnet_jax.training.preprocess import cut_views, shift_colours
from alexnet_jax.training.schedule import Schedule


Batch = dict[str, Array]


class TrainState(NamedTuple):
    """Everything that training carries from step to step."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def abstract_state(
    model: AlexNet, optimizer: optax.GradientTransformation, mesh: Mesh, size: int
) -> TrainState:
    """Shapes, types and places of the state, for pictures of `size` a side."""
    state = jax.eval_shape(_initialiser(model, optimizer, size), jax.random.key(0))
    return meshes.abstract(state, mesh)


def init_state(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    size: int,
    seed: int,
) -> TrainState:
    """The state before the first step: the same bits on every mesh."""
    abstract = abstract_state(model, optimizer, mesh, size)
    places = jax.tree.map(lambda array: array.sharding, abstract)
    initialise = jax.jit(_initialiser(model, optimizer, size), out_shardings=places)
    return initialise(jax.random.key(seed))


def _initialiser(
    model: AlexNet, optimizer: optax.GradientTransformation, size: int
) -> Callable[[Array], TrainState]:
    whole = model.clone(tower_axis=None)

    def initialise(key: Array) -> TrainState:
        params = whole.init(key, jnp.zeros((1, size, size, 3)))["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return initialise


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    seed: int,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]:
    """The jitted training step: `step(state, batch, mean) -> (state, metrics)`.

    The state is donated. A batch has `image` (uint8 crops), `label` and `colour_shift`
    (float32, three for each picture); `mean` is the mean picture's centre crop. Metrics
    are the sums of `losses.sums` over the batch, and the `learning_rate`.
    """
    model = model.clone(tower_axis=meshes.TOWER)

    def local_loss(
        params: Any, batch: Batch, mean: Array, coefficient: Array, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        # The transpose of this cast is the sum of the gradients over the data axis.
        params = jax.tree.map(
            lambda array: lax.pcast(array, DATA, to="varying"), params
        )
        images = shift_colours(batch["image"], mean, batch["colour_shift"], coefficient)
        labels = batch["label"]
        first = lax.axis_index(DATA) * labels.shape[0]
        examples = first + jnp.arange(labels.shape[0], dtype=jnp.int32)
        logits: Any = model.apply(
            {"params": params}, images, dropout_key=key, examples=examples
        )
        log_probabilities = jax.nn.log_softmax(logits)
        mask = jnp.ones_like(labels, dtype=jnp.bool_)
        sums = losses.sums(log_probabilities, labels, mask)
        loss = lax.pmean(sums["loss"] / labels.shape[0], DATA)
        return loss, lax.psum(sums, DATA)

    def step(
        state: TrainState, batch: Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        coefficient = schedule.colour_coefficient(state.step)
        loss = meshes.sharded(
            local_loss,
            mesh,
            in_specs=(
                meshes.specs(state.params),
                EXAMPLES,
                EVERYWHERE,
                EVERYWHERE,
                EVERYWHERE,
            ),
            out_specs=EVERYWHERE,
        )
        grads, sums = jax.grad(loss, has_aux=True)(
            state.params, batch, mean, coefficient, key
        )
        rule = rate_state(state.opt_state)
        rate = schedule.rate(rule.step, rule.drops)
        metrics = {**sums, "learning_rate": rate}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def make_eval_step(
    model: AlexNet, mesh: Mesh, *, crop: int, views: int, mirrors: bool = True
) -> Callable[[Any, Batch, Array], tuple[dict[str, Array], Array]]:
    """The jitted evaluation: `evaluate(params, batch, mean) -> (sums, logits)`.

    A batch has `image` (uint8, whole stored images), `label` and `mask` (false for
    padding). Sums are those of `losses.sums` for the probabilities averaged over views;
    logits are `[examples, views, classes]`. For `views` and `mirrors` see `cut_views`.
    """
    model = model.clone(tower_axis=meshes.TOWER)

    def local_eval(
        params: Any, batch: Batch, mean: Array
    ) -> tuple[dict[str, Array], Array]:
        images = cut_views(batch["image"], crop=crop, views=views, mirrors=mirrors)
        flat = images.reshape(-1, *images.shape[2:]).astype(jnp.float32) - mean[None]
        logits: Any = model.apply({"params": params}, flat)
        logits = logits.reshape(*images.shape[:2], -1)
        log_probabilities = losses.log_mean_probabilities(logits)
        sums = losses.sums(log_probabilities, batch["label"], batch["mask"])
        return lax.psum(sums, DATA), logits

    def evaluate(
        params: Any, batch: Batch, mean: Array
    ) -> tuple[dict[str, Array], Array]:
        return meshes.sharded(
            local_eval,
            mesh,
            in_specs=(meshes.specs(params), EXAMPLES, EVERYWHERE),
            out_specs=(EVERYWHERE, EXAMPLES),
        )(params, batch, mean)

    return jax.jit(evaluate)


@jax.jit
def is_finite(state: TrainState) -> Array:
    """Whether every number of the parameters and the velocity is finite.

    The plateau's best error begins as infinity, and is not looked at.
    """
    arrays = jax.tree.leaves((state.params, rate_state(state.opt_state).velocity))
    return jnp.all(jnp.stack([jnp.isfinite(array).all() for array in arrays]))
