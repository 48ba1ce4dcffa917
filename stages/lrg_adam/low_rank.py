"""Rank-k approximation of matrices ``(..., m, n)``: pure functions of tensors.

Every function takes real float32 or float64 matrices and a rank ``0 < k < min(m, n)``, treats
leading axes as a stack of independent matrices, and returns an :class:`Approximation`.

No left singular vectors are needed for the best one: with ``V`` the ``k`` leading right singular
vectors of ``G`` it is ``(G V) V^T`` (Eckart and Young, 1936). Any other orthonormal ``V`` gives a
contraction, so an inexact basis costs captured energy and nothing else.

A matrix with a NaN or infinite entry gives an approximation that is NaN throughout; the other
matrices of its stack are not affected.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# How far from optimal "exact" may be, relative to the norm of the matrix: float32 rounding.
_EXACT = 4 * torch.finfo(torch.float32).eps

# Rounding units of the energy by which a sum of eigenvalues of a Gram matrix may be off.
_EIGENVALUES = 32

# Share of the energy left out below which float32 eigenvectors are not good enough.
_DELICATE = 1e-4

# Squared norms for which float32 holds all squares that matter; float64 holds those of any float32.
_SQUARES = (1e-25, 1e30)

# The filtered iteration pays from this side on, if n is this many times the size of its block.
_FILTER_MIN_SIDE = 512
_FILTER_MIN_SHARE = 12
_FILTER_STEPS = 5


class Approximation(NamedTuple):
    """A rank-k approximation and what it took to find it."""

    matrix: Tensor  # (..., m, n)
    basis: Tensor | None = None  # (..., n, r): start of the next subspace iteration
    retries: int = 0  # matrices whose decomposition failed and was repeated another way
    fallbacks: int = 0  # matrices without a certificate, for which all eigenvectors were computed


def svd(matrix: Tensor, k: int) -> Approximation:
    """Best approximation through a full singular value decomposition, in the matrix's own dtype.

    A decomposition that does not converge is repeated in float64 through the Gram matrix.

    Raises:
        torch.linalg.LinAlgError: if that fails too.

    """
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]

    def leading(g: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(g, full_matrices=False)
        return (u[..., :k] * s[..., None, :k]) @ vh[..., :k, :]

    def through_gram(g: Tensor) -> Tensor:
        wide = g.double()
        v = torch.linalg.eigh(wide.mT @ wide).eigenvectors[..., -k:]
        return ((wide @ v) @ v.mT).to(g.dtype)

    result, retries = _with_retry(leading, through_gram, matrix.where(finite, 0))
    return Approximation(result.where(finite, torch.nan), retries=retries)


def gram(matrix: Tensor, k: int) -> Approximation:
    r"""Best approximation through leading eigenvectors of the Gram matrix ``C = G^T G``.

    Exact to float32 rounding: the error exceeds the smallest possible, :math:`\|G - G_k\|_F`, by
    no more than that of a float32 SVD does, some units of ``eps`` times :math:`\|G\|_F`. Rounding
    ``C`` mixes only eigenvectors whose eigenvalues differ by about as little, so that it costs
    little energy. Where the energy left out is itself little, because the matrix nearly has rank
    ``k``, it would cost more, and ``C`` is formed and decomposed again in float64; so it is where
    float32 cannot hold the squares. The worst found is a giant singular value over a flat tail that
    holds just more energy than that takes: up to 200 ``eps``. A float64 matrix has no wider type
    and goes to :func:`svd`.

    For a small ``k`` of a large matrix a filtered subspace iteration finds the eigenvectors in a
    fraction of the time. Its result is accepted only with a proof that it is optimal for ``C``, see
    :func:`excess_energy`; a matrix for which there is none is decomposed in full.

    Raises:
        torch.linalg.LinAlgError: if a full decomposition fails in two ways.

    """
    if matrix.dtype == torch.float64:
        return svd(matrix, k)
    if matrix.shape[-1] > matrix.shape[-2]:  # the smaller of the two Gram matrices
        transposed = gram(matrix.mT, k)
        return transposed._replace(matrix=transposed.matrix.mT)
    g = matrix.reshape(-1, *matrix.shape[-2:])
    n = g.shape[-1]
    c = g.mT @ g
    energy = _trace(c)
    usable = (energy > _SQUARES[0]) & (energy < _SQUARES[1])  # and not NaN
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

    One iteration is ``Q = orth(G V)``, ``V = G^T Q``; the answer is :math:`Q_k Q_k^T G` for the
    ``k`` leading Ritz vectors :math:`Q_k` in the span of ``Q``. For a fixed matrix the angle to the
    leading subspace shrinks by :math:`(\sigma_{r+1} / \sigma_k)^2` each time (Halko, Martinsson and
    Tropp, 2011, section 4.5). Nothing here synchronises with the host.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank of the result.
        basis: ``(..., n, r)`` or ``(n, r)`` with ``k <= r <= min(m, n)``; need not be orthonormal.
        iterations: at least 1; each costs two products of an ``m x n`` with an ``n x r`` matrix.

    Returns:
        The approximation, and as its ``basis`` the new right Ritz vectors, the leading first.

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
    """Do the iteration of :func:`subspace` on a matrix ``G`` of which only products are known.

    Args:
        times: ``V`` to ``G V``, ``(..., n, r)`` to ``(..., m, r)``.
        transposed_times: ``Q`` to ``G^T Q``, ``(..., m, r)`` to ``(..., n, r)``.
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
    # Order the r directions by the energy they hold, to keep the k best: subspace iteration again,
    # on the small r x r matrix, because eigh would synchronise. Near-ties that two steps leave
    # unsorted hold nearly the same energy, so it does not matter which of them are kept. Directions
    # that hold none would stay where they are: they go to the end beforehand.
    order = _lengths(v).argsort(-1, descending=True)
    v, q = v.take_along_dim(order, -1), q.take_along_dim(order, -1)
    wide = v.double()
    small = wide.mT @ wide
    rotation = _orthonormal(small @ _orthonormal(small)[0])[0].to(v.dtype)
    v = v @ rotation
    left = q @ rotation[..., :k]
    return left, v[..., :k], _normalized(v)


