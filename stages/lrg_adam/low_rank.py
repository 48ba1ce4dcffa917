"""Rank-k approximation of matrices ``(..., m, n)``, as pure functions of tensors.

Matrices are real, in float32 or float64, and independent along leading axes. The rank is
``0 < k < min(m, n)``.

The best approximation is ``(G V) V^T``, where ``V`` holds the ``k`` leading right singular vectors
(Eckart and Young, 1936). Any other orthonormal ``V`` still gives a contraction, so an inexact basis
costs captured energy and nothing else.

Where an entry is NaN or infinite, or the approximation might overflow, that matrix becomes NaN
throughout. Otherwise it is finite throughout. The others in its stack are not affected.
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
    """Best approximation from a full decomposition.

    If that does not converge, from the Gram matrix in float64, or LinAlgError.
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
    return _product(left.where(finite, torch.nan), right)


def gram(matrix: Tensor, k: int, *, overwrite: bool = False) -> Approximation:
    """Best approximation from the leading eigenvectors of the Gram matrix ``G^T G``.

    It is exact to rounding, as a float32 SVD is: a search over spectra, sizes and ranks found an
    error of at most 17 ``eps`` times the norm beyond the smallest possible. Exactly equal entries
    are worse, with 52 ``eps`` for ``torch.ones(800, 800)``, where :func:`svd` is off by 249.

    A float64 matrix, and a stack whose eigenvectors are not found, goes to :func:`svd`. With
    ``overwrite``, the result may take the place of ``matrix``, which saves memory.
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
    found = _product(torch.bmm(g, v), v, out=g if overwrite else None)
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
    *batch, m, n = matrix.shape
    if n > m:  # start with the shorter columns
        transposed = randomized(matrix.mT, k, iterations, seed, step)
        return transposed._replace(matrix=transposed.matrix.mT)
    signs = random_signs(n, min(k + OVERSAMPLING, n), seed, step, matrix)
    left, right, energy = ritz_factors(
        lambda v: matrix @ v, lambda q: matrix.mT @ q, signs.expand(*batch, -1, -1), k, iterations
    )
    result = torch.matmul(left, right.mT, out=matrix if overwrite else None)
    return Approximation(result, energy)


def ritz_factors(
    times: Callable[[Tensor], Tensor],
    transposed_times: Callable[[Tensor], Tensor],
    signs: Tensor,
    k: int,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Approximate a matrix ``G (..., m, n)`` that is known through products with ``r`` columns.

    One iteration is ``Q = orth(G V)``, ``V = G^T Q``, from random signs. The result is
    :math:`Q_k Q_k^T G` for the ``k`` leading Ritz vectors :math:`Q_k` in the span of ``Q``. The
    angle to the leading subspace shrinks by :math:`(\sigma_{r+1} / \sigma_k)^2` each time (Halko,
    Martinsson and Tropp, 2011, section 4.5).

    ``times`` maps ``V (..., n, r)``, which is like ``signs``, to ``G V``, and ``transposed_times``
    maps ``Q (..., m, r)`` to ``G^T Q``. Returns ``L (..., m, k)`` and ``R (..., n, k)``, whose
    product ``L R^T`` is the approximation, and its squared Frobenius norm ``(...)`` in float64.
    """
    v = signs / signs.shape[-2] ** 0.5
    for iteration in range(iterations):
        if iteration > 0:
            tiny = torch.finfo(v.dtype).tiny
            v = v / _lengths(v).to(v.dtype).clamp(min=tiny)  # zero columns stay zero
        q = torch.linalg.qr(times(v)).Q
        v = transposed_times(q)
    # Sort the r directions by energy and keep the k best. Subspace iteration on the small r x r
    # matrix does that without synchronising, unlike eigh, and only near-ties may stay unsorted.
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


def random_signs(rows: int, columns: int, seed: int, step: int | Tensor, like: Tensor) -> Tensor:
    """Draw ``(rows, columns)`` signs of the dtype and device of ``like``, the same on any device.

    Each sign is a hash of its position: the two-round integer hash of Wellons' hash-prospector. So
    no generator advances, and ``step`` may live on the device.
    """
    if isinstance(step, Tensor):
        step = step.to(like.device, torch.int64)
    x = torch.arange(rows * columns, device=like.device) + step * 0x9E3779B1
    x = x + (seed * 0x85EBCA77 & 0xFFFFFFFF)
    x = x & 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x21F0AAAD & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x735A2D97 & 0xFFFFFFFF
    return ((x ^ (x >> 15)) & 1).mul(2).sub(1).view(rows, columns).to(like.dtype)


