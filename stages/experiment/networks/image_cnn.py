"""A small convolutional network for square images, an ordinary `torch.nn.Module`.

Two convolutions of stride 2, each followed by ReLU, and a linear layer: 6,090 weights on digits.
"""

from __future__ import annotations

import math

from torch import nn


def create(inputs: int, classes: int) -> nn.Module:
    """The network for images of `inputs` pixels, row by row.

    Raises:
        ValueError: `inputs` is not a perfect square.

    """
    side = math.isqrt(inputs)
    if side**2 != inputs:
        raise ValueError(f"{inputs} numbers do not form a square image")
    after = -(-side // 4)  # each convolution halves the side, rounded up
    return nn.Sequential(
        nn.Unflatten(-1, (1, side, side)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(-3),
        nn.Linear(32 * after**2, classes),
    )
