"""The networks, as many independent replicates of one as asked for in one set of tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiment.arithmetic import linear
from experiment.params import CLASSES, LENGTH

Weights = dict[str, Tensor]


class Network(ABC):
    """A network whose weights are stacked along a leading replicate axis.

    Replicate r computes what the layers of `torch.nn` would with its slices `weight[r]` and
    `bias[r]`; one batched operation serves all replicates, several times faster than one after
    another.

    Attributes:
        shapes: of one replicate's weights by name, each weight followed by its bias.

    """

    shapes: dict[str, tuple[int, ...]]

    @property
    def matrix_side(self) -> int:
        """Side n of the smallest square matrix that holds one replicate's gradient."""
        return math.isqrt(sum(map(math.prod, self.shapes.values())) - 1) + 1

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one replicate from each stream, in the distribution of torch's own layers.

        Returns:
            Every weight and bias with the replicates in front, (R, ...), float32, uniform within
            1 / sqrt(inputs) of zero, the inputs being those of one unit.

        """
        weights: Weights = {}
        for name, shape in self.shapes.items():
            if name.endswith("weight"):
                bound = 1 / math.sqrt(math.prod(shape[1:]))
            drawn = np.stack([s.uniform(-bound, bound, shape) for s in streams])
            weights[name] = torch.from_numpy(drawn).float()
        return weights

    @abstractmethod
    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Class scores (R, B, 10) of the samples x: (R, B, 40), or (B, 40) for all replicates."""


class MLP(Network):
    """Multi-layer perceptron with ReLU; without hidden layers it is logistic regression."""

    def __init__(self, hidden: Sequence[int]) -> None:
        self.depth = len(hidden) + 1
        self.shapes = {}
        for i, (inputs, outputs) in enumerate(pairwise([LENGTH, *hidden, CLASSES])):
            self.shapes[f"layers.{i}.weight"] = (outputs, inputs)
            self.shapes[f"layers.{i}.bias"] = (outputs,)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        replicates = weights["layers.0.bias"].shape[0]
        hidden = x.expand(replicates, *x.shape[-2:])
        for i in range(self.depth):
            weight, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
            if i > 0:
                hidden = hidden.relu_()
            hidden = linear(hidden, weight, bias)
        return hidden


class CNN(Network):
    """The small convolutional network that MNIST-1D was published with (Greydanus, 2020).

    Three convolutions of 25 channels and stride 2, each followed by ReLU, and a linear layer:
    5,210 weights (`ConvBase` in notebooks/models.py of github.com/greydanus/mnist1d).
    """

    CHANNELS = 25
    KERNELS = (5, 3, 3)

    def __init__(self) -> None:
        self.shapes = {}
        channels, length = 1, LENGTH
        for i, kernel in enumerate(self.KERNELS):
            self.shapes[f"layers.{i}.weight"] = (self.CHANNELS, channels, kernel)
            self.shapes[f"layers.{i}.bias"] = (self.CHANNELS,)
            channels, length = self.CHANNELS, (length + 2 - kernel) // 2 + 1
        self.shapes["layers.3.weight"] = (CLASSES, channels * length)
        self.shapes["layers.3.bias"] = (CLASSES,)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        replicates = weights["layers.0.bias"].shape[0]
        # Samples first, replicates as groups of channels: (B, R * channels, length).
        hidden = x.expand(replicates, *x.shape[-2:]).movedim(0, 1)
        for i in range(len(self.KERNELS)):
            weight, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
            hidden = functional.conv1d(
                hidden,
                weight.flatten(0, 1),
                bias.flatten(),
                stride=2,
                padding=1,
                groups=replicates,
            ).relu()
        features = hidden.unflatten(1, (replicates, -1)).flatten(2).movedim(1, 0)
        return linear(features, weights["layers.3.weight"], weights["layers.3.bias"])


def build(name: str, hidden: Sequence[int]) -> Network:
    """The network `name`: mlp with the `hidden` layers, or logistic or cnn, which have none."""
    match name:
        case "mlp":
            return MLP(hidden)
        case "logistic":
            return MLP(())
        case "cnn":
            return CNN()
    raise ValueError(f"no network {name}")


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (R, B) in nats of logits (R, B, C) for classes y, (R, B) or (B,)."""
    classes = y.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(
        logits.shape[:-1]
    )
