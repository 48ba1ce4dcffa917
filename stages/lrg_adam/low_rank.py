"""Rank-k approximation of matrices ``(..., m, n)``, as pure functions of tensors.

Matrices are real, in float32 or float64. Leading axes index independent matrices. The rank is
``0 < k < min(m, n)``.

The best approximation needs no left singular vectors: it is ``(G V) V^T``, where ``V`` holds the
``k`` leading right singular vectors of ``G`` (Eckart and Young, 1936). Any other orthonormal ``V``
still gives a contraction, so an inexact basis costs captured energy and nothing else.

If a matrix has a NaN or infinite entry, or its norm is so large that its approximation might
overflow, the approximation is NaN throughout. Otherwise it is finite throughout. The other matrices
in its stack are not affected.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Number of random directions beyond the rank.
OVERSAMPLING = 8

# The loss to rounding from which :func:`gram` turns to float64, in units of eps times the norm.
_EXACT = 4

# Squared norms for which float32 holds every square that matters. float64 holds any float32 square.
_SQUARES = (1e-25, 1e30)


class Approximation(NamedTuple):
    """A rank-k approximation and its squared Frobenius norm."""

    matrix: Tensor  # (..., m, n)
    energy: Tensor  # (...), float64


def svd(matrix: Tensor, k: int) -> Approximation:
    """Best approximation from a full singular value decomposition, in the dtype of the matrix.

    If that does not converge, from the Gram matrix in float64.

    Raises:
        torch.linalg.LinAlgError: if that fails too.

    """
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    g = matrix.where(finite, 0)
    try:
        u, s, vh = torch.linalg.svd(g, full_matrices=False)
        left, right = u[..., :k] * s[..., None, :k], vh[..., :k, :].mT
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not re-exported
        wide = g.double()
        v = torch.linalg.eigh(wide.mT @ wide).eigenvectors[..., -k:]
        left, right = (wide @ v).to(g.dtype), v.to(g.dtype)
    result = _product(left, right)
    return result._replace(matrix=result.matrix.where(finite, torch.nan))


def gram(matrix: Tensor, k: int, *, overwrite: bool = False) -> Approximation:
    r"""Best approximation from the leading eigenvectors of the Gram matrix ``G^T G``.

    It is exact to float32 rounding: as with a float32 SVD, the error exceeds the smallest possible,
    :math:`\|G - G_k\|_F`, by a few units of ``eps`` times :math:`\|G\|_F`. The largest excess that
    a search over spectra, sizes and ranks found is 12 ``eps``. Exactly equal entries are worse,
    with 52 ``eps`` for ``torch.ones(800, 800)``, where :func:`svd` is off by 249.

    A float64 matrix, and one whose eigenvectors are not found, goes to :func:`svd`.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.
        overwrite: whether the result may take the place of ``matrix``, which saves memory.

    """
    if matrix.dtype == torch.float64:
        return svd(matrix, k)
    if matrix.shape[-1] > matrix.shape[-2]:  # use the smaller Gram matrix
        transposed = gram(matrix.mT, k)
        return transposed._replace(matrix=transposed.matrix.mT)
    g = matrix.reshape(-1, *matrix.shape[-2:])
    try:
        v = _leading_right_vectors(g, k)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not re-exported
        return svd(matrix, k)
    found = _product(g @ v, v, out=g if overwrite else None)
    return Approximation(found.matrix.view_as(matrix), found.energy.view(matrix.shape[:-2]))


def randomized(
    matrix: Tensor,
    k: int,
    iterations: int,
    seed: int,
    step: int | Tensor,
    *,
    overwrite: bool = False,
) -> Approximation:
    """Approximation from subspace iteration, see :func:`ritz_factors`, without synchronising."""
    if matrix.shape[-1] > matrix.shape[-2]:  # start with the shorter columns
        transposed = randomized(matrix.mT, k, iterations, seed, step)
        return transposed._replace(matrix=transposed.matrix.mT)
    left, right, energy = ritz_factors(
        lambda v: matrix @ v,
        lambda q: matrix.mT @ q,
        matrix,
        matrix.shape,
        k,
        iterations,
        seed,
        step,
    )
    result = torch.matmul(left, right.mT, out=matrix if overwrite else None)
    return Approximation(result, energy)


def ritz_factors(
    times: Callable[[Tensor], Tensor],
    transposed_times: Callable[[Tensor], Tensor],
    like: Tensor,
    shape: torch.Size,
    k: int,
    iterations: int,
    seed: int,
    step: int | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Approximate a matrix ``G`` that is known through its products with ``r`` columns.

    One iteration is ``Q = orth(G V)``, ``V = G^T Q``, from random ``V``. The result is
    :math:`Q_k Q_k^T G` for the ``k`` leading Ritz vectors :math:`Q_k` in the span of ``Q``. The
    angle to the leading subspace shrinks by :math:`(\sigma_{r+1} / \sigma_k)^2` each time (Halko,
    Martinsson and Tropp, 2011, section 4.5).

    Args:
        times: maps ``V (..., n, r)`` to ``G V (..., m, r)``.
        transposed_times: maps ``Q (..., m, r)`` to ``G^T Q (..., n, r)``.
        like: has the dtype and the device of ``G``.
        shape: ``(..., m, n)``; ``r`` is ``k + OVERSAMPLING``, or the smaller side.
        k: the rank of the result.
        iterations: at least 1.
        seed: with ``step``, decides the directions from which the iteration starts.
        step: may be a tensor on the device.

    Returns:
        ``L (..., m, k)`` and ``R (..., n, k)``, whose product ``L R^T`` is the approximation, and
        its squared Frobenius norm ``(...)`` in float64.

    """
    *batch, m, n = shape
    signs = random_signs(n, min(k + OVERSAMPLING, m, n), seed, step, like.device)
    v = (signs.to(like.dtype) / n**0.5).expand(*batch, *signs.shape)
    for iteration in range(iterations):
        if iteration > 0:
            tiny = torch.finfo(v.dtype).tiny
            v = v / _lengths(v).to(v.dtype).clamp(min=tiny)  # zero columns stay zero
        q = torch.linalg.qr(times(v)).Q
        v = transposed_times(q)
    # Rotate the r directions to sort them by energy and keep the k best. Subspace iteration on the
    # small r x r matrix does that without synchronising, unlike eigh. Near-ties may stay unsorted,
    # but those hold nearly the same energy, so it does not matter which of them are kept.
    # Directions without energy would not move, so they go to the end first.
    small = v.double().mT @ v.double()
    order = small.diagonal(dim1=-2, dim2=-1).argsort(-1, descending=True)[..., None, :]
    rotation = torch.linalg.qr(small.take_along_dim(order, -1)).Q
    for _ in range(7):
        rotation = torch.linalg.qr(small @ rotation).Q
    rotation = rotation[..., :k].to(v.dtype)
    v = v @ rotation
    lengths = _lengths(v)
    # No entry of the product is larger than this sum, because the columns of L are orthonormal.
    finite = lengths.sum(-1, keepdim=True) < torch.finfo(v.dtype).max
    left = (q @ rotation).where(finite, torch.nan)
    return left, v, lengths.square().sum((-2, -1))


