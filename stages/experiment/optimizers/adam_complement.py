"""A control: everything but the top subspace."""

from functools import partial

import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, truncated
from experiment.optimizers import Weights


def complement(matrix: Tensor, rank: int) -> Tensor:
    """What truncation to `rank` removes of the gradient matrices (R, n, n)."""
    return matrix - truncated(matrix, rank)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """Adam on what LRG-Adam throws away."""
    return FilteredAdam(weights, lr=lr, gradient_filter=partial(complement, rank=rank))
