"""The same training step in this project and in PyTorch, for `train_step.py`.

Imports are within the functions: each side is a process that has only its own library.
"""

import sys
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).parents[2]))

CLASSES, SIZE = 1000, 224
PEERS = ("eager", "channels_last", "compiled")
SMALL_PAGES = "ours_on_small_pages"
FUSED = "ours_fused"
DEFAULT_ORDER = "ours_in_default_order"
XLAS_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT"}
PARAMETERS = 60_965_224


def host_batch(batch_size):
    rng = np.random.default_rng(0)
    shape = (batch_size, SIZE, SIZE, 3)
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, CLASSES, batch_size).astype(np.int32),
        "colour_shift": rng.normal(0, 9, (batch_size, 3)).astype(np.float32),
    }


def ours(mode, batch_size, given):
    """A function that makes one step of ours, or one evaluation, and waits for it."""
    import jax
    import optax
    from jax.sharding import NamedSharding

    from alexnet_jax.distributed import mesh as meshes
    from alexnet_jax.distributed import placement
    from alexnet_jax.nn.alexnet import AlexNet
    from alexnet_jax.nn.layers import changed
    from alexnet_jax.training import optimizer, step
    from alexnet_jax.training.schedule import make_schedule

    mesh = meshes.open_mesh(
        towers=2, data=1, tower=given.tower, virtual_cpu_devices=given.tower
    )
    implementation = "fused" if given.side == FUSED else "xla"
    model = AlexNet(
        num_classes=CLASSES, dtype=given.dtype, implementation=implementation
    )
    if given.narrow:
        widths = {
            name: {"channels" if "conv" in name else "width": 16}
            for name in list(model.layers)[:-1]
        }
        model = model.clone(layers=changed(model.layers, **widths))
    schedule = make_schedule(steps_per_epoch=1000)
    sgd = optimizer.momentum_sgd(schedule)
    mean = jax.device_put(
        np.full((SIZE, SIZE, 3), 120, np.float32), placement.replicated(mesh)
    )
    host = host_batch(batch_size)
    # A network that is only used has no velocity, here as on the other side.
    rule = sgd if mode == "train" else optax.identity()
    carry = [step.init_state(model, rule, mesh, SIZE, 0)]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(carry[0].params))
    assert given.narrow or parameters == PARAMETERS
    place = NamedSharding(mesh, meshes.EXAMPLES)
    options = XLAS_ORDER if given.side == DEFAULT_ORDER else {}
    if mode == "train":
        train = step.make_train_step(model, sgd, schedule, mesh, 0, options)
        batch = jax.device_put(host, place)

        def run():
            carry[0], metrics = train(carry[0], batch, mean)
            jax.block_until_ready((metrics, carry[0].params))

        return run
    evaluate = step.make_eval_step(
        model, mesh, crop=SIZE, views=1, compiler_options=options
    )
    host["mask"] = np.ones(batch_size, bool)
    batch = jax.device_put(
        {name: host[name] for name in ("image", "label", "mask")}, place
    )
    return lambda: jax.block_until_ready(evaluate(carry[0].params, batch, mean))


def torch_network():
    """`code2012` as a user of PyTorch writes it.

    One difference stays: `LocalResponseNorm` reaches across the towers' border.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class SameMapNorm(nn.Module):
        def forward(self, x):
            squares = nn.functional.avg_pool2d(x * x, 5, 1, 2)
            return x / (1 + 1e-3 * squares) ** 0.75

    def norm():
        return nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)

    def pool():
        return nn.MaxPool2d(3, 2)

    network = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        nn.Conv2d(3, 96, 11, 4),
        norm(),
        nn.ReLU(),
        pool(),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        norm(),
        SameMapNorm(),
        pool(),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        pool(),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, CLASSES),
    )
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    return network, torch


def torch_side(kind, mode, batch_size, given):
    """The same of PyTorch: eager, eager with channels_last, or compiled."""
    network, torch = torch_network()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # TF32 in products as well as in convolutions, as JAX has it on a GPU.
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    network = network.to(device)
    layout = torch.contiguous_format
    if kind == "channels_last" or device == "cuda":
        layout = torch.channels_last
        network = network.to(memory_format=layout)
    host = host_batch(batch_size)
    images = torch.from_numpy(host["image"]).to(device).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=layout)
    labels = torch.from_numpy(host["label"]).long().to(device)
    shift = torch.from_numpy(host["colour_shift"]).to(device)[:, :, None, None]
    half = torch.autocast(device, torch.bfloat16, enabled=given.dtype == "bfloat16")
    loss_of = torch.nn.CrossEntropyLoss()
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=0.0005)

    def loss():
        shifted = (images.float() - 120 + 0.1 * shift) / 1.1
        with half:
            return loss_of(network(shifted).float(), labels)

    def forward():
        with torch.no_grad(), half:
            return network(images.float() - 120)

    work = loss if mode == "train" else forward
    if kind == "compiled":
        work = torch.compile(work)
    network.train(mode == "train")

    def run():
        if mode == "train":
            sgd.zero_grad(set_to_none=True)
            work().backward()
            sgd.step()
        else:
            work()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
