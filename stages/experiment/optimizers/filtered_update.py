"""Adam, then the low-rank filter on its update: the reverse order of LRG-Adam."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from lrg_adam import truncate_grad_rank_

STACKED = True


def create(
    weights: Iterable[Tensor],
    *,
    lr: float,
    rank: int | float,
    **options: Any,  # noqa: ANN401 - the filter's own
) -> torch.optim.Optimizer:
    """Adam whose updates are replaced by their best rank-`rank` approximations."""
    weights = list(weights)
    before = [weight.detach().clone() for weight in weights]
    steps = count()

    def truncate(*_: object) -> None:
        for weight, start in zip(weights, before, strict=True):
            weight.grad = weight.detach() - start
        truncate_grad_rank_(
            weights, rank, batch_dims=1, nonfinite="propagate", seed=next(steps), **options
        )
        for weight, start in zip(weights, before, strict=True):
            if weight.grad is not None:
                weight.detach().copy_(start.add_(weight.grad))

    adam = torch.optim.Adam(weights, lr=lr, fused=True)
    adam.register_step_post_hook(truncate)
    return adam
