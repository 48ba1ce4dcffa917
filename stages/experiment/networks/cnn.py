"""The small convolutional network published with MNIST-1D: 5,210 weights on it (Greydanus, 2020).

`ConvBase` in notebooks/models.py of github.com/greydanus/mnist1d.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from experiment.training.arithmetic import linear
from experiment.training.network import Network, Weights

CHANNELS = 25
KERNELS = (5, 3, 3)


class CNN(Network):
    """Three convolutions of stride 2, each followed by ReLU, and a linear layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        self.shapes = {}
        channels, length = 1, inputs
        for i, kernel in enumerate(KERNELS):
            self.shapes[f"layers.{i}.weight"] = (CHANNELS, channels, kernel)
            self.shapes[f"layers.{i}.bias"] = (CHANNELS,)
            channels, length = CHANNELS, (length + 2 - kernel) // 2 + 1
        if length < 1:
            raise ValueError(f"samples of {inputs} numbers are too short for its convolutions")
        self.shapes["layers.3.weight"] = (classes, channels * length)
        self.shapes["layers.3.bias"] = (classes,)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        replicates = weights["layers.0.bias"].shape[0]
        # Samples first, replicates as groups of channels: (B, R * channels, length).
        hidden = x.expand(replicates, *x.shape[-2:]).movedim(0, 1)
        for i in range(len(KERNELS)):
            hidden = functional.conv1d(
                hidden,
                weights[f"layers.{i}.weight"].flatten(0, 1),
                weights[f"layers.{i}.bias"].flatten(),
                stride=2,
                padding=1,
                groups=replicates,
            ).relu()
        features = hidden.unflatten(1, (replicates, -1)).flatten(2).movedim(1, 0)
        return linear(features, weights["layers.3.weight"], weights["layers.3.bias"])


create = CNN
