"""Adam, the baseline."""

from collections.abc import Iterable

import torch
from torch import Tensor

STACKED = True


def create(weights: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
    """Adam with torch's defaults."""
    return torch.optim.Adam(weights, lr=lr, fused=True)
