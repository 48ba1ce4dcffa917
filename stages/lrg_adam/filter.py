"""The low-rank filter of gradients, for any optimizer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import low_rank, private
from .flatten import from_square, resembling, square_side, to_square

if TYPE_CHECKING:
    from .sharded import ShardedMatrix

TOO_LARGE = "gradients are finite, but too large for the norm of their matrix"


@dataclass(frozen=True)
class Options:
    """What the filter does; see :func:`truncate_grad_rank_`.

    Raises:
        ValueError: for what is not allowed.

    """

    rank: int | float
    method: str = "gram"
    scope: str = "model"
    batch_dims: int = 0
    seed: int = 0
    iterations: int = 4

    def __post_init__(self) -> None:
        share = isinstance(self.rank, float) and 0 < self.rank < 1
        if not share and not _is_int(self.rank, 1):
            raise ValueError(
                f"Invalid rank: {self.rank!r}, should be an int >= 1 or a float in (0, 1)"
            )
        check_choice("method", self.method, ("gram", "svd", "randomized"))
        check_choice("scope", self.scope, ("model", "parameter"))
        for name, least in (("batch_dims", 0), ("seed", 0), ("iterations", 1)):
            if not _is_int(getattr(self, name), least):
                raise ValueError(
                    f"Invalid {name}: {getattr(self, name)!r}, should be an int >= {least}"
                )

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


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"Invalid {name}: {value}, should be one of {', '.join(choices)}")


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@private.uncompiled
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
            into NaN throughout, and no other. "raise" raises, which waits for the device.
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
    check_choice("nonfinite", nonfinite, ("propagate", "raise"))
    options = Options(rank, method, scope, batch_dims, seed, iterations)
    options.check_shapes(params)
    truncation = Truncation([(options, params, 0)])
    if nonfinite == "raise" and not truncation.finite():
        culprit = truncation.nonfinite_parameter()
        if culprit is None:
            raise RuntimeError(TOO_LARGE)
        index = next(i for i, p in enumerate(params) if p is culprit)
        raise RuntimeError(
            f"non-finite gradient in parameter {index} of shape {tuple(culprit.shape)}"
        )
    truncation.write()
    return truncation.kept()


class _Matrix(NamedTuple):
    """The truncated gradients of one matrix."""

    params: list[Tensor]
    grads: list[Tensor]  # one for each parameter
    kept: Tensor  # squared norm (*batch)
    whole: Tensor  # what it was before
    finite: Tensor  # a bool


class Truncation:
    """The truncated gradients of parameters, computed and not yet written.

    Args:
        parts: the options, the parameters and the number of the step, for each set of parameters
            with options of its own.

    Raises:
        RuntimeError: if a gradient is sparse or complex.

    """

    def __init__(self, parts: Iterable[tuple[Options, list[Tensor], int | Tensor]]) -> None:
        self._params: list[Tensor] = []
        self._matrices: list[_Matrix] = []
        self._ones = torch.ones((), dtype=torch.float64)
        for options, params, step in parts:
            present = [p for p in params if p.grad is not None]
            for p in present:
                _check_gradient(p.grad)
            self._params += present
            if not present or any(p.is_meta for p in present):
                continue  # nothing, or no values, to filter
            batch = present[0].shape[: options.batch_dims]
            self._ones = torch.ones(batch, dtype=torch.float64, device=present[0].device)
            with _full_precision(present[0].device):
                for one in _matrices(options, params):
                    truncated = _truncated(options, one, step)
                    if truncated is not None:
                        self._matrices.append(truncated)

    def finite(self) -> Tensor:
        """Whether all that :meth:`write` leaves behind is finite, the same on all processes."""
        filtered = {id(p) for matrix in self._matrices for p in matrix.params}
        found = [matrix.finite for matrix in self._matrices]
        found += [_finite(p.grad) for p in self._params if id(p) not in filtered]
        return torch.stack([f.to(self._ones.device) for f in found] or [self._ones]).all()

    def nonfinite_parameter(self) -> Tensor | None:
        """The first parameter whose gradient is not finite."""
        return next((p for p in self._params if not _finite(p.grad)), None)

    def kept(self) -> Tensor:
        """Share of the squared norm of the filtered gradients, see :func:`truncate_grad_rank_`."""
        if not self._matrices:
            return self._ones
        device = self._ones.device
        kept, whole = (
            torch.stack([t.to(device) for t in norms]).sum(0)
            for norms in zip(*((m.kept, m.whole) for m in self._matrices), strict=True)
        )
        return (kept / whole).clamp(max=1).where((kept > 0) | (whole != 0), self._ones)

    def write(self) -> None:
        """Replace the gradients."""
        for matrix in self._matrices:
            for p, grad in zip(matrix.params, matrix.grads, strict=True):
                if p.grad is not None:
                    p.grad = grad


def _matrices(options: Options, params: list[Tensor]) -> list[list[Tensor]]:
    """List the parameters of each matrix that has a gradient."""
    if options.scope == "model":
        return [params]
    axes = options.batch_dims + 2
    return [[p] for p in params if p.grad is not None and p.ndim >= axes]


def _truncated(options: Options, params: list[Tensor], step: int | Tensor) -> _Matrix | None:
    """Truncate one matrix, unless its rank is full or it has no entries."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    whole, batch_dims = options.scope == "model", options.batch_dims
    shapes = [g.shape[batch_dims:] for g in grads]
    if whole:
        m = n = square_side(sum(shape.numel() for shape in shapes))
    else:
        m, n = shapes[0][0], shapes[0][1:].numel()
    k = options.rank
    if isinstance(k, float):
        k = max(1, round(k * min(m, n)))
    if k >= min(m, n) or 0 in grads[0].shape[:batch_dims]:
        return None
    dtype = torch.float64 if any(g.dtype == torch.float64 for g in grads) else torch.float32
    sharded = _sharded(options, grads, dtype)
    if sharded is not None:
        norm = sharded.squared_norm()
        found = sharded.randomized(k, options.iterations, options.seed, step)
        cut = sharded.pieces(found.matrix)
    else:
        # Every process gathers all DTensors and computes the same bits.
        local = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
        if whole:
            matrix = to_square(local, batch_dims, dtype)
        else:
            matrix = local[0].to(dtype).reshape(*local[0].shape[:batch_dims], m, n)
        norm = low_rank.squared_norm(matrix)
        found = _approximation(options, matrix, k, step, overwrite=whole)
        del matrix
        if whole:
            cut = from_square(found.matrix, local, batch_dims)
        else:
            cut = [resembling(found.matrix, local[0])]
        cut = [
            _shard_like(c, g) if hasattr(g, "full_tensor") else c
            for c, g in zip(cut, grads, strict=True)
        ]
    # An approximation is finite throughout or nowhere.
    return _Matrix(params, cut, found.energy, norm, found.matrix[..., 0, 0].isfinite().all())


