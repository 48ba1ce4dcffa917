"""Gradients to time optimizers on: consecutive ones from training a perceptron on the data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from experiment.networks.mlp import MLP
from experiment.stage.data import Dataset
from experiment.stage.randomness import stream
from experiment.training.network import Weights, sample_losses

HIDDEN = (128, 64)  # the hidden layers of the experiment
BATCH = 64


def largest(inputs: int, classes: int, side: int) -> MLP:
    """The largest network whose gradient fits in a matrix of this side.

    Its hidden layers are those of the experiment, or two of equal width.
    """
    hidden = [HIDDEN, *((width, width) for width in range(1, side))]
    networks = [MLP([inputs, *widths, classes]) for widths in hidden]
    fitting = [network for network in networks if network.matrix_side <= side]
    return max(fitting, key=lambda network: sum(map(math.prod, network.shapes.values())))


class Problem:
    """A stack of networks, with consecutive gradients from training them with Adam.

    Args:
        data: the networks train on its training samples.
        side: the largest allowed side of the matrix that holds one network's gradient.
        models: how many networks are stacked. Each has its own initial weights and batches.
        gradients: how many gradients to keep.
        warm_up: training steps before the first of them.

    """

    def __init__(
        self, data: Dataset, side: int, *, models: int, gradients: int, warm_up: int
    ) -> None:
        self.network = largest(data.train.inputs, data.train.classes, side)
        self.side = self.network.matrix_side
        self.models = models
        self._x, self._y = map(torch.from_numpy, data.train)
        self._rng = stream(0, "benchmark", side)
        streams = [stream(0, "benchmark", side, model) for model in range(models)]
        self.weights: Weights = {
            name: tensor.requires_grad_()
            for name, tensor in self.network.initial_weights(streams).items()
        }
        optimizer = torch.optim.Adam(self.weights.values(), fused=True)
        self.gradients: deque[list[Tensor]] = deque(maxlen=gradients)
        for _ in range(warm_up + gradients):
            self.gradients.append(self.backward())
            optimizer.step()

    def backward(self) -> list[Tensor]:
        """Compute and return the gradients of one batch for each network."""
        shape = (self.models, BATCH)
        batch = torch.from_numpy(self._rng.integers(len(self._y), size=shape))
        for weight in self.weights.values():
            weight.grad = None
        logits = self.network.logits(self.weights, self._x[batch])
        sample_losses(logits, self._y[batch]).mean(1).sum().backward()
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    def single(self) -> tuple[list[Tensor], list[list[Tensor]]]:
        """The weights and gradients of the first network, without the axis of models."""
        weights = [weight.detach()[0].requires_grad_() for weight in self.weights.values()]
        return weights, [[g[0] for g in gradient] for gradient in self.gradients]


def square(gradient: Sequence[Tensor], side: int) -> Tensor:
    """Lay stacked gradients out as matrices (models, side, side)."""
    flat = torch.cat([g.flatten(1) for g in gradient], dim=1)
    return torch.nn.functional.pad(flat, (0, side * side - flat.shape[1])).view(-1, side, side)


def best_energy(matrix: Tensor, rank: int) -> Tensor:
    """Squared norm (...) of the best rank-`rank` approximation, computed in float64."""
    wide = matrix.double()
    return torch.linalg.eigvalsh(wide.mT @ wide)[..., -rank:].sum(-1)
