"""The low-rank filter of gradients, for any optimizer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from . import low_rank
from .flatten import from_square, square_side, to_square

# The filter is not compiled: decompositions are not, and it sets autocast and precision aside. The
# public torch.compiler.disable loads the compiler, which takes seconds, where it decorates.
uncompiled = _disable_dynamo


@dataclass(frozen=True)
class Options:
    """What the filter does; see :func:`truncate_grad_rank_`. Raises ValueError if not allowed."""

    rank: int | float
    method: str = "gram"
    scope: str = "model"
    batch_dims: int = 0
    nonfinite: str = "raise"
    seed: int = 0
    iterations: int = 4

    def __post_init__(self) -> None:
        for name, choices in {
            "method": ("gram", "svd", "randomized"),
            "scope": ("model", "parameter"),
            "nonfinite": ("raise", "skip", "propagate"),
        }.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"Invalid {name}: {value}, should be one of {', '.join(choices)}")
        share = isinstance(self.rank, float) and 0 < self.rank < 1
        for name, least in {"rank": 1, "batch_dims": 0, "seed": 0, "iterations": 1}.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and not (name == "rank" and share):
                allowed = f"an int >= {least}" + " or a float in (0, 1)" * (name == "rank")
                raise ValueError(f"Invalid {name}: {value!r}, should be {allowed}")

    def check_shapes(self, params: Iterable[Tensor]) -> None:
        """Raise ValueError unless all parameters have the same ``batch_dims`` leading axes."""
        batch = None
        for p in params:
            shape = p.shape[: self.batch_dims]
            if p.ndim < self.batch_dims or shape != (batch or shape):
                raise ValueError(
                    f"Invalid batch_dims: {self.batch_dims} for a parameter of shape "
                    f"{tuple(p.shape)}, all parameters need the same leading axes"
                )
            batch = shape


@uncompiled
@torch.no_grad()
def truncate_grad_rank_(
    parameters: Tensor | Iterable[Tensor],
    rank: int | float,
    *,
    method: str = "gram",
    scope: str = "model",
    batch_dims: int = 0,
    nonfinite: str = "propagate",
    seed: int = 0,
    iterations: int = 4,
) -> Tensor:
    """Replace the gradients of parameters with their best rank-k approximation.

    Laid end to end, in the order of the parameters, the gradients fill the rows of one square
    matrix, whose end is padded with zeros. Call this between ``backward`` and the step of any
    optimizer, after unscaling and clipping. Each ``.grad`` is replaced, not written to. A missing
    gradient counts as zeros and stays missing. float16 and bfloat16 are filtered in float32.
    Autocast, TF32 and gradients are off inside. There is no state.

    Args:
        parameters: one parameter or an iterable of them, with real and dense gradients.
        rank: the number of singular values to keep or, as a float in (0, 1), its share of the
            matrix's smaller side, rounded but at least 1. The full side or more changes nothing.
        method: "gram" and "svd" are exact to rounding, by eigenvectors of the Gram matrix and by a
            full decomposition. "randomized" iterates from random directions; on gradients of
            networks its error exceeded the smallest possible by less than 1 % on average, for ranks
            up to an eighth of the side.
        scope: "model" for one matrix of all gradients, or "parameter" for one per parameter of two
            or more dimensions, the first of which indexes the rows; others are not filtered.
        batch_dims: number of leading axes, the same in every parameter, that index independent
            models with a matrix each.
        nonfinite: "propagate" turns a matrix with a NaN or infinite entry, or whose norm overflows,
            into NaN throughout, and no other. "skip" leaves all gradients as they are, and "raise"
            raises; these two wait for the device.
        seed: decides the directions of "randomized". Pass the number of the step to vary them.
        iterations: of "randomized"; each costs two products of the matrix with rank + 8 columns.

    Returns:
        The share of the squared norm of the filtered gradients that was kept, ``(*batch)`` in
        float64, computed without waiting for the device. It is 1 where nothing is filtered or all
        is zero, and NaN where a gradient is not finite or its square leaves the range of float32.

    Raises:
        ValueError: if an argument is not allowed.
        RuntimeError: if a gradient is sparse, complex or (with ``nonfinite="raise"``) not finite.
            No gradient has changed then.
        torch.linalg.LinAlgError: if a decomposition and its retry both fail.

    """
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    options = Options(rank, method, scope, batch_dims, nonfinite, seed, iterations)
    options.check_shapes(params)
    truncation = Truncation([(options, params, 0)])
    names = {id(p): f"{index} of shape {tuple(p.shape)}" for index, p in enumerate(params)}
    truncation.write(nonfinite, lambda p: names[id(p)])
    return truncation.kept()


class _Matrix(NamedTuple):
    params: list[Tensor]
    grads: list[Tensor]  # one for each parameter
    kept: Tensor  # squared norm (*batch)
    whole: Tensor  # what it was before
    finite: Tensor  # a bool


class Truncation:
    """The truncated gradients of sets of parameters, with the options and the step of each set."""

    def __init__(self, sets: Iterable[tuple[Options, list[Tensor], int | Tensor]]) -> None:
        self._grads: list[tuple[Tensor, Tensor]] = []  # parameters with their whole gradients
        self._matrices: list[_Matrix] = []
        self._one = torch.ones((), dtype=torch.float64)
        for options, params, step in sets:
            # What is on the meta device has no values to filter.
            present = [(p, p.grad) for p in params if p.grad is not None and not p.is_meta]
            for _, grad in present:
                if grad.layout != torch.strided or grad.is_complex():
                    kind = "complex" if grad.is_complex() else "sparse"
                    raise RuntimeError(f"the low-rank filter does not support {kind} gradients")
            self._grads += present
            if not present:
                continue
            first, axes = present[0][0], options.batch_dims
            self._one = torch.ones(first.shape[:axes], dtype=torch.float64, device=first.device)
            matrices = [params]
            if options.scope == "parameter":
                matrices = [[p] for p, _ in present if p.ndim >= axes + 2]
            with _full_precision(first.device):
                found = [_truncated(options, matrix, step) for matrix in matrices]
            self._matrices += [matrix for matrix in found if matrix is not None]

    def finite(self) -> Tensor:
        """Whether all that :meth:`write` leaves behind is finite, the same on all processes."""
        filtered = {id(p) for matrix in self._matrices for p in matrix.params}
        found = [matrix.finite for matrix in self._matrices]
        found += [_finite(grad) for p, grad in self._grads if id(p) not in filtered]
        return torch.stack([one.to(self._one.device) for one in found] or [self._one]).all()

    def write(self, nonfinite: str, name: Callable[[Tensor], str]) -> bool:
        """Replace the gradients, and return whether they were. ``name`` is for an error."""
        if nonfinite != "propagate" and not self.finite():
            if nonfinite == "skip":
                return False
            for p, grad in self._grads:
                if not _finite(grad):
                    raise RuntimeError(f"non-finite gradient in parameter {name(p)}")
            raise RuntimeError("gradients are finite, but too large for the norm of their matrix")
        for matrix in self._matrices:
            for p, grad in zip(matrix.params, matrix.grads, strict=True):
                if p.grad is not None:
                    p.grad = grad
        return True

    def kept(self) -> Tensor:
        """Share of the squared norm of the filtered gradients, see :func:`truncate_grad_rank_`."""
        device = self._one.device
        kept = sum((m.kept.to(device) for m in self._matrices), torch.zeros_like(self._one))
        whole = sum((m.whole.to(device) for m in self._matrices), torch.zeros_like(self._one))
        return (kept / whole).clamp(max=1).where(whole != 0, self._one)


def _truncated(options: Options, params: list[Tensor], step: int | Tensor) -> _Matrix | None:
    """Truncate one matrix, unless its rank is full or it has no entries."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    whole, axes = options.scope == "model", options.batch_dims
    if whole:
        m = n = square_side(sum(p.shape[axes:].numel() for p in params))
    else:
        m, n = params[0].shape[axes], params[0].shape[axes + 1 :].numel()
    k = options.rank
    if isinstance(k, float):
        k = max(1, round(k * min(m, n)))
    if k >= min(m, n) or 0 in params[0].shape[:axes]:
        return None
    dtype = torch.float64 if any(g.dtype == torch.float64 for g in grads) else torch.float32
    distributed = any(hasattr(g, "full_tensor") for g in grads)
    if distributed:  # not all builds of torch have this
        from .sharded import ShardedMatrix, can_stay_sharded, shard_like

    randomness = options.iterations, options.seed, step
    products = (options.method, options.scope, axes) == ("randomized", "model", 0)
    if distributed and products and can_stay_sharded(grads):
        sharded = ShardedMatrix(grads, dtype)
        energy = sharded.squared_norm()
        found = sharded.randomized(k, *randomness)
        cut = sharded.pieces(found.matrix)
    else:
        # Every process gathers all DTensors and computes the same bits.
        local = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
        if whole:
            matrix = to_square(local, axes, dtype)
        else:
            matrix = local[0].to(dtype).reshape(*local[0].shape[:axes], m, n)
        energy = low_rank.squared_norm(matrix)
        if options.method == "svd":
            found = low_rank.svd(matrix, k)
        elif options.method == "gram":
            found = low_rank.gram(matrix, k, overwrite=whole)
        else:
            found = low_rank.randomized(matrix, k, *randomness, overwrite=whole)
        del matrix
        cut = from_square(found.matrix, local, axes)
        if distributed:
            cut = [shard_like(c, g) for c, g in zip(cut, grads, strict=True)]
    # An approximation is finite throughout, or NaN.
    return _Matrix(params, cut, found.energy, energy, ~found.matrix[..., 0, 0].isnan().any())


def _finite(tensor: Tensor) -> Tensor:
    """Whether all entries are finite, the same on all processes that share a DTensor."""
    wrong = tensor.isfinite().logical_not().sum()  # torch 2.8 adds up what each finds all() to be
    none: Tensor = (wrong.full_tensor() if hasattr(wrong, "full_tensor") else wrong) == 0
    return none


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Compute outside autocast, with float32 products that are not rounded to TF32 or bfloat16.

    The precision is a setting of the process. It changes only if it is not full, and comes back.
    """
    matmuls = (getattr(b, "matmul", None) for b in (torch.backends.cuda, torch.backends.mkldnn))
    found = [(matmul, getattr(matmul, "fp32_precision", "none")) for matmul in matmuls]
    reduced: list[tuple[Any, str]] = [one for one in found if one[1] not in ("none", "ieee")]
    for matmul, _ in reduced:
        matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for matmul, precision in reduced:
            matmul.fp32_precision = precision
