"""Rank-k approximation of matrices ``(..., m, n)``, as pure functions of tensors.

Matrices are real, in float32 or float64. Leading axes index independent matrices. The rank is
``0 < k < min(m, n)``.

The best approximation needs no left singular vectors: it is ``(G V) V^T``, where ``V`` holds the
``k`` leading right singular vectors of ``G`` (Eckart and Young, 1936). Any other orthonormal ``V``
still gives a contraction, so an inexact basis costs captured energy and nothing else.

If a matrix has a NaN or infinite entry, its approximation is NaN throughout. The other matrices in
its stack are not affected.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# How far from optimal "exact" may be, relative to the matrix norm: float32 rounding.
_EXACT = 4 * torch.finfo(torch.float32).eps

# Bound on the rounding error in a sum of Gram eigenvalues, in units of eps times the energy.
_EIGENVALUES = 32

# If less than this share of the energy is left out, float32 eigenvectors are not good enough.
_DELICATE = 1e-4

# Squared norms for which float32 holds every square that matters. float64 holds any float32 square.
_SQUARES = (1e-25, 1e30)

# The filtered iteration pays off if n is at least this, and this many times its block size.
_FILTER_MIN_SIDE = 512
_FILTER_MIN_SHARE = 12
_FILTER_STEPS = 5


class Approximation(NamedTuple):
    """A rank-k approximation and what it took to find it."""

    matrix: Tensor  # (..., m, n)
    basis: Tensor | None = None  # (..., n, r), to start the next subspace iteration
    retries: int = 0  # matrices whose decomposition failed and was redone another way
    fallbacks: int = 0  # matrices that could not be certified and were decomposed in full


def svd(matrix: Tensor, k: int) -> Approximation:
    """Best approximation from a full singular value decomposition, in the dtype of the matrix.

    A decomposition that does not converge is redone in float64 from the Gram matrix.

    Raises:
        torch.linalg.LinAlgError: if that fails too.

    """
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]

    def leading(g: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(g, full_matrices=False)
        best: Tensor = (u[..., :k] * s[..., None, :k]) @ vh[..., :k, :]
        return best

    def through_gram(g: Tensor) -> Tensor:
        wide = g.double()
        v: Tensor = torch.linalg.eigh(wide.mT @ wide).eigenvectors[..., -k:]
        return ((wide @ v) @ v.mT).to(g.dtype)

    result, retries = _with_retry(leading, through_gram, matrix.where(finite, 0))
    return Approximation(result.where(finite, torch.nan), retries=retries)


def gram(matrix: Tensor, k: int) -> Approximation:
    r"""Best approximation from the leading eigenvectors of the Gram matrix ``C = G^T G``.

    The result is exact to float32 rounding: as with a float32 SVD, the error exceeds the smallest
    possible, :math:`\|G - G_k\|_F`, by a few units of ``eps`` times :math:`\|G\|_F`. Rounding ``C``
    mixes only eigenvectors whose eigenvalues differ by about as little, which costs little energy.
    If the matrix nearly has rank ``k``, even that is much compared with the energy left out, so
    ``C`` is formed and decomposed again in float64. The same happens if float32 cannot hold the
    squares. The worst case found, up to 200 ``eps``, is a giant singular value over a flat tail
    with just too much energy to trigger float64. A float64 matrix has no wider type and goes to
    :func:`svd`.

    If ``k`` is small and the matrix large, a filtered subspace iteration finds the eigenvectors in
    a fraction of the time. Its result is accepted only with a proof that it is optimal for ``C``,
    see :func:`excess_energy`. Without a proof the matrix is decomposed in full.

    Raises:
        torch.linalg.LinAlgError: if a full decomposition and its retry both fail.

    """
    if matrix.dtype == torch.float64:
        return svd(matrix, k)
    if matrix.shape[-1] > matrix.shape[-2]:  # use the smaller Gram matrix
        transposed = gram(matrix.mT, k)
        return transposed._replace(matrix=transposed.matrix.mT)
    g = matrix.reshape(-1, *matrix.shape[-2:])
    n = g.shape[-1]
    c = g.mT @ g
    energy = _trace(c)
    usable = (energy > _SQUARES[0]) & (energy < _SQUARES[1])  # False for NaN
    c.masked_fill_(~usable[:, None, None], 0)
    block = k + max(8, k // 2 + 2)
    filtered = n >= _FILTER_MIN_SIDE and _FILTER_MIN_SHARE * block <= n
    fallbacks = retries = 0
    if filtered:
        v, proven = _filtered_eigenvectors(c, k, block)
        pending = (~proven).nonzero().squeeze(-1)
        fallbacks = len(pending)
        if fallbacks > 0:
            v[pending], retries = _all_eigenvectors(c[pending], k)
    else:
        v, retries = _all_eigenvectors(c, k)

    kept = (v * (c @ v)).sum((-2, -1))
    del c
    delicate = (~usable | (kept >= (1 - _DELICATE) * energy)).nonzero().squeeze(-1)
    if len(delicate) > 0:
        wide = g[delicate].double()
        wide = wide.mT @ wide
        finite = _trace(wide).isfinite()[:, None, None]
        found, again = _all_eigenvectors(wide.where(finite, 0), k)
        v = v.index_copy(0, delicate, found.where(finite, torch.nan).to(v.dtype))
        retries += again
    result = ((g @ v) @ v.mT).view_as(matrix)
    return Approximation(result, retries=retries, fallbacks=fallbacks)


def subspace(matrix: Tensor, k: int, basis: Tensor, iterations: int = 1) -> Approximation:
    r"""Approximation from ``iterations`` steps of block subspace iteration started at ``basis``.

    One iteration is ``Q = orth(G V)``, ``V = G^T Q``; the result is :math:`Q_k Q_k^T G` for the
    ``k`` leading Ritz vectors :math:`Q_k` in the span of ``Q``. For a fixed matrix the angle to the
    leading subspace shrinks by :math:`(\sigma_{r+1} / \sigma_k)^2` each time (Halko, Martinsson and
    Tropp, 2011, section 4.5). Nothing here synchronises with the host.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank of the result.
        basis: ``(..., n, r)`` or ``(n, r)`` with ``k <= r <= min(m, n)``; need not be orthonormal.
        iterations: at least 1; each costs two products of an ``m x n`` with an ``n x r`` matrix.

    Returns:
        The approximation. Its ``basis`` holds the new right Ritz vectors, leading ones first.

    """
    v = basis.expand(*matrix.shape[:-2], *basis.shape[-2:]).to(matrix.dtype)
    left, right, basis = ritz_factors(
        lambda v: matrix @ v, lambda q: matrix.mT @ q, k, v, iterations
    )
    return Approximation(left @ right.mT, basis)


def ritz_factors(
    times: Callable[[Tensor], Tensor],
    transposed_times: Callable[[Tensor], Tensor],
    k: int,
    basis: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the iteration of :func:`subspace` on a matrix ``G`` known only through its products.

    Args:
        times: maps ``V (..., n, r)`` to ``G V (..., m, r)``.
        transposed_times: maps ``Q (..., m, r)`` to ``G^T Q (..., n, r)``.
        k: the rank of the result.
        basis: ``(..., n, r)``, in the dtype of ``G``.
        iterations: at least 1.

    Returns:
        ``L (..., m, k)``, ``R (..., n, k)`` and the new basis ``(..., n, r)``. The approximation
        is ``L R^T``.

    """
    v = basis
    for _ in range(iterations):
        q = _orthonormal(times(_normalized(v)))[0].to(v.dtype)
        v = transposed_times(q)
    # Sort the r directions by energy, to keep the k best. Subspace iteration on the small r x r
    # matrix does that without synchronising, unlike eigh. Two steps can leave near-ties unsorted,
    # but those hold nearly the same energy, so it does not matter which of them are kept.
    # Directions without energy would not move, so they go to the end first.
    order = _lengths(v).argsort(-1, descending=True)
    v, q = v.take_along_dim(order, -1), q.take_along_dim(order, -1)
    wide = v.double()
    small = wide.mT @ wide
    rotation = _orthonormal(small @ _orthonormal(small)[0])[0].to(v.dtype)
    v = v @ rotation
    left = q @ rotation[..., :k]
    return left, v[..., :k], _normalized(v)


