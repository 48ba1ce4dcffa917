"""Multi-layer perceptron with ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from experiment.training.arithmetic import linear
from experiment.training.network import Network, Weights


class MLP(Network):
    """Linear layers with ReLU between them; `hidden` are the widths of the hidden layers."""

    def __init__(self, inputs: int, classes: int, *, hidden: Sequence[int]) -> None:
        self.depth = len(hidden) + 1
        self.shapes = {}
        for i, (before, after) in enumerate(pairwise([inputs, *hidden, classes])):
            self.shapes[f"layers.{i}.weight"] = (after, before)
            self.shapes[f"layers.{i}.bias"] = (after,)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        for i in range(self.depth):
            if i > 0:
                x = x.relu_()
            x = linear(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"])
        return x


create = MLP