def random_signs(
    rows: int, columns: int, seed: int, step: int | Tensor, device: torch.device | None = None
) -> Tensor:
    """Draw a ``(rows, columns)`` float32 matrix of signs, as a pure function of the arguments.

    Each sign is a hash of its position: the two-round integer hash of Wellons' hash-prospector. So
    no generator advances, ``step`` may live on the device, and every device draws the same signs.
    """
    if isinstance(step, Tensor):
        step = step.to(device, torch.int64)
    x = torch.arange(rows * columns, device=device) + step * 0x9E3779B1
    x = x + (seed * 0x85EBCA77 & 0xFFFFFFFF)
    x = x & 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x21F0AAAD & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x735A2D97 & 0xFFFFFFFF
    return ((x ^ (x >> 15)) & 1).mul(2).sub(1).view(rows, columns).float()


def squared_norm(matrix: Tensor) -> Tensor:
    """Squared Frobenius norm ``(...)`` in float64; NaN where the squares leave float32's range."""
    # Row by row, because a long sum in float32 loses digits and a float64 copy costs memory.
    total: Tensor = torch.linalg.vector_norm(matrix, dim=-1).double().square().sum(-1)
    usable = (total == 0) | ((total > _SQUARES[0]) & (total < _SQUARES[1]))
    return total.where(usable, torch.nan)