def certified(matrix: Tensor, k: int, start: Approximation, tolerance: float) -> Approximation:
    """Improve ``start`` until its error is proven to be close to the smallest possible.

    A matrix whose error is too large gets two more subspace iterations, up to twice. If that is not
    enough, it gets the exact approximation of :func:`gram`.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.
        start: what :func:`subspace` returned for ``matrix``.
        tolerance: by how much the error may exceed the smallest possible, relative to it.

    """
    assert start.basis is not None
    g = matrix.reshape(-1, *matrix.shape[-2:])
    found, basis = (t.reshape(len(g), *t.shape[-2:]) for t in (start.matrix, start.basis))
    allowed = (1 + tolerance) * smallest_error(g, k)
    allowed = allowed.clamp(min=_EXACT * _norm(g))

    def refused(positions: Tensor, approximation: Tensor) -> Tensor:
        return positions[_norm(g[positions] - approximation) > allowed[positions]]

    finite = found[:, 0, 0].isfinite().nonzero().squeeze(-1)
    pending = refused(finite, found[finite])
    for _ in range(2):
        if len(pending) == 0:
            break
        better = subspace(g[pending], k, basis[pending], iterations=2)
        assert better.basis is not None
        found[pending], basis[pending] = better.matrix, better.basis
        pending = refused(pending, better.matrix)
    retries = 0
    if len(pending) > 0:
        exact = gram(g[pending], k)
        found[pending], retries = exact.matrix, exact.retries
    return Approximation(
        found.view_as(matrix),
        basis.view_as(start.basis),
        retries=retries,
        fallbacks=len(pending),
    )


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


