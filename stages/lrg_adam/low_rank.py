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

# How far from optimal "exact" may be: rounding, in units of eps times the matrix norm.
_EXACT = 4

# Bound on the rounding error in a sum of Gram eigenvalues, in units of eps times the energy.
_EIGENVALUES = 32

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

    def leading(g: Tensor) -> tuple[Tensor, ...]:
        u, s, vh = torch.linalg.svd(g, full_matrices=False)
        return (_product(u[..., :k] * s[..., None, :k], vh[..., :k, :].mT),)

    def through_gram(g: Tensor) -> tuple[Tensor, ...]:
        wide = g.double()
        v: Tensor = torch.linalg.eigh(wide.mT @ wide).eigenvectors[..., -k:]
        return (_product((wide @ v).to(g.dtype), v.to(g.dtype)),)

    (result,), retries = _with_retry(leading, through_gram, matrix.where(finite, 0))
    return Approximation(result.where(finite, torch.nan), retries=retries)


def gram(matrix: Tensor, k: int, *, overwrite: bool = False) -> Approximation:
    r"""Best approximation from the leading eigenvectors of the Gram matrix ``C = G^T G``.

    The result is exact to float32 rounding: as with a float32 SVD, the error exceeds the smallest
    possible, :math:`\|G - G_k\|_F`, by a few units of ``eps`` times :math:`\|G\|_F`. The worst
    that a search over spectra, sizes and ranks found is 12 ``eps``. Rounding ``C`` moves its
    eigenvectors, which costs energy. Where the eigenvalues tell that the loss may matter, see
    :func:`_uncertain`, or float32 cannot hold the squares, ``C`` is formed and decomposed again in
    float64. A float64 matrix has no wider type and goes to :func:`svd`.

    If ``k`` is small and the matrix large, a filtered subspace iteration finds the eigenvectors in
    a fraction of the time. Its result is accepted only with a proof that it is optimal for ``C``,
    see :func:`excess_energy`. Without a proof the matrix is decomposed in full.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.
        overwrite: whether the result may take the place of ``matrix``, which saves memory.

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
    if not usable.all():
        c.masked_fill_(~usable[:, None, None], 0)
    block = k + max(8, k // 2 + 2)
    filtered = n >= _FILTER_MIN_SIDE and _FILTER_MIN_SHARE * block <= n
    fallbacks = retries = 0
    if filtered:
        values, v, proven = _filtered_eigenvectors(c, k, block)
        pending = (~proven).nonzero().squeeze(-1)
        fallbacks = len(pending)
        if fallbacks > 0:
            values[pending], v[pending], retries = _all_eigenvectors(c[pending], k)
    else:
        values, v, retries = _all_eigenvectors(c, k)
    del c
    delicate = (~usable | _uncertain(values, k, energy)).nonzero().squeeze(-1)
    if len(delicate) > 0:
        wide = g[delicate].double()
        wide = wide.mT @ wide
        finite = _trace(wide).isfinite()[:, None, None]
        _, found, again = _all_eigenvectors(wide.where(finite, 0), k)
        v = v.index_copy(0, delicate, found.where(finite, torch.nan).to(v.dtype))
        retries += again
    result = _product(g @ v, v, out=g if overwrite else None).view_as(matrix)
    return Approximation(result, retries=retries, fallbacks=fallbacks)


def subspace(
    matrix: Tensor, k: int, basis: Tensor, iterations: int = 1, *, overwrite: bool = False
) -> Approximation:
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
        overwrite: whether the result may take the place of ``matrix``, which saves memory.

    Returns:
        The approximation. Its ``basis`` holds the new right Ritz vectors, leading ones first. Where
        one has no energy, or the matrix is not finite, it holds what ``basis`` held.

    """
    v = basis.expand(*matrix.shape[:-2], *basis.shape[-2:]).to(matrix.dtype)
    left, right, basis = ritz_factors(
        lambda v: matrix @ v, lambda q: matrix.mT @ q, k, v, iterations
    )
    result = torch.matmul(left, right.mT, out=matrix if overwrite else None)
    return Approximation(result, basis)


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
    for iteration in range(iterations):
        if iteration > 0:
            v = _normalized(v, _lengths(v))
        q = torch.linalg.qr(times(v)).Q
        v = transposed_times(q)
    # Rotate the r directions to sort them by energy and keep the k best. Subspace iteration on the
    # small r x r matrix does that without synchronising, unlike eigh. Two steps can leave near-ties
    # unsorted, but those hold nearly the same energy, so it does not matter which of them are kept.
    # Directions without energy would not move, so they go to the end first.
    wide = v.double()
    small = wide.mT @ wide
    order = small.diagonal(dim1=-2, dim2=-1).argsort(-1, descending=True)[..., None, :]
    rotation = torch.linalg.qr(small.take_along_dim(order, -1)).Q
    rotation = torch.linalg.qr(small @ rotation).Q.to(v.dtype)
    v = v @ rotation
    lengths = _lengths(v)
    # No entry of the product is larger than this sum, because the columns of L are orthonormal.
    finite = lengths.sum(-1, keepdim=True) < torch.finfo(v.dtype).max
    left = (q @ rotation[..., :k]).where(finite, torch.nan)
    new_basis = _normalized(v, lengths).where(finite & (lengths > 0), basis)
    return left, v[..., :k], new_basis