def _leading_right_vectors(g: Tensor, k: int) -> Tensor:
    """Right singular vectors ``(b, n, k)`` of ``(b, m, n)``, NaN for matrices that are not finite.

    Rounding the Gram matrix moves its eigenvectors, which costs energy. Where that may matter, or
    float32 cannot hold the squares, it is formed and decomposed again in float64.
    """
    c = g.mT @ g
    energy = c.diagonal(dim1=-2, dim2=-1).sum(-1)
    usable = (energy > _SQUARES[0]) & (energy < _SQUARES[1])  # False for NaN
    if not usable.all():
        c.masked_fill_(~usable[:, None, None], 0)
    values, vectors = torch.linalg.eigh(c)
    v: Tensor = vectors[..., -k:]
    del c
    delicate = (~usable | _uncertain(values, k, energy)).nonzero().squeeze(-1)
    if len(delicate) > 0:
        wide = g[delicate].double()
        wide = wide.mT @ wide
        finite = wide.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()[:, None, None]
        found = torch.linalg.eigh(wide.where(finite, 0)).eigenvectors[..., -k:]
        v = v.index_copy(0, delicate, found.where(finite, torch.nan).to(v.dtype))
    return v


def _uncertain(values: Tensor, k: int, energy: Tensor) -> Tensor:
    r"""Where rounding is likely to have made the ``k`` leading eigenvectors worse than ``_EXACT``.

    Rounding adds a matrix whose entries, in the basis of the eigenvectors, are about
    :math:`\varepsilon = 4 \, \mathrm{eps} \, \lambda_1 / \sqrt n`; the factor is measured. To
    second order this turns eigenvector ``i`` towards ``j`` by the angle :math:`\varepsilon /
    (\lambda_i - \lambda_j)`, which costs that, squared, times :math:`\lambda_i - \lambda_j`. Of
    eigenvectors closer than :math:`\varepsilon` any mixture may result, at a cost of at most
    :math:`\varepsilon`. If the smallest error is :math:`e`, losing the energy :math:`\ell` adds at
    most :math:`\ell / 2 e` to it.

    Args:
        values: float32 eigenvalues ``(..., n)``, ascending.
        k: the rank.
        energy: ``(...)``, their sum.

    """
    eps = torch.finfo(values.dtype).eps
    values = values / energy[..., None]
    noise = min(1, 4 / values.shape[-1] ** 0.5) * eps * values[..., -1]
    gaps = values[..., -k:, None] - values[..., None, :-k]
    loss = noise * gaps.reciprocal_().mul_(noise[..., None, None]).clamp_(max=1).sum((-2, -1))
    left_out = 1 - 32 * eps - values[..., -k:].sum(-1)  # less what rounding may have added
    allowed = (2 * _EXACT * eps) ** 2 * left_out.clamp(min=0)
    certain: Tensor = loss.square() < allowed  # False for NaN
    return ~certain


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Approximation:
    """``L R^T`` for orthonormal columns of ``R``; NaN if the norm of ``L`` overflows.

    No entry of the product exceeds that norm. ``out`` may be any contiguous tensor of its shape.
    """
    norm = torch.linalg.vector_norm(left, dim=(-2, -1), dtype=torch.float64)
    finite = norm[..., None, None] < torch.finfo(left.dtype).max
    result = torch.matmul(left.where(finite, torch.nan), right.mT, out=out)
    return Approximation(result, norm.square())


def _lengths(v: Tensor) -> Tensor:
    """Column lengths ``(..., 1, r)``, in float64, which holds the square of any float32."""
    lengths: Tensor = torch.linalg.vector_norm(v, dim=-2, keepdim=True, dtype=torch.float64)
    return lengths
