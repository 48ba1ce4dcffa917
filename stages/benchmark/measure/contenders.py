"""The optimizers that the benchmark times, each behind one function call per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lrg_adam import LRGAdam, truncate_grad_rank_
from lrg_adam.low_rank import OVERSAMPLING

Step = Callable[[Sequence[Tensor]], None]
Make = Callable[[Sequence[Tensor], int], Step]


def stepping(weights: Sequence[Tensor], *optimizers: torch.optim.Optimizer) -> Step:
    """A function that hands gradients to optimizers, each of which has some of the weights."""

    def step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        for optimizer in optimizers:
            optimizer.step()

    return step


def adam(weights: Sequence[Tensor], _: int, *, fused: bool | None) -> Step:
    """Adam, which ignores the rank."""
    return stepping(weights, torch.optim.Adam(weights, fused=fused))


def lrg_adam(weights: Sequence[Tensor], rank: int, *, method: str, batch_dims: int = 0) -> Step:
    """LRG-Adam with one of its methods; it ends with fused Adam."""
    optimizer = LRGAdam(weights, rank=rank, method=method, batch_dims=batch_dims, fused=True)
    return stepping(weights, optimizer)


def sgd(weights: Sequence[Tensor], _: int) -> Step:
    """SGD with momentum, which ignores the rank."""
    return stepping(weights, torch.optim.SGD(weights, momentum=0.9, fused=True))


def filtered_sgd(weights: Sequence[Tensor], rank: int) -> Step:
    """The filter before SGD."""
    optimizer = torch.optim.SGD(weights, momentum=0.9, fused=True)

    def step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        truncate_grad_rank_(weights, rank, method="randomized")
        optimizer.step()

    return step


def muon(weights: Sequence[Tensor], _: int) -> Step:
    """Muon for the matrices and fused Adam for the rest, as Muon prescribes."""
    matrices = [weight for weight in weights if weight.ndim == 2]
    rest = [weight for weight in weights if weight.ndim != 2]
    return stepping(weights, torch.optim.Muon(matrices), torch.optim.Adam(rest, fused=True))


def filtered(approximate: Callable[[Tensor], Tensor], weights: Sequence[Tensor]) -> Step:
    """The published step, word for word, with any approximation of the gradient matrix."""
    optimize = stepping(weights, torch.optim.Adam(weights))

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


METHODS = ("svd", "gram", "randomized")
# Contenders for one model, in table order.
CONTENDERS: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    "Muon": muon,
    "published (full SVD)": published,
    **{method: partial(lrg_adam, method=method) for method in METHODS},
    "SGD, fused": sgd,
    "randomized before SGD": filtered_sgd,
    "torch.svd_lowrank": svd_lowrank,
}
# Contenders for a stack of models: those that take one.
STACKED: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    **{method: partial(lrg_adam, method=method, batch_dims=1) for method in METHODS},
}
