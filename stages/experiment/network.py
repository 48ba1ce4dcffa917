"""The network, as many independent replicates of it as asked for in one set of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiment.params import CLASSES, LENGTH

Weights = dict[str, Tensor]


class MLP:
    """Multi-layer perceptron with ReLU, its weights stacked along a leading replicate axis.

    Replicate r of a layer computes what `torch.nn.Linear` would with `weight[r]` and `bias[r]`;
    one batched product serves all replicates, several times faster than one after another.
    """

    def __init__(self, hidden: Sequence[int]) -> None:
        self.depth = len(hidden) + 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(pairwise([LENGTH, *hidden, CLASSES])):
            self.shapes[f"layers.{i}.weight"] = (outputs, inputs)
            self.shapes[f"layers.{i}.bias"] = (outputs,)

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one replicate from each stream, in the distribution of `torch.nn.Linear`.

        Returns:
            `layers.<i>.weight` (R, outputs, inputs) and `layers.<i>.bias` (R, outputs),
            float32, uniform within 1 / sqrt(inputs) of zero.

        """
        weights: Weights = {}
        for i in range(self.depth):
            bound = 1 / math.sqrt(self.shapes[f"layers.{i}.weight"][1])
            for name in (f"layers.{i}.weight", f"layers.{i}.bias"):
                drawn = np.stack([s.uniform(-bound, bound, self.shapes[name]) for s in streams])
                weights[name] = torch.from_numpy(drawn).float()
        return weights

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Class scores (R, B, 10) of the samples x: (R, B, 40), or (B, 40) for all replicates."""
        replicates = weights["layers.0.bias"].shape[0]
        hidden = x.expand(replicates, *x.shape[-2:])
        for i in range(self.depth):
            weight, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
            if i > 0:
                hidden = hidden.relu()
            hidden = torch.baddbmm(bias.unsqueeze(-2), hidden, weight.mT)
        return hidden


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (R, B) in nats of logits (R, B, C) for classes y, (R, B) or (B,)."""
    classes = y.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(
        logits.shape[:-1]
    )
