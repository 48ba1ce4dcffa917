"""Tensor arithmetic that torch does slowly, or differently on different processors.

`experiment` restricts torch to instructions common to all of them. This module makes up for the
time that this costs, and covers what the restriction does not reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def sqrt(x: Tensor) -> Tensor:
    """Square roots with the same bits on every processor, within one unit in the last place.

    `torch.sqrt` calls MKL's vector mathematics, which no setting controls and which rounds
    differently on Intel processors; torch's exponentials and logarithms do the same. A reciprocal
    root consists of scalar roots and quotients, which IEEE 754 defines exactly.
    """
    return x.rsqrt().reciprocal()


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Products of stacked matrices, (R, m, k) and (R, k, n); no gradient flows through them.

    On the CPU, NumPy computes them: its BLAS can be restricted to AVX2 on every processor. Torch's
    BLAS, MKL, gives the same bits on all of them only with SSE2, at two fifths of the speed.
    """
    if a.device.type != "cpu":
        return a.detach() @ b.detach()
    with np.errstate(all="ignore"):  # training code reports divergence
        return torch.from_numpy(a.detach().numpy() @ b.detach().numpy())


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Stacked linear layers, x W^T + b for each replicate, by `matmul`.

    Args:
        x: (R, B, inputs), or (B, inputs) for all replicates if they need no gradient.
        weight: (R, outputs, inputs).
        bias: (R, outputs).

    Returns:
        (R, B, outputs).

    """
    return _Linear.apply(x, weight, bias)


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (R, n), ascending, and eigenvectors (R, n, n) of G^T G for matrices G (R, n, n).

    In float32. Each matrix is first scaled to entries of at most 1, so the eigenvalues are
    relative to its largest entry. They are NaN for a matrix that is not finite.
    """
    largest = matrix.abs().amax((-2, -1), keepdim=True)
    good = largest.isfinite()
    scaled = (matrix / largest.clamp(min=1e-30)).where(good, 0)
    gram = matmul(scaled.mT, scaled)
    try:
        values, vectors = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not re-exported
        # Seen when training has all but diverged.
        values, vectors = (part.float() for part in torch.linalg.eigh(gram.double()))
    return values.where(good[..., 0], torch.nan), vectors.where(good, torch.nan)


def truncate(matrix: Tensor, rank: int) -> Tensor:
    """Best approximations of rank `rank` of the matrices G (R, n, n), from G^T G in float32."""
    return projected(matrix, spectrum(matrix)[1][..., -rank:])


def projected(matrix: Tensor, basis: Tensor) -> Tensor:
    """The rows of the matrices (R, n, n) projected onto bases (R, n, k): G V V^T."""
    return matmul(matmul(matrix, basis), basis.mT)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.mT).add_(bias.unsqueeze(-2))

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch annotates saved_tensors as a single tensor
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = matmul(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, matmul(grad.mT, x), grad.sum(-2)
