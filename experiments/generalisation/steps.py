"""Training and evaluation steps of networks that know nothing of towers.

A network is called with `learning`, as those of `zhang.py`. Its variables are not
parameters alone: `params` of the training state are all of them, the statistics of
batch normalisation included.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from alexnet_jax.data.loading import grain_datasets, prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import placement
from alexnet_jax.training import evaluation, losses
from alexnet_jax.training.preprocess import cut_views
from alexnet_jax.training.step import Batch, Steps, TrainState


# Side of what the networks see, in pixels.
CROP = 28
MOMENTUM = 0.9
EVALUATION_BATCH = 1000


def make_steps(
    network: nn.Module, mesh: Mesh, *, rate: optax.Schedule, decay: float, seed: int
) -> Steps:
    """What the training loop calls, for a network that lies whole on every device.

    Args:
      network: see above.
      mesh: of automatic axes: the compiler says what lies where.
      rate: learning rate by step.
      decay: weight decay of kernels.
      seed: of the initial values.
    """
    optimizer = make_optimizer(rate, decay)
    place = placement.replicated(mesh)

    def initial() -> TrainState:
        images = jnp.zeros((1, CROP, CROP, 3))
        variables = network.init(jax.random.key(seed), images, learning=True)
        opt_state = optimizer.init(variables["params"])
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    @jax.jit
    def step(
        state: TrainState, batch: Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        del mean  # Each network standardises its images.
        params, labels = state.params["params"], batch["label"]

        def loss(params: Any) -> tuple[Array, Any]:
            outputs: Any = network.apply(
                {**state.params, "params": params},
                batch["image"].astype(jnp.float32),
                learning=True,
                mutable=["batch_stats"],
            )
            logits, changed = outputs
            mask = jnp.ones(len(labels), jnp.bool_)
            sums = losses.sums(jax.nn.log_softmax(logits), labels, mask)
            return sums["loss"] / len(labels), (sums, changed)

        grads, (sums, changed) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        variables = {**changed, "params": optax.apply_updates(params, updates)}
        metrics = {**sums, "learning_rate": rate(state.step)}
        return TrainState(state.step + 1, variables, opt_state), metrics

    return Steps(
        initial=jax.jit(initial, out_shardings=place),
        abstract=jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=place
            ),
            jax.eval_shape(initial),
        ),
        train=step,
        after_validation=lambda state, error: state,
    )


def make_optimizer(rate: optax.Schedule, decay: float) -> optax.GradientTransformation:
    """Momentum with decay of kernels, as the paper has it (TensorFlow's, PyTorch's)."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda array: array.ndim > 1, params)

    decayed = optax.add_decayed_weights(decay, kernels)
    return optax.chain(decayed, optax.sgd(rate, MOMENTUM))


class Measure(Protocol):
    """Loss and errors of a state on a split; `check` is called after every batch."""

    def __call__(
        self,
        state: TrainState,
        split: str,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, float]: ...


def make_measure(network: nn.Module, pipeline: Pipeline, mesh: Mesh) -> Measure:
    """The measurement of a network on the centres of the images."""

    @jax.jit
    def evaluate(variables: Any, batch: Batch) -> tuple[dict[str, Array], Array]:
        centres = cut_views(batch["image"], crop=CROP, views=1)[:, 0]
        logits: Any = network.apply(
            variables, centres.astype(jnp.float32), learning=False
        )
        log_probabilities = jax.nn.log_softmax(logits)
        sums = losses.sums(log_probabilities, batch["label"], batch["mask"])
        return sums, logits

    def measure(
        state: TrainState, split: str, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        dataset = grain_datasets.evaluation_dataset(
            pipeline, split, batch_size=EVALUATION_BATCH
        )
        with prefetch.read(pipeline, dataset) as batches:
            return evaluation.measure(
                lambda batch: evaluate(state.params, batch), batches, mesh, check=check
            )

    return measure
