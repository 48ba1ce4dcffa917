"""LRG-Adam, the optimizer under study."""

import torch

from experiment.optimizers import Weights
from lrg_adam import LRGAdam


def create(
    weights: Weights, *, lr: float, rank: int | float, **options: float | str
) -> torch.optim.Optimizer:
    """Adam on the best rank-`rank` approximation of each replicate's gradient.

    `options` are further ones of LRGAdam, such as `method`.
    """
    # A diverging replicate turns into NaN, as it does under Adam, and leaves the others alone.
    return LRGAdam(
        weights, lr=lr, rank=rank, batch_dims=1, nonfinite="propagate", fused=True, **options
    )
