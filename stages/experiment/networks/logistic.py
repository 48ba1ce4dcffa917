"""Logistic regression."""

from __future__ import annotations

from torch import Tensor

from experiment.training.arithmetic import linear
from experiment.training.network import Network, Weights


class Logistic(Network):
    """One linear layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        self.shapes = {"weight": (classes, inputs), "bias": (classes,)}

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""
        return linear(x, weights["weight"], weights["bias"])


create = Logistic
