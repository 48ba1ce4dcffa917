"""Adam, the baseline."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

STACKED = True


def create(
    weights: Iterable[Tensor],
    *,
    lr: float,
    **options: Any,  # noqa: ANN401 - Adam's own
) -> torch.optim.Optimizer:
    """Adam; `options` are further arguments of it, such as `weight_decay`."""
    return torch.optim.Adam(weights, lr=lr, fused=True, **options)