def _approximation(
    options: Options, matrix: Tensor, k: int, step: int | Tensor, *, overwrite: bool
) -> low_rank.Approximation:
    if options.method == "svd":
        return low_rank.svd(matrix, k)
    if options.method == "gram":
        return low_rank.gram(matrix, k, overwrite=overwrite)
    return low_rank.randomized(
        matrix, k, options.iterations, options.seed, step, overwrite=overwrite
    )


def _sharded(options: Options, grads: list[Tensor], dtype: torch.dtype) -> "ShardedMatrix | None":
    """The matrix of DTensors that need not be gathered, as products with it suffice."""
    if (options.method, options.scope, options.batch_dims) != ("randomized", "model", 0):
        return None
    if not any(hasattr(g, "full_tensor") for g in grads):
        return None
    from .sharded import ShardedMatrix, can_stay_sharded

    return ShardedMatrix(grads, dtype) if can_stay_sharded(grads) else None


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Compute outside autocast, with float32 products that are not rounded to TF32 or bfloat16.

    The precision is a setting of the process. It changes only if it is not full, and comes back.
    """
    reduced: list[tuple[Any, str]] = []
    for backend in (torch.backends.cuda, torch.backends.mkldnn):
        matmul: Any = getattr(backend, "matmul", None)
        precision = getattr(matmul, "fp32_precision", "none")
        if precision not in ("none", "ieee"):
            reduced.append((matmul, precision))
            matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for matmul, precision in reduced:
            matmul.fp32_precision = precision


def _check_gradient(grad: Tensor | None) -> None:
    assert grad is not None
    if grad.layout != torch.strided:
        raise RuntimeError("the low-rank filter does not support sparse gradients")
    if grad.is_complex():
        raise RuntimeError("the low-rank filter does not support complex gradients")


def _finite(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    if not hasattr(tensor, "full_tensor"):
        return tensor.isfinite().all()
    # Agree with the other processes. By a sum: torch 2.8 adds up what each finds all() to be.
    wrong = tensor.isfinite().logical_not().sum()
    assert hasattr(wrong, "full_tensor")
    none: Tensor = wrong.full_tensor() == 0
    return none


def _shard_like(whole: Tensor, sharded: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(sharded, DTensor)
    # Without a source rank nothing is communicated: each process cuts its own shard.
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)