def certified(matrix: Tensor, k: int, start: Approximation, tolerance: float) -> Approximation:
    """Improve ``start`` until its error is proven to be close to the smallest possible.

    A matrix whose error is too large gets two more subspace iterations, up to twice. If that is not
    enough, it gets the exact approximation of :func:`gram`, and if even the rounding of that is too
    much, the one of :func:`svd` in float64.

    Args:
        matrix: ``(..., m, n)``.
        k: the rank.
        start: what :func:`subspace` returned for ``matrix``.
        tolerance: by how much the error may exceed the smallest possible, relative to it.

    """
    assert start.basis is not None
    g = matrix.reshape(-1, *matrix.shape[-2:])
    found, basis = (t.reshape(len(g), *t.shape[-2:]) for t in (start.matrix, start.basis))
    allowed = _allowed_error(g, k, tolerance)

    def refused(positions: Tensor) -> Tensor:
        return positions[_norm(g[positions] - found[positions]) > allowed[positions]]

    pending = refused(found[:, 0, 0].isfinite().nonzero().squeeze(-1))
    for _ in range(2):
        if len(pending) == 0:
            break
        better = subspace(g[pending], k, basis[pending], iterations=2)
        assert better.basis is not None
        found[pending], basis[pending] = better.matrix, better.basis
        pending = refused(pending)
    fallbacks, retries = len(pending), 0
    if fallbacks > 0:
        exact = gram(g[pending], k)
        found[pending], retries = exact.matrix, exact.retries
        # Again with a bound that is tight where float32 loses what is left out.
        allowed[pending] = _allowed_error(g[pending], k, tolerance, torch.float64)
        pending = refused(pending)
    if len(pending) > 0 and g.dtype != torch.float64:
        exact = svd(g[pending].double(), k)
        found[pending] = exact.matrix.to(g.dtype)
        retries += exact.retries
    return Approximation(found.view_as(matrix), basis.view_as(start.basis), retries, fallbacks)


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


def completed(basis: Tensor, columns: int, seed: int, step: int | Tensor) -> Tensor:
    """Append random columns to ``basis (..., n, r)``, new at every step, until it has ``columns``.

    Subspace iteration cannot find a direction that is orthogonal to its start.
    """
    rows, count = basis.shape[-2], columns - basis.shape[-1]
    fresh = random_signs(rows, count, seed, step, basis.device).to(basis.dtype) / rows**0.5
    return torch.cat([basis, fresh.expand(*basis.shape[:-2], rows, count)], -1)


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
    norm = _norm(matrix).to(matrix.dtype).clamp(min=torch.finfo(matrix.dtype).tiny)
    unit = (matrix / norm[..., None, None]).nan_to_num_(0, 0, 0)  # so that squares do not overflow
    energy = _norm(unit).square()
    c = unit @ unit.mT if matrix.shape[-1] > matrix.shape[-2] else unit.mT @ unit
    del unit
    kept: Tensor = torch.linalg.eigvalsh(c)[..., -k:].sum(-1, dtype=torch.float64)
    rounding = _EIGENVALUES * torch.finfo(matrix.dtype).eps
    left_out = energy * (1 - rounding) - kept
    return norm.double().nan_to_num(0, 0, 0) * left_out.clamp(min=0).sqrt()


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
    return ratio.clamp(min=0).masked_fill(error <= _rounding(matrix), 0)


