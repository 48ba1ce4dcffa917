"""A control: the gradient without the structure that it has as a square matrix."""

import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, truncated
from experiment.optimizers import Weights
from experiment.randomness import stream


class PermutedEntries:
    """Truncate after one fixed permutation of the matrix's entries, and put them back.

    Whatever structure the gradient has as a matrix is gone; its entries are the same.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._order: Tensor | None = None

    def __call__(self, matrix: Tensor) -> Tensor:
        """Filter the gradient matrices (R, n, n)."""
        flat = matrix.flatten(-2)
        if self._order is None:
            drawn = stream(0, "permuted entries").permutation(flat.shape[-1])
            self._order = torch.from_numpy(drawn).to(matrix.device)
        permuted = flat[:, self._order].view_as(matrix)
        result = torch.empty_like(flat)
        result[:, self._order] = truncated(permuted, self._rank).flatten(-2)
        return result.view_as(matrix)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """LRG-Adam with the entries of the gradient matrix in a random order."""
    return FilteredAdam(weights, lr=lr, gradient_filter=PermutedEntries(rank))
