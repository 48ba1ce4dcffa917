"""Multi-layer perceptron with ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from experiment.training.arithmetic import linear
from experiment.training.network import Network, Weights


class MLP(Network):
    """Linear layers with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        self.depth = len(widths) - 1
        self.shapes = {}
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            self.shapes[f"layers.{i}.weight"] = (outputs, inputs)
            self.shapes[f"layers.{i}.bias"] = (outputs,)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        for i in range(self.depth):
            if i > 0:
                x = x.relu_()
            x = linear(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"])
        return x


def create(inputs: int, classes: int, *, hidden: Sequence[int]) -> MLP:
    """A perceptron with hidden layers of these widths."""
    return MLP([inputs, *hidden, classes])
