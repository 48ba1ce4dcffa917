"""A control: one matrix for each layer instead of one for the model."""

import torch

from experiment.optimizers import Weights, lrg_adam


def create(weights: Weights, *, lr: float, rank_share: float) -> torch.optim.Optimizer:
    """LRG-Adam that keeps `rank_share` of each layer's full rank, and biases as they are."""
    # A float, as LRGAdam takes a whole number for a rank.
    return lrg_adam.create(weights, lr=lr, rank=float(rank_share), scope="parameter")
