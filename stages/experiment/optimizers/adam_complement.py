"""A control: everything but the top subspace."""

from functools import partial

import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, truncated
from experiment.optimizers import Weights
from lrg_adam.flatten import square_side


def complement(matrix: Tensor, rank: int) -> Tensor:
    """What truncation to `rank` removes of the gradient matrices (R, n, n)."""
    return matrix - truncated(matrix, rank)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """Adam on what LRG-Adam throws away."""
    weights = list(weights)
    side = square_side(sum(weight[0].numel() for weight in weights))
    if rank >= side:
        raise ValueError(f"Invalid rank: {rank} leaves nothing of a matrix of side {side}")
    return FilteredAdam(weights, lr=lr, gradient_filter=partial(complement, rank=rank))
