"""Gradients to time the optimizers on: consecutive ones of the experiment's network, widened."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiment.data import Dataset
from experiment.network import MLP, Weights, sample_losses
from experiment.randomness import stream

EXPERIMENT = (128, 64)
BATCH = 64


def hidden_layers(side: int) -> tuple[int, ...]:
    """Two hidden layers whose gradient fills a matrix of at most `side`, the widest there are."""
    if MLP(EXPERIMENT).matrix_side == side:
        return EXPERIMENT
    return max(
        ((width, width) for width in range(1, side) if MLP((width, width)).matrix_side <= side),
    )


class Problem:
    """A stack of networks with consecutive gradients of their training under Adam.

    Args:
        side: of the matrix that holds one network's gradient, at most.
        models: how many networks are stacked, each trained from weights and on batches of its own.
        gradients: how many gradients to keep.
        warm_up: steps of training before the first of them.

    """

    def __init__(self, side: int, models: int, gradients: int, warm_up: int) -> None:
        self.network = MLP(hidden_layers(side))
        self.side = self.network.matrix_side
        self.models = models
        self._data = Dataset.read().train
        self._rng = stream(0, "benchmark", side)
        streams = [stream(0, "benchmark", side, model) for model in range(models)]
        self.weights: Weights = {
            name: tensor.requires_grad_()
            for name, tensor in self.network.initial_weights(streams).items()
        }
        optimizer = torch.optim.Adam(self.weights.values(), fused=True)
        self.gradients: list[list[Tensor]] = []
        for step in range(warm_up + gradients):
            self.backward()
            if step >= warm_up:
                self.gradients.append([w.grad.clone() for w in self.weights.values()])
            optimizer.step()

    def backward(self) -> None:
        """Compute the gradients of one batch for each network."""
        shape = (self.models, BATCH)
        batch = torch.from_numpy(self._rng.integers(len(self._data.y), size=shape))
        x, y = (torch.from_numpy(array)[batch] for array in self._data)
        for weight in self.weights.values():
            weight.grad = None
        sample_losses(self.network.logits(self.weights, x), y).mean(1).sum().backward()

    def single(self) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Weights and gradients without the axis of models, for a stack of one."""
        weights = [w.detach()[0].requires_grad_() for w in self.weights.values()]
        return weights, [[g[0] for g in gradient] for gradient in self.gradients]


def square(gradient: Sequence[Tensor], side: int) -> Tensor:
    """The matrices (models, side, side) of stacked gradients."""
    flat = torch.cat([g.flatten(1) for g in gradient], dim=1)
    return torch.nn.functional.pad(flat, (0, side * side - flat.shape[1])).view(-1, side, side)


def best_energy(matrix: Tensor, rank: int) -> Tensor:
    """Squared norm (...) of the best rank-`rank` approximation, computed in float64."""
    wide = matrix.double()
    return torch.linalg.eigvalsh(wide.mT @ wide)[..., -rank:].sum(-1)