def with_fresh_directions(basis: Tensor, count: int, seed: int, step: int | Tensor) -> Tensor:
    """Replace the last ``count`` columns of ``basis`` with random ones, new at every step.

    Subspace iteration cannot find a direction that is orthogonal to its start. Columns of zeros,
    which a low-rank matrix leaves behind, are replaced too.
    """
    rows, columns = basis.shape[-2:]
    fresh = random_signs(rows, columns, seed, step, basis.device).to(basis.dtype).div(rows**0.5)
    last = torch.arange(columns, device=basis.device) >= columns - count
    return fresh.where(last | (_lengths(basis) == 0), basis)


def captured_energy(matrix: Tensor, approximation: Tensor) -> Tensor:
    """Share of the squared Frobenius norm that an orthogonal projection keeps, ``(...)``."""
    kept, whole = (_norm(m).square() for m in (approximation, matrix))
    return (kept / whole).where(whole != 0, 1)


def excess_energy(c: Tensor, v: Tensor, next_value: Tensor) -> Tensor:
    r"""Proven bound on the energy that ``v`` misses compared with the best basis of its size.

    The error of :math:`(G V) V^T` satisfies :math:`\|G - G V V^T\|_F^2 = \mathrm{tr}\,C -
    \mathrm{tr}\,V^T C V` with ``C = G^T G``, so the excess is :math:`\sum_{i \le k} \lambda_i(C) -
    \sum_i \theta_i`, the Ritz values being :math:`\theta`. In an orthonormal basis that completes
    ``V``,

    .. math::
        C = \begin{pmatrix} \Theta & B^T \\ B & D \end{pmatrix} \preceq
            \begin{pmatrix} \Theta + B^T B / \delta & 0 \\ 0 & D + \delta I \end{pmatrix}
        \quad\text{for every } \delta > 0,

    because the difference is negative semidefinite (its Schur complement vanishes). If
    :math:`D \preceq \mu I`, then by Ky Fan's theorem

    .. math::
        \text{excess} \le \|B\|_F^2 / \delta + \sum_i \max(0, \mu + \delta - \theta_i) .

    :math:`\|B\|_F` is the norm of the residual :math:`C V - V \Theta`. A Cholesky factorisation of
    :math:`\mu I - C + V \Theta V^T`, which contains :math:`\mu I - D` as a principal block, proves
    :math:`D \preceq \mu I`, because only a positive definite matrix has one. It costs ``n^3 / 3``,
    an eigendecomposition about ``9 n^3``. The :math:`\delta` that minimises the bound makes it
    quadratic in the residual if there is a gap, and linear if there is none. The bound holds up to
    float64 rounding.

    Args:
        c: float64 Gram matrices ``(..., n, n)``.
        v: float64 orthonormal columns ``(..., n, k)`` that make ``v^T c v`` diagonal.
        next_value: ``(...)``, the :math:`\mu` to try: the next eigenvalue, rounded up.

    Returns:
        The bound ``(...)``, infinite where the factorisation shows :math:`\mu` to be too small.

    """
    cv = c @ v
    theta = (v * cv).sum(-2)
    scaled = v * theta[..., None, :]
    residual = _norm(cv - scaled)[..., None]
    complement = (scaled @ v.mT).sub_(c)
    complement.diagonal(dim1=-2, dim2=-1).add_(next_value[..., None])
    proven = torch.linalg.cholesky_ex(complement).info == 0
    # The minimum over delta is at a kink, or where the slope vanishes with 1, 2, ... active terms.
    mu = next_value[..., None]
    terms = torch.arange(1, theta.shape[-1] + 1, device=c.device)
    delta = torch.cat([residual / terms.sqrt(), theta - mu], dim=-1)
    delta = delta.clamp(min=torch.finfo(c.dtype).tiny)
    active = (mu + delta)[..., None] - theta[..., None, :]
    bound = residual.square() / delta + active.clamp(min=0).sum(-1)
    return bound.amin(-1).where(proven, torch.inf)