def squared_norm(matrix: Tensor) -> Tensor:
    """Squared Frobenius norm ``(...)`` in float64; NaN where the squares leave float32's range."""
    # Row by row, because a long sum in float32 loses digits and a float64 copy costs memory.
    total: Tensor = torch.linalg.vector_norm(matrix, dim=-1).double().square().sum(-1)
    usable = (total == 0) | ((total > _SQUARES[0]) & (total < _SQUARES[1]))
    return total.where(usable, torch.nan)


def _leading_right_vectors(g: Tensor, k: int) -> Tensor:
    """Right singular vectors ``(b, n, k)`` of ``(b, m, n)``, NaN for matrices that are not finite.

    In float64 where rounding may matter or float32 cannot hold the squares.
    """
    c = torch.bmm(g.mT, g)
    energy = c.diagonal(dim1=-2, dim2=-1).sum(-1)
    usable = (energy > _SQUARES[0]) & (energy < _SQUARES[1])  # False for NaN
    if not usable.all():
        c.masked_fill_(~usable[:, None, None], 0)
    values, vectors = torch.linalg.eigh(c)
    v: Tensor = vectors[..., -k:]
    del c
    certain = usable & _certain(values, k, energy)
    if not certain.all():
        delicate = certain.logical_not().nonzero().squeeze(-1)
        wide = g[delicate].double()
        wide = wide.mT @ wide
        finite = wide.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()[:, None, None]
        found = torch.linalg.eigh(wide.where(finite, 0)).eigenvectors[..., -k:]
        v = v.index_copy(0, delicate, found.where(finite, torch.nan).to(v.dtype))
    return v


def _certain(values: Tensor, k: int, energy: Tensor) -> Tensor:
    r"""Where rounding has probably cost the ``k`` leading eigenvectors less than ``_EXACT``.

    Rounding adds a matrix whose entries, in the basis of the eigenvectors, are about
    :math:`\varepsilon = 4 \, \mathrm{eps} \, \lambda_1 / \sqrt n`; the factor is measured. That
    turns eigenvector ``i`` towards ``j`` by :math:`\varepsilon / (\lambda_i - \lambda_j)`, which
    costs that angle, squared, times :math:`\lambda_i - \lambda_j`, but at most
    :math:`\varepsilon`. Losing the energy :math:`\ell` adds at most :math:`\ell / 2 e` to the
    smallest error :math:`e`. ``values (..., n)`` ascend, in float32, and ``energy`` is their sum.
    """
    eps = torch.finfo(values.dtype).eps
    values = values / energy[..., None]
    noise = min(1, 4 / values.shape[-1] ** 0.5) * eps * values[..., -1]
    gaps = values[..., -k:, None] - values[..., None, :-k]
    loss = noise * gaps.reciprocal_().mul_(noise[..., None, None]).clamp_(max=1).sum((-2, -1))
    left_out = 1 - 32 * eps - values[..., -k:].sum(-1)  # less what rounding may have added
    allowed = (2 * _EXACT * eps) ** 2 * left_out.clamp(min=0)
    certain: Tensor = loss.square() < allowed  # False for NaN
    return certain


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Approximation:
    """``L R^T`` for orthonormal columns of ``R``; NaN if the norm of ``L`` overflows."""
    norm = torch.linalg.vector_norm(left, dim=(-2, -1), dtype=torch.float64)
    finite = norm[..., None, None] < torch.finfo(left.dtype).max
    result = torch.matmul(left.where(finite, torch.nan), right.mT, out=out)
    return Approximation(result, norm.square())


def _lengths(v: Tensor) -> Tensor:
    """Column lengths ``(..., 1, r)``, in float64, which holds the square of any float32."""
    lengths: Tensor = torch.linalg.vector_norm(v, dim=-2, keepdim=True, dtype=torch.float64)
    return lengths
