"""The validation that a run makes of itself: errors on the validation split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading import prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import losses, step


def make_validation(
    *,
    model: AlexNet,
    mesh: Mesh,
    pipeline: Pipeline,
    batch_size: int = 128,
    views: int = 1,
) -> Callable[..., dict[str, float]]:
    """A function that measures the validation errors of parameters; it takes them, the
    mean picture, and a function that is called after every batch and may raise."""
    meshes.check_batch(batch_size, mesh.shape["data"], "eval.batch_size")
    if views not in (1, 10):
        raise InputError(f"eval.views={views} must be 1 or 10")
    evaluate = step.make_eval_step(
        model, mesh, crop=pipeline.crop, views=views, mirrors=pipeline.flip
    )
    share, shares = meshes.data_share(mesh)
    dataset = pipelines.evaluation_dataset(
        pipeline,
        "validation",
        batch_size=batch_size,
        slice_index=share,
        slice_count=shares,
    )

    def validate(
        params: Any, mean: jax.Array, check: Callable[[], None]
    ) -> dict[str, float]:
        total: dict[str, Any] = {}
        with prefetch.read(pipeline, dataset) as batches:
            for batch in batches:
                sums, _ = evaluate(params, meshes.to_devices(batch, mesh), mean)
                total = jax.tree.map(jnp.add, total, sums) if total else sums
                check()
        return losses.means({name: float(value) for name, value in total.items()})

    return validate