def _allowed_error(
    matrix: Tensor, k: int, tolerance: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Error that ``tolerance`` allows, or rounding, by a bound that is computed in ``dtype``."""
    smallest = smallest_error(matrix.to(dtype or matrix.dtype), k)
    return torch.maximum((1 + tolerance) * smallest, _rounding(matrix))


def _uncertain(values: Tensor, k: int, energy: Tensor) -> Tensor:
    r"""Where rounding is likely to have made the ``k`` leading eigenvectors worse than ``_EXACT``.

    Rounding adds a matrix with entries of about :math:`\varepsilon = \mathrm{eps} \, \lambda_1` to
    ``C``. To second order this turns eigenvector ``i`` towards ``j`` by the angle
    :math:`\varepsilon / (\lambda_i - \lambda_j)`, which costs that, squared, times
    :math:`\lambda_i - \lambda_j`. Of eigenvectors closer than :math:`\varepsilon` any mixture may
    result, which costs :math:`\varepsilon` at most. If the smallest error is :math:`e`, losing the
    energy :math:`\ell` makes the error larger by at most :math:`\ell / 2 e`.

    Args:
        values: float32 eigenvalues ``(..., n)``, ascending.
        k: the rank.
        energy: ``(...)``, their sum.

    """
    eps = torch.finfo(values.dtype).eps
    values = values / energy[..., None]
    noise = eps * values[..., -1]
    gaps = values[..., -k:, None] - values[..., None, :-k]
    loss = noise * gaps.reciprocal_().mul_(noise[..., None, None]).clamp_(max=1).sum((-2, -1))
    left_out = 1 - _EIGENVALUES * eps - values[..., -k:].sum(-1)
    allowed = (2 * _EXACT * eps) ** 2 * left_out.clamp(min=0)
    return ~(loss.square() < allowed)  # True for NaN


def _all_eigenvectors(c: Tensor, k: int) -> tuple[Tensor, Tensor, int]:
    """All eigenvalues of Gram matrices, ascending, the leading eigenvectors, and the retries."""

    def by_eigh(c: Tensor) -> tuple[Tensor, ...]:
        values, vectors = torch.linalg.eigh(c)
        return values, vectors[..., -k:]

    def by_svd(c: Tensor) -> tuple[Tensor, ...]:
        u, values, _ = torch.linalg.svd(c.double())
        return values.flip(-1).to(c.dtype), u[..., :k].to(c.dtype)

    (values, vectors), retries = _with_retry(by_eigh, by_svd, c)
    return values, vectors, retries


def _filtered_eigenvectors(c: Tensor, k: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`_all_eigenvectors` finds, of float32 matrices, and whether it is proven optimal.

    The eigenvalues beyond the block count as the smallest in it.

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
        v, r = torch.linalg.qr(y)
        smallest = r.diagonal(dim1=-2, dim2=-1).abs().amin(-1).double()
        cut = (cut + (cut.square() / 2 + 4 * smallest[:, None, None]).sqrt()) / 2
    v = torch.linalg.qr(v.double()).Q  # again, because the proof needs float64 precision
    c = c.double()
    values, rotation = torch.linalg.eigh(v.mT @ (c @ v))
    v = v @ rotation[..., -k:]
    energy = _trace(c)
    error = energy - values[..., -k:].sum(-1)  # squared
    # For error norms e and, at best, b, the excess energy is (e + b) * (e - b) >= e * (e - b).
    allowed = _EXACT * torch.finfo(torch.float32).eps * (energy * error.clamp(min=0)).sqrt()
    next_value = (values[..., -k] + values[..., -k - 1]) / 2 + allowed / (4 * k)
    proven = excess_energy(c, v, next_value) <= allowed
    values = torch.cat([values[:, :1].expand(-1, n - block), values], -1)
    return values.float(), v.float(), proven


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``L R^T`` for orthonormal columns of ``R``; NaN if the norm of ``L`` overflows.

    No entry of the product exceeds that norm. ``out`` may be any contiguous tensor of its shape.
    """
    finite = _norm(left)[..., None, None] < torch.finfo(left.dtype).max
    return torch.matmul(left.where(finite, torch.nan), right.mT, out=out)


def _rounding(matrix: Tensor) -> Tensor:
    """Error ``(...)`` that counts as none."""
    return _EXACT * torch.finfo(matrix.dtype).eps * _norm(matrix)


def _normalized(v: Tensor, lengths: Tensor) -> Tensor:
    """Divide the columns of ``v`` by their lengths; zero columns stay zero."""
    return v / lengths.to(v.dtype).clamp(min=torch.finfo(v.dtype).tiny)


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
    first: Callable[[Tensor], tuple[Tensor, ...]],
    second: Callable[[Tensor], tuple[Tensor, ...]],
    matrix: Tensor,
) -> tuple[tuple[Tensor, ...], int]:
    """Apply ``first`` to a stack; apply and count ``second`` where that does not converge."""
    try:
        return first(matrix), 0
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not re-exported
        if matrix.ndim == 2:
            return second(matrix), 1
        parts = [_with_retry(first, second, part) for part in matrix]
        found = tuple(torch.stack(part) for part in zip(*(p for p, _ in parts), strict=True))
        return found, sum(count for _, count in parts)