def smallest_error(matrix: Tensor, k: int) -> Tensor:
    r"""Lower bound on the error of every approximation of rank ``k``, tight up to rounding.

    The smallest error is the root of :math:`\|G - G_k\|_F^2 = \|G\|_F^2 - \sum_{i \le k}
    \lambda_i(G^T G)` (Eckart and Young, 1936). Eigenvalues alone cost less than half as much as a
    full eigendecomposition. The most that rounding may have added to them is subtracted.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.

    Returns:
        The bound ``(...)`` in float64; 0 where it is lost in rounding, and for a matrix that is not
        finite.

    """
    norm = _norm(matrix)
    unit = matrix / norm.where(norm > 0, 1)[..., None, None]
    unit = unit.nan_to_num(0, 0, 0).to(matrix.dtype)
    c = unit @ unit.mT if matrix.shape[-1] > matrix.shape[-2] else unit.mT @ unit
    kept: Tensor = torch.linalg.eigvalsh(c)[..., -k:].sum(-1, dtype=torch.float64)
    left_out = 1 - kept - _EIGENVALUES * torch.finfo(matrix.dtype).eps
    return norm.nan_to_num(0, 0, 0) * left_out.clamp(min=0).sqrt()


def excess_error(matrix: Tensor, approximation: Tensor, k: int) -> Tensor:
    r"""Relative excess of the error of a rank-``k`` approximation over the smallest possible.

    Args:
        matrix: ``G``, of shape ``(..., m, n)``.
        approximation: ``A``, of the same shape.
        k: the rank.

    Returns:
        ``x (...)`` in float64, such that :math:`\|G - A\|_F \le (1 + x) \|G - G_k\|_F`: 0 where
        the error of ``A`` is within rounding, else infinite where the smallest error is.

    """
    error = _norm(matrix - approximation)
    ratio = error / smallest_error(matrix, k) - 1
    return ratio.clamp(min=0).masked_fill(error <= _EXACT * _norm(matrix), 0)