def certified(matrix: Tensor, k: int, start: Approximation, tolerance: float) -> Approximation:
    """Improve ``start`` until its error is proven to be near the smallest possible.

    Matrices whose error is too large get two more subspace iterations, up to twice, and if that is
    not enough the exact approximation of :func:`gram`.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.
        start: what :func:`subspace` returned for ``matrix``.
        tolerance: the error that is allowed beyond the smallest possible, relative to it.

    """
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
    """Draw a ``(rows, columns)`` float32 matrix of signs, a pure function of the arguments.

    The signs hash their own position with the two-round integer hash of Wellons' hash-prospector,
    so no generator is consumed, ``step`` may live on the device, and every device draws the same.
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
    """Replace the last ``count`` columns of ``basis`` by random ones, new at every step.

    Subspace iteration cannot find a direction to which its start is orthogonal. Columns of zeros,
    which a matrix of low rank leaves behind, are replaced too.
    """
    rows, columns = basis.shape[-2:]
    fresh = random_signs(rows, columns, seed, step, basis.device).to(basis.dtype) / rows**0.5
    last = torch.arange(columns, device=basis.device) >= columns - count
    return fresh.where(last | (_lengths(basis) == 0), basis)


def captured_energy(matrix: Tensor, approximation: Tensor) -> Tensor:
    """Share of the squared Frobenius norm that an orthogonal projection has kept, ``(...)``."""
    kept, whole = (_norm(m).square() for m in (approximation, matrix))
    return (kept / whole).where(whole != 0, 1)


def excess_energy(c: Tensor, v: Tensor, next_value: Tensor) -> Tensor:
    r"""Proven bound on the energy that ``v`` misses, compared with the best basis of its size.

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

    :math:`\|B\|_F` is the norm of the residual :math:`C V - V \Theta`. That :math:`D \preceq \mu I`
    is proven by a Cholesky factorisation of :math:`\mu I - C + V \Theta V^T`, of which
    :math:`\mu I - D` is a principal part: it exists only for a positive definite matrix. That costs
    ``n^3 / 3``, an eigendecomposition about ``9 n^3``. Across a gap the bound is quadratic in the
    residual, without one linear; :math:`\delta` minimises it. It holds up to the rounding of
    float64.

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
    residual = torch.linalg.vector_norm(cv - scaled, dim=(-2, -1))[..., None]
    complement = (scaled @ v.mT).sub_(c)
    complement.diagonal(dim1=-2, dim2=-1).add_(next_value[..., None])
    proven = torch.linalg.cholesky_ex(complement).info == 0
    # The minimum over delta is where the slope vanishes with m active terms, or at a kink.
    mu = next_value[..., None]
    terms = torch.arange(1, theta.shape[-1] + 1, device=c.device)
    delta = torch.cat([residual / terms.sqrt(), theta - mu], dim=-1)
    delta = delta.clamp(min=torch.finfo(c.dtype).tiny)
    active = (mu + delta)[..., None] - theta[..., None, :]
    bound = residual.square() / delta + active.clamp(min=0).sum(-1)
    return bound.amin(-1).where(proven, torch.inf)


