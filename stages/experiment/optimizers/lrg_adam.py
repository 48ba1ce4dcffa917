"""LRG-Adam, the optimizer under study."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lrg_adam import LRGAdam

STACKED = True


def create(
    weights: Iterable[Tensor],
    *,
    lr: float,
    rank: int | float,
    **options: Any,  # noqa: ANN401 - LRGAdam's own
) -> torch.optim.Optimizer:
    """Adam on the best rank-`rank` approximation of each replicate's gradient.

    `options` are further arguments of LRGAdam, such as `method`.
    """
    # A diverging replicate becomes NaN, as with Adam, and does not affect the others.
    return LRGAdam(
        weights, lr=lr, rank=rank, batch_dims=1, nonfinite="propagate", fused=True, **options
    )
