"""The optimizers that are compared, by the names that stages and files give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lrg_adam import LRGAdam

Factory = Callable[..., torch.optim.Optimizer]


def adam(weights: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
    """Adam, the baseline."""
    return torch.optim.Adam(weights, lr=lr, fused=True)


def lrg_adam(weights: Iterable[Tensor], *, lr: float, rank: int) -> torch.optim.Optimizer:
    """Adam on the best rank-`rank` approximation of each replicate's gradient."""
    # A diverging replicate turns into NaN, as it does under Adam, and leaves the others alone.
    return LRGAdam(weights, lr=lr, rank=rank, batch_dims=1, nonfinite="propagate", fused=True)


FACTORIES: dict[str, Factory] = {"adam": adam, "lrg_adam": lrg_adam}
LABELS = {"adam": "Adam", "lrg_adam": "LRG-Adam"}
