"""A run's own validation: loss and errors on the validation split."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from alexnet_jax.data.loading import grain_datasets, prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import evaluation, step
from alexnet_jax.training.compilation import CompilerOptions
from alexnet_jax.training.held import Cut


def make_validation(
    *,
    model: AlexNet,
    mesh: Mesh,
    pipeline: Pipeline,
    compiler_options: CompilerOptions | None = None,
    batch_size: int = 128,
    views: int = 1,
) -> Callable[..., dict[str, float]]:
    """Make the function that measures a run's parameters on the validation split.

    Args:
      model: the network.
      mesh: the devices.
      pipeline: the data.
      compiler_options: XLA's, for the evaluation step.
      batch_size: examples at a time, over all devices.
      views: 1 for the centre crop, 10 for the views of section 4.1.

    Returns:
      A function of `params`, `mean` (the mean image's centre), `check` (called after
      every batch; may raise) and, where the devices hold the split, `cut` (see
      `make_evaluation_cut`). It returns `loss`, `top1_error` and `top5_error`.

    Raises:
      InputError: if the batch doesn't divide over the devices, or `views` is neither.
    """
    meshes.check_batch(batch_size, mesh.shape["data"], "eval.batch_size")
    if views not in (1, 10):
        raise InputError(f"eval.views={views} must be 1 or 10")
    evaluate = step.make_eval_step(
        model,
        mesh,
        crop=pipeline.crop,
        views=views,
        mirrors=pipeline.flip,
        compiler_options=compiler_options,
    )
    share, shares = meshes.data_share(mesh)
    # By whether the devices hold the images.
    images, places = (
        grain_datasets.evaluation_dataset(
            pipeline,
            "validation",
            batch_size=batch_size,
            slice_index=share,
            slice_count=shares,
            held=held,
        )
        for held in (False, True)
    )

    def validate(
        params: PyTree,
        mean: jax.Array,
        check: Callable[[], None],
        cut: Cut | None = None,
    ) -> dict[str, float]:
        dataset = images if cut is None else places
        with prefetch.read(pipeline, dataset) as batches:
            return evaluation.measure(
                lambda batch: evaluate(params, cut(batch) if cut else batch, mean),
                batches,
                mesh,
                check=check,
            )

    return validate
