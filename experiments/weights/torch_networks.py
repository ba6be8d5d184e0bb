"""AlexNets with PyTorch's own operations, their shapes, and random weights for them."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]


NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
CAFFE_SHAPES = (
    (96, 3, 11, 11),
    (256, 48, 5, 5),
    (384, 256, 3, 3),
    (384, 192, 3, 3),
    (256, 192, 3, 3),
    (4096, 9216),
    (4096, 4096),
    (1000, 4096),
)
OWT_SHAPES = (
    (64, 3, 11, 11),
    (192, 64, 5, 5),
    (384, 192, 3, 3),
    (256, 384, 3, 3),
    (256, 256, 3, 3),
    *CAFFE_SHAPES[5:],
)


def random_weights(shapes, seed):
    """Of a size that neither kills signals nor lets them grow."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32),
            rng.normal(0, 0.5, shape[0]).astype(np.float32),
        )
        for shape in shapes
    ]


def by_torch(layers, pixels, *, groups, norm, pool_first, padding):
    """The network with PyTorch's own operations; norm gives alpha, k and parts."""
    x = torch.from_numpy(pixels)
    for index, (kernel, bias) in enumerate(layers):
        w, b = torch.from_numpy(kernel), torch.from_numpy(bias)
        if index == 5:
            x = x.flatten(1)
        if index >= 5:
            x = F.linear(x, w, b)
            x = x if index == 7 else F.relu(x)
            continue
        group = groups if index in (1, 3, 4) else 1
        around = padding if index == 0 else kernel.shape[2] // 2
        x = F.relu(F.conv2d(x, w, b, 4 if index == 0 else 1, around, groups=group))

        def lrn(x):
            return F.local_response_norm(x, 5, norm[0], 0.75, norm[1])

        if index in (0, 1, 4):
            steps = [lambda x: F.max_pool2d(x, 3, 2)]
            if norm and index < 2:
                steps.insert(1 if pool_first else 0, lrn)
            for step in steps:
                x = step(x)
    return x.numpy()
