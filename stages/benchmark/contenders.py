"""The optimizers and gradient filters that the benchmark times, each behind one call a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lrg_adam import LRGAdam

Step = Callable[[Sequence[Tensor]], None]
Make = Callable[[Sequence[Tensor], int], Step]

OVERSAMPLING = 8  # columns beyond the rank, as LRGAdam's approximate methods take by default


def stepping(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> Step:
    """A call that hands gradients to an optimizer and takes its step."""

    def step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    return step


def adam(weights: Sequence[Tensor], _: int, *, fused: bool | None) -> Step:
    """Adam, which takes no rank."""
    return stepping(torch.optim.Adam(weights, fused=fused), weights)


def lrg_adam(weights: Sequence[Tensor], rank: int, *, stacked: int = 0, **options: object) -> Step:
    """LRG-Adam by one of its methods, its last part the fused Adam."""
    optimizer = LRGAdam(weights, rank=rank, batch_dims=stacked, fused=True, **options)
    return stepping(optimizer, weights)


def muon(weights: Sequence[Tensor], _: int) -> Step:
    """Muon on the matrices, the fused Adam on the rest, as Muon prescribes."""
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
    """The published step, word for word, with its approximation left open."""
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
    """The published way: a full singular value decomposition."""

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
    """One warm-started half iteration a step and error feedback, on the whole gradient.

    What torch's `batched_powerSGD_hook` does between processes, done in one.
    """
    state: dict[str, Tensor] = {}

    def approximate(matrix: Tensor) -> Tensor:
        if not state:
            generator = torch.Generator().manual_seed(0)
            state["right"] = torch.randn(len(matrix), rank, generator=generator)
            state["error"] = torch.zeros_like(matrix)
        matrix = matrix + state["error"]
        left = torch.linalg.qr(matrix @ torch.linalg.qr(state["right"]).Q).Q
        state["right"] = matrix.mT @ left
        result = left @ state["right"].mT
        state["error"] = matrix - result
        return result

    return filtered(approximate, weights)


# The methods of LRG-Adam with their options.
METHODS: dict[str, dict[str, object]] = {
    "svd": {"method": "svd"},
    "gram": {"method": "gram"},
    "randomized": {"method": "randomized"},
    "subspace": {"method": "subspace"},
    "subspace, certified to 1 %": {"method": "subspace", "iterations": 2, "tolerance": 0.01},
}
# What meets the matrix of a single model, in the order of the tables.
CONTENDERS: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    "Muon": muon,
    "published (full SVD)": published,
    **{name: partial(lrg_adam, **options) for name, options in METHODS.items()},
    "torch.svd_lowrank": svd_lowrank,
    "PowerSGD": power_sgd,
}
# And those that a stack of models meets: every one that takes a stack.
STACKED: dict[str, Make] = {
    "Adam": partial(adam, fused=None),
    "Adam, fused": partial(adam, fused=True),
    **{name: partial(lrg_adam, stacked=1, **options) for name, options in METHODS.items()},
}
