"""Adam, the baseline."""

import torch

from experiment.optimizers import Weights


def create(weights: Weights, *, lr: float) -> torch.optim.Optimizer:
    """Adam with torch's defaults."""
    return torch.optim.Adam(weights, lr=lr, fused=True)
