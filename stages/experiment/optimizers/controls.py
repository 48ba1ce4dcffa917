"""The controls: Adam on gradients that are filtered in other ways than in LRG-Adam.

Each filter changes one thing, to test whether the top subspace of this matrix is what matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from experiment.stage.randomness import stream
from experiment.training.arithmetic import projected, spectrum, truncate
from lrg_adam.flatten import from_square, square_side, to_square

STACKED = True
# Maps gradient matrices (R, n, n), with zero padding at the end, to matrices of the same shape.
Filter = Callable[[Tensor], Tensor]


def create(
    weights: Iterable[Tensor],
    *,
    lr: float,
    keep: str,
    rank: int | None = None,
    energy: float | None = None,
) -> torch.optim.Optimizer:
    """Adam on filtered gradients.

    Args:
        weights: each (R, ...), replicates along the first axis.
        lr: learning rate.
        keep: `random` keeps a random subspace of `rank` dimensions; `permuted` the top `rank` of
            the matrix with its entries permuted; `rest` all but the top `rank`; `energy` the fewest
            leading directions that hold the share `energy` of each gradient's squared norm.
        rank: number of dimensions, for every `keep` except `energy`.
        energy: share, above 0 and at most 1, only for `keep` = `energy`.

    Raises:
        ValueError: `keep` is none of these, or its `rank` or `energy` is missing or out of range.

    """
    weights = list(weights)
    side = square_side(sum(weight[0].numel() for weight in weights))
    chosen: Filter
    match keep, rank, energy:
        case "random", int(), None:
            chosen = random_subspace(rank, streams(weights[0], "random subspace"))
        case "permuted", int(), None:
            chosen = permuted_entries(rank, side, streams(weights[0], "permuted entries"))
        case "rest", int(), None if rank < side:
            chosen = partial(rest, rank=rank)
        case "energy", None, float() | int() if 0 < energy <= 1:
            chosen = partial(top_energy, energy=energy)
        case _:
            raise ValueError(
                "keep is random, permuted or rest with a rank, a whole number below the side of "
                "the matrix for rest, or energy with an energy above 0 and at most 1"
            )

    def filter_gradients(*_: object) -> None:
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        found = chosen(to_square(gradients, 1, torch.float32)).contiguous()
        for weight, gradient in zip(weights, from_square(found, gradients, 1), strict=True):
            # torch's fused Adam ignores the strides of a gradient.
            weight.grad = gradient.contiguous()

    adam = torch.optim.Adam(weights, lr=lr, fused=True)
    adam.register_step_pre_hook(filter_gradients)
    return adam


def streams(weights: Tensor, name: str) -> list[np.random.Generator]:
    """One random stream per replicate, fixed by its initial weights (R, ...) and by `name`.

    A replicate therefore draws the same numbers however many are trained with it.
    """
    return [stream(crc32(one.numpy().tobytes()), name) for one in weights.detach().cpu()]


def random_subspace(rank: int, draw_from: Sequence[np.random.Generator]) -> Filter:
    """Project onto `rank` random directions, drawn anew for each step and replicate.

    The result has the form of the best approximation, (G V) V^T, but V is independent of G.
    """

    def chosen(matrix: Tensor) -> Tensor:
        shape = matrix.shape[-1], rank
        drawn = np.stack([one.standard_normal(shape, np.float32) for one in draw_from])
        basis = torch.linalg.qr(torch.from_numpy(drawn).to(matrix.device)).Q
        return projected(matrix, basis)

    return chosen


def permuted_entries(rank: int, side: int, draw_from: Sequence[np.random.Generator]) -> Filter:
    """Permute the entries of the matrix, truncate it, and put the entries back.

    Each replicate has its own permutation, the same at every step. It destroys the matrix structure
    of the gradient but keeps its entries.
    """
    orders = torch.from_numpy(np.stack([one.permutation(side**2) for one in draw_from]))

    def chosen(matrix: Tensor) -> Tensor:
        order = orders.to(matrix.device)
        permuted = matrix.flatten(-2).gather(-1, order).view_as(matrix)
        truncated = truncate(permuted, rank).flatten(-2)
        return torch.empty_like(truncated).scatter_(-1, order, truncated).view_as(matrix)

    return chosen


def rest(matrix: Tensor, rank: int) -> Tensor:
    """The part of the gradient matrices (R, n, n) that truncation to `rank` removes."""
    return matrix - truncate(matrix, rank)


def top_energy(matrix: Tensor, energy: float) -> Tensor:
    """Truncate each gradient matrix (R, n, n) to the lowest rank that keeps the share `energy`.

    Energy is the squared Frobenius norm.
    """
    values, vectors = spectrum(matrix)
    values = values.clamp(min=0).flip(-1)
    kept = values.cumsum(-1)
    # A direction is needed if those before it do not reach the share.
    needed = (kept - values < energy * kept[..., -1:]).flip(-1)
    basis = vectors * needed[..., None, :]
    return projected(matrix, basis)
