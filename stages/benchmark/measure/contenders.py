"""The optimizers that the benchmark times, each behind one function call per step."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Muon

from lrg_adam import LRGAdam, truncate_grad_rank_
from lrg_adam.low_rank import OVERSAMPLING

Step = Callable[[Sequence[Tensor]], None]
Make = Callable[[Sequence[Tensor], int], Step]  # from weights and the rank


def stepping(weights: Sequence[Tensor], *calls: Callable[[], object]) -> Step:
    """A function that hands gradients to the weights, and then makes the calls."""

    def step(gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        for call in calls:
            call()

    return step


def methods(batch_dims: int) -> dict[str, Make]:
    """LRG-Adam with each of its methods; it ends with fused Adam."""

    def make(method: str, weights: Sequence[Tensor], rank: int) -> Step:
        optimizer = LRGAdam(weights, rank=rank, method=method, batch_dims=batch_dims, fused=True)
        return stepping(weights, optimizer.step)

    return {method: partial(make, method) for method in ("svd", "gram", "randomized")}


def muon(weights: Sequence[Tensor], _: int) -> Step:
    """Muon for the matrices and fused Adam for the rest, as Muon prescribes."""
    matrices = [weight for weight in weights if weight.ndim == 2]
    rest = [weight for weight in weights if weight.ndim != 2]
    return stepping(weights, Muon(matrices).step, Adam(rest, fused=True).step)


def published(
    approximate: Callable[[Tensor, int], Tensor], weights: Sequence[Tensor], rank: int
) -> Step:
    """The published step, word for word, with any approximation of the gradient matrix."""
    optimize = stepping(weights, Adam(weights).step)

    def step(gradients: Sequence[Tensor]) -> None:
        vector = torch.cat([gradient.flatten() for gradient in gradients])
        side = math.isqrt(len(vector) - 1) + 1
        padded = torch.zeros(side * side)
        padded[: len(vector)] = vector
        result = approximate(padded.view(side, side), rank).flatten()
        pieces = result[: len(vector)].split([gradient.numel() for gradient in gradients])
        optimize([p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    return step


def full_svd(matrix: Tensor, rank: int) -> Tensor:
    """The published approximation: a full singular value decomposition."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s[rank:] = 0
    return (u * s) @ vh


def svd_lowrank(matrix: Tensor, rank: int) -> Tensor:
    """Torch's own randomized decomposition, with two power iterations."""
    u, s, v = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=2)
    return (u[:, :rank] * s[:rank]) @ v[:, :rank].mT


ADAM: dict[str, Make] = {
    "Adam": lambda weights, _: stepping(weights, Adam(weights).step),
    "Adam, fused": lambda weights, _: stepping(weights, Adam(weights, fused=True).step),
}
sgd = partial(SGD, momentum=0.9, fused=True)
truncate = partial(truncate_grad_rank_, method="randomized")
# Contenders for one model, in table order.
CONTENDERS: dict[str, Make] = {
    **ADAM,
    "Muon": muon,
    "published (full SVD)": partial(published, full_svd),
    **methods(batch_dims=0),
    "SGD, fused": lambda weights, _: stepping(weights, sgd(weights).step),
    "randomized before SGD": lambda weights, rank: stepping(
        weights, partial(truncate, weights, rank), sgd(weights).step
    ),
    "torch.svd_lowrank": partial(published, svd_lowrank),
}
# Contenders for a stack of models: those that take one.
STACKED = ADAM | methods(batch_dims=1)