def _all_eigenvectors(c: Tensor, k: int) -> tuple[Tensor, int]:
    """Leading eigenvectors of Gram matrices by ``eigh``, and how many matrices needed a retry."""
    return _with_retry(
        lambda c: torch.linalg.eigh(c).eigenvectors[..., -k:],
        lambda c: torch.linalg.svd(c.double()).U[..., :k].to(c.dtype),
        c,
    )


def _filtered_eigenvectors(c: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors of float32 Gram matrices, and whether they are proven optimal.

    This is subspace iteration with a quadratic polynomial in place of ``C^2``: the Chebyshev
    polynomial that stays small on ``[0, cut]`` and grows fastest beyond. ``cut`` follows the
    smallest eigenvalue that the block has found (Rutishauser, 1969; Zhou et al., 2006). The
    iteration runs in float32, the proof in float64.
    """
    n = c.shape[-1]
    scale = 1 / _trace(c).clamp(min=_SQUARES[0])[:, None, None]
    v = random_signs(n, block, seed=0, step=0, device=c.device).expand(len(c), n, block) / n**0.5
    cut = torch.zeros(len(c), 1, 1, dtype=torch.float64, device=c.device)
    for _ in range(_FILTER_STEPS):
        y = c @ (v * scale)
        y = c @ (y * scale) - cut.float() * y + (cut.square() / 8).float() * v
        v, smallest = _orthonormal(y)
        cut = (cut + (cut.square() / 2 + 4 * smallest[:, None, None]).sqrt()) / 2
        v = v.float()
    v = _orthonormal(v)[0]  # again, because the proof needs float64 precision
    c = c.double()
    values, rotation = torch.linalg.eigh(v.mT @ (c @ v))
    v = v @ rotation[..., -k:]
    energy = _trace(c)
    error = energy - values[..., -k:].sum(-1)  # squared
    # For error norms e and, at best, b, the excess energy is (e + b) * (e - b) >= e * (e - b).
    allowed = _EXACT * (energy * error.clamp(min=0)).sqrt()
    next_value = (values[..., -k] + values[..., -k - 1]) / 2 + allowed / (4 * k)
    return v.float(), excess_energy(c, v, next_value) <= allowed


def _orthonormal(y: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis ``(..., n, r)`` of the columns of ``y``, and the smallest diagonal of R.

    Cholesky QR in float64 is stable for condition numbers up to 1e7, the most that float32 columns
    can have. Beyond that the shift keeps the factorisation from failing (Fukaya et al., 2020):
    dependent columns come out shorter than 1, and zero columns stay zero.
    """
    y = y.double()
    normal = y.mT @ y
    shift = _trace(normal) * 1e-14 + torch.finfo(y.dtype).tiny
    normal.diagonal(dim1=-2, dim2=-1).add_(shift[..., None])
    factor = torch.linalg.cholesky_ex(normal).L
    basis = torch.linalg.solve_triangular(factor.mT, y, upper=True, left=False)
    return basis, factor.diagonal(dim1=-2, dim2=-1).amin(-1)


def _normalized(v: Tensor) -> Tensor:
    """Scale the columns of ``v`` to length 1; zero columns stay zero."""
    return (v / _lengths(v).clamp(min=torch.finfo(torch.float64).tiny)).to(v.dtype)


def _lengths(v: Tensor) -> Tensor:
    """Column lengths ``(..., 1, r)``, in float64, which holds the square of any float32."""
    lengths: Tensor = torch.linalg.vector_norm(v, dim=-2, keepdim=True, dtype=torch.float64)
    return lengths


def _norm(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(matrix, dim=(-2, -1), dtype=torch.float64)
    return norm


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _with_retry(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], matrix: Tensor
) -> tuple[Tensor, int]:
    """Apply ``first`` to a stack; apply and count ``second`` where that does not converge."""
    try:
        return first(matrix), 0
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not re-exported
        if matrix.ndim == 2:
            return second(matrix), 1
        parts = [_with_retry(first, second, part) for part in matrix]
        return torch.stack([part for part, _ in parts]), sum(count for _, count in parts)
