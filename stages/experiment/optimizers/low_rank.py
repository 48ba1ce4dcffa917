"""The low-rank filter before any optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from experiment.training.optimizer import imported, needs_closure
from lrg_adam import truncate_grad_rank_


def create(
    params: Iterable[Tensor],
    *,
    lr: float,
    base: str,
    rank: int | float,
    method: str = "gram",
    scope: str = "model",
    layout: str = "declared",
    **options: Any,  # noqa: ANN401 - the base's own
) -> torch.optim.Optimizer:
    """The optimizer with the dotted name `base`, on rank-`rank` approximations of the gradient.

    `rank`, `method` and `scope` are those of `truncate_grad_rank_`. The layout of the matrix is
    `declared` (the entries in the order of the parameters), `reversed` (the last parameter first)
    or `transposed` (the weights of each linear layer column by column).
    """
    if layout not in ("declared", "reversed", "transposed"):
        raise ValueError(f"layout = {layout!r}; allowed: declared, reversed, transposed")

    def turned(tensor: Tensor) -> Tensor:
        return tensor.mT if layout == "transposed" and tensor.ndim == 2 else tensor

    params = list(params)
    steps = count()
    laid_out = [turned(parameter.detach()) for parameter in params]

    def truncate(*_: object) -> None:
        for parameter, one in zip(params, laid_out, strict=True):
            one.grad = None if parameter.grad is None else turned(parameter.grad)
        truncate_grad_rank_(
            laid_out[::-1] if layout == "reversed" else laid_out,
            rank,
            method=method,
            scope=scope,
            nonfinite="propagate",  # a diverging replicate becomes NaN, as without the filter
            seed=next(steps),
        )
        for parameter, one in zip(params, laid_out, strict=True):
            parameter.grad = None if one.grad is None else turned(one.grad).contiguous()

    optimizer = imported(base, "hyperparameters.base")(params, lr=lr, **options)
    if needs_closure(optimizer):
        # It computes its gradients within the step, after the filter.
        raise TypeError(f"{base} needs a closure, and cannot be filtered")
    optimizer.register_step_pre_hook(truncate)
    return optimizer