def smallest_error(matrix: Tensor, k: int) -> Tensor:
    r"""Lower bound on the error of every approximation of rank ``k``, tight to rounding.

    The smallest is :math:`\|G - G_k\|_F^2 = \|G\|_F^2 - \sum_{i \le k} \lambda_i(G^T G)` (Eckart
    and Young, 1936). Eigenvalues without their vectors cost less than half of an
    eigendecomposition. What rounding may have added to them is taken off.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.

    Returns:
        The bound ``(...)`` in float64; 0 where the error is within rounding of it, and for a matrix
        that is not finite.

    """
    norm = _norm(matrix)
    unit = matrix / norm.where(norm > 0, 1)[..., None, None]
    unit = unit.nan_to_num(0, 0, 0).to(matrix.dtype)
    c = unit @ unit.mT if matrix.shape[-1] > matrix.shape[-2] else unit.mT @ unit
    kept = torch.linalg.eigvalsh(c)[..., -k:].sum(-1, dtype=torch.float64)
    left_out = 1 - kept - _EIGENVALUES * torch.finfo(matrix.dtype).eps
    return norm.nan_to_num(0, 0, 0) * left_out.clamp(min=0).sqrt()


def excess_error(matrix: Tensor, approximation: Tensor, k: int) -> Tensor:
    r"""How much worse an approximation of rank ``k`` is than the best one, relative to that.

    Args:
        matrix: ``(..., m, n)``, the ``G``.
        approximation: of the same shape.
        k: the rank.

    Returns:
        ``(...)`` in float64: an ``x`` with :math:`\|G - A\|_F \le (1 + x) \|G - G_k\|_F`,
        infinite where the best error is lost in rounding. An error below rounding counts as none.

    """
    error = _norm(matrix - approximation)
    ratio = error / smallest_error(matrix, k) - 1
    return ratio.clamp(min=0).masked_fill(error <= _EXACT * _norm(matrix), 0)


def _all_eigenvectors(c: Tensor, k: int) -> tuple[Tensor, int]:
    """Leading eigenvectors of Gram matrices by ``eigh``, and how many needed a retry."""
    return _with_retry(
        lambda c: torch.linalg.eigh(c).eigenvectors[..., -k:],
        lambda c: torch.linalg.svd(c.double()).U[..., :k].to(c.dtype),
        c,
    )


def _filtered_eigenvectors(c: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors of float32 Gram matrices, and where they are proven optimal.

    Subspace iteration with a polynomial of degree two in place of ``C^2``: the Chebyshev polynomial
    that stays small on ``[0, cut]`` and grows fastest beyond it, ``cut`` following the smallest
    eigenvalue that the block has found (Rutishauser, 1969; Zhou et al., 2006). It runs in float32,
    the proof in float64.
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
    v = _orthonormal(v)[0]  # again, in float64: the proof needs it to that precision
    c = c.double()
    values, rotation = torch.linalg.eigh(v.mT @ (c @ v))
    v = v @ rotation[..., -k:]
    energy = _trace(c)
    error = energy - values[..., -k:].sum(-1)  # squared
    # The excess energy is (error + best) * (error - best) of the norms: it bounds error - best.
    allowed = _EXACT * (energy * error.clamp(min=0)).sqrt()
    next_value = (values[..., -k] + values[..., -k - 1]) / 2 + allowed / (4 * k)
    return v.float(), excess_energy(c, v, next_value) <= allowed


def _orthonormal(y: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis ``(..., n, r)`` for the columns of ``y``, and the smallest diagonal of R.

    Cholesky QR in float64, where it is stable for condition numbers up to 1e7, all that float32
    columns can have. The shift keeps the factorisation alive beyond that (Fukaya et al., 2020):
    dependent columns come out shorter than 1 instead of failing, zeros stay zero.
    """
    y = y.double()
    normal = y.mT @ y
    shift = _trace(normal) * 1e-14 + torch.finfo(y.dtype).tiny
    normal.diagonal(dim1=-2, dim2=-1).add_(shift[..., None])
    factor = torch.linalg.cholesky_ex(normal).L
    basis = torch.linalg.solve_triangular(factor.mT, y, upper=True, left=False)
    return basis, factor.diagonal(dim1=-2, dim2=-1).amin(-1)


def _normalized(v: Tensor) -> Tensor:
    """The columns of ``v`` with length 1; those of zeros stay so."""
    return (v / _lengths(v).clamp(min=torch.finfo(torch.float64).tiny)).to(v.dtype)


def _lengths(v: Tensor) -> Tensor:
    """Of the columns, ``(..., 1, r)``; in float64, which holds the squares of any float32."""
    return torch.linalg.vector_norm(v, dim=-2, keepdim=True, dtype=torch.float64)


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), dtype=torch.float64)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _with_retry(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], matrix: Tensor
) -> tuple[Tensor, int]:
    """Apply ``first`` to a stack, and ``second`` where that does not converge."""
    try:
        return first(matrix), 0
    except torch.linalg.LinAlgError:
        if matrix.ndim == 2:
            return second(matrix), 1
        parts = [_with_retry(first, second, part) for part in matrix]
        return torch.stack([part for part, _ in parts]), sum(count for _, count in parts)
