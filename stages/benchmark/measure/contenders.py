"""The optimizers that the benchmark times, each behind one function call per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrg_adam import LRGAdam, truncate_grad_rank_
from lrg_adam.flatten import square_side
from lrg_adam.low_rank import OVERSAMPLING

Step = Callable[[Sequence[Tensor]], None]
Make = Callable[[Sequence[Tensor], int], Step]


def stepping(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> Step:
    """A function that hands gradients to an optimizer and takes its step."""

    def step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    return step


def adam(weights: Sequence[Tensor], _: int, *, fused: bool | None) -> Step:
    """Adam, which ignores the rank."""
    return stepping(torch.optim.Adam(weights, fused=fused), weights)


def lrg_adam(weights: Sequence[Tensor], rank: int, **options: Any) -> Step:  # noqa: ANN401
    """LRG-Adam with one of its methods; it ends with fused Adam."""
    return stepping(LRGAdam(weights, rank=rank, fused=True, **options), weights)


def sgd(weights: Sequence[Tensor], rank: int | None) -> Step:
    """SGD with momentum, behind the filter if there is a rank."""
    step = stepping(torch.optim.SGD(weights, momentum=0.9, fused=True), weights)

    def filtered_step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        truncate_grad_rank_(weights, rank or 1, method="randomized")
        step([weight.grad for weight in weights if weight.grad is not None])

    return step if rank is None else filtered_step


def muon(weights: Sequence[Tensor], _: int) -> Step:
    """Muon for the matrices and fused Adam for the rest, as Muon prescribes."""
    matrices = [i for i, weight in enumerate(weights) if weight.ndim == 2]
    rest = [i for i in range(len(weights)) if i not in matrices]
    parts = [
        (indices, stepping(optimizer([weights[i] for i in indices]), [weights[i] for i in indices]))
        for indices, optimizer in (
            (matrices, torch.optim.Muon),
            (rest, partial(torch.optim.Adam, fused=True)),
        )
    ]

    def step(gradients: Sequence[Tensor]) -> None:
        for indices, part in parts:
            part([gradients[i] for i in indices])

    return step


def filtered(approximate: Callable[[Tensor], Tensor], weights: Sequence[Tensor]) -> Step:
    """The published step, word for word, with any approximation of the gradient matrix."""
    optimize = stepping(torch.optim.Adam(weights), weights)

    def step(gradients: Sequence[Tensor]) -> None:
        vector = torch.cat([gradient.flatten() for gradient in gradients])
        side = math.isqrt(len(vector) - 1) + 1
        padded = torch.zeros(side * side)
        padded[: len(vector)] = vector
        result = approximate(padded.view(side, side)).flatten()
        pieces = result[: len(vector)].split([gradient.numel() for gradient in gradients])
        optimize([p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    return step


def published(weights: Sequence[Tensor], rank: int) -> Step:
    """The published approximation: a full singular value decomposition."""

    def approximate(matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        s[rank:] = 0
        return (u * s) @ vh

    return filtered(approximate, weights)


def svd_lowrank(weights: Sequence[Tensor], rank: int) -> Step:
    """Torch's own randomized decomposition, with two power iterations."""

    def approximate(matrix: Tensor) -> Tensor:
        u, s, v = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=2)
        return (u[:, :rank] * s[:rank]) @ v[:, :rank].mT

    return filtered(approximate, weights)


def power_sgd(weights: Sequence[Tensor], rank: int) -> Step:
    """One warm-started half iteration per step and error feedback, on the whole gradient.

    It does in one process what torch's `batched_powerSGD_hook` does between processes.
    """
    side = square_side(sum(weight.numel() for weight in weights))
    right = torch.randn(side, rank, generator=torch.Generator().manual_seed(0))
    error = torch.zeros(side, side)

    def approximate(matrix: Tensor) -> Tensor:
        nonlocal right, error
        matrix = matrix + error
        left = torch.linalg.qr(matrix @ torch.linalg.qr(right).Q).Q
        right = matrix.mT @ left
        result = left @ right.mT
        error = matrix - result
        return result

    return filtered(approximate, weights)


# The methods of LRG-Adam with their options.
METHODS: dict[str, dict[str, Any]] = {
    "svd": {"method": "svd"},
    "gram": {"method": "gram"},
    "randomized": {"method": "randomized"},
}
# Contenders for one model, in table order.
CONTENDERS: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    "Muon": muon,
    "published (full SVD)": published,
    **{name: partial(lrg_adam, **options) for name, options in METHODS.items()},
    "SGD, fused": lambda weights, _: sgd(weights, None),
    "randomized before SGD": sgd,
    "torch.svd_lowrank": svd_lowrank,
    "PowerSGD": power_sgd,
}
# Contenders for a stack of models: those that take one.
STACKED: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    **{name: partial(lrg_adam, batch_dims=1, **options) for name, options in METHODS.items()},
}
