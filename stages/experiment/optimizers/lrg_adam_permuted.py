"""A control: the gradient without the structure that it has as a square matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, streams, truncated
from experiment.optimizers import Weights
from lrg_adam.flatten import square_side


class PermutedEntries:
    """Truncate after a permutation of the matrix's entries, and put them back.

    Each replicate has a permutation of its own, the same at every step. Whatever structure the
    gradient has as a matrix is gone; its entries are the same.
    """

    def __init__(self, rank: int, side: int, draw_from: Sequence[np.random.Generator]) -> None:
        self._rank = rank
        drawn = np.stack([one.permutation(side**2) for one in draw_from])
        self._order = torch.from_numpy(drawn)

    def __call__(self, matrix: Tensor) -> Tensor:
        """Filter the gradient matrices (R, n, n), one for each stream."""
        order = self._order.to(matrix.device)
        permuted = matrix.flatten(-2).gather(-1, order).view_as(matrix)
        filtered = truncated(permuted, self._rank).flatten(-2)
        return torch.empty_like(filtered).scatter_(-1, order, filtered).view_as(matrix)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """LRG-Adam with the entries of the gradient matrix in a random order."""
    weights = list(weights)
    side = square_side(sum(weight[0].numel() for weight in weights))
    permuted = PermutedEntries(rank, side, streams(weights[0], "permuted entries"))
    return FilteredAdam(weights, lr=lr, gradient_filter=permuted)
