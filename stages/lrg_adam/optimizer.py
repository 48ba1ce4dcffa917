"""The LRGAdam optimizer."""

import math
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Adam
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from . import low_rank, private
from .flatten import from_square, resembling, square_side, to_square

if TYPE_CHECKING:
    from .sharded import ShardedMatrix

_T = TypeVar("_T")
_List = list[Tensor]

# With scope="model" one matrix spans all groups, so these must be the same in every group.
_SHARED_OPTIONS = (
    "rank",
    "method",
    "scope",
    "batch_dims",
    "nonfinite",
    "tolerance",
    "seed",
    "oversampling",
    "iterations",
    "diagnostics",
)
_ADAM_OPTIONS = (
    "amsgrad",
    "lr",
    "weight_decay",
    "eps",
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
)
_CHOICES = {
    "method": ("gram", "svd", "randomized", "subspace"),
    "scope": ("model", "parameter"),
    "nonfinite": ("raise", "skip", "propagate"),
}


@dataclass(frozen=True)
class MatrixInfo:
    """What the last step did to one gradient matrix (or stack of matrices)."""

    shape: tuple[int, ...]
    rank: int
    retries: int
    """Decompositions that did not converge and were redone another way."""
    fallbacks: int
    """Matrices whose cheaper result could not be certified and was replaced by the exact one."""
    captured_energy: Tensor | None
    """Share of the squared gradient norm kept, for each matrix; only with ``diagnostics``."""
    excess_error: Tensor | None
    """Relative excess of the error over the smallest possible; only with ``diagnostics``. Zero for
    the exact methods, infinite where the smallest possible is lost in rounding."""


class LRGAdam(Adam):
    r"""Adam on the best rank-k approximation of the gradient.

    .. math::
       \begin{aligned}
            &\rule{110mm}{0.4pt}                                                                 \\
            &\textbf{input}      : k \text{ (rank)}, \theta_0 \text{ (params, } N \text{ entries)},
                f(\theta) \text{ (objective)}, \text{ and the arguments of Adam}          \\[-1.ex]
            &\rule{110mm}{0.4pt}                                                                 \\
            &n                     \leftarrow   \lceil \sqrt{N} \rceil                           \\
            &\textbf{for} \: t=1 \: \textbf{to} \: \ldots \: \textbf{do}                         \\
            &\hspace{5mm}g_t       \leftarrow   \nabla_{\theta} f_t (\theta_{t-1})
                \text{, for all parameters in order, as one vector}                              \\
            &\hspace{5mm}G_t       \leftarrow   g_t \text{ followed by } n^2 - N \text{ zeros, as }
                n \text{ rows of } n                                                             \\
            &\hspace{5mm}U \Sigma V^{\top}  \leftarrow   G_t
                \text{, singular values in descending order}                                     \\
            &\hspace{5mm}\widehat{G}_t     \leftarrow   U_{:,1:k} \, \Sigma_{1:k,1:k} \,
                V_{:,1:k}^{\top}                                                                 \\
            &\hspace{5mm}\widehat{g}_t     \leftarrow   \text{the first } N
                \text{ entries of } \widehat{G}_t                                                \\
            &\hspace{5mm}\theta_t  \leftarrow   \text{Adam's step from } \theta_{t-1}
                \text{ with the gradient } \widehat{g}_t                                         \\
            &\rule{110mm}{0.4pt}                                                          \\[-1.ex]
            &\bf{return} \:  \theta_t                                                     \\[-1.ex]
            &\rule{110mm}{0.4pt}                                                          \\[-1.ex]
       \end{aligned}

    For Adam's step see :class:`torch.optim.Adam`. With ``rank >= n`` this is Adam, bit for bit.

    The methods:

    - ``"gram"``, the default, is exact to float32 rounding and cheaper than an SVD.
    - ``"svd"`` follows the formula literally. Only this method supports ``differentiable=True``.
    - ``"randomized"`` runs a few subspace iterations from random directions at every step. Its cost
      grows with the size of the gradient times the rank.
    - ``"subspace"`` runs one iteration from the directions of the previous step, which are part of
      the state. It is the cheapest for large models, and good if the gradient's leading directions
      drift slowly. Directions that are new in a mini-batch are found late or missed.

    ``diagnostics=True`` shows how good an approximate method is on the problem at hand.

    The limitations:

    - It saves no memory: it keeps the moments of Adam, and a step temporarily needs more copies of
      the gradient: 1.3 at most for the approximate methods, 6 with ``tolerance`` or
      ``diagnostics``, 6 for "svd", 9 for "gram", and 14 where a tolerance falls back to that.
    - The update is not low-rank: Adam divides entry by entry after the filter, and weight decay is
      added after it too. Entries that the filter leaves near zero make ``eps`` matter more.
    - It cannot filter a gradient while ``backward`` runs, because the matrix needs all parameters.
      Hooks that step each parameter as its gradient arrives make another optimizer of it: with an
      optimizer for each parameter, each is a matrix of its own; with one for all, the matrix has
      zeros for the others. Neither can be told from a wanted step, so neither is an error.
    - It does not clip. Clip before ``step``, while ``.grad`` holds the full gradient. After
      ``step`` it holds the filtered one. Without zeroing, new gradients are added to that.

    Every process gathers DTensors, such as those of FSDP, unless the step needs only products with
    the matrix. This is so for the approximate methods with ``scope="model"`` and without
    ``batch_dims``, ``tolerance`` and ``diagnostics``, on a mesh with a single axis over which every
    DTensor is sharded by its first dimension or replicated. Each process then works on its own rows
    of the matrix, and every iteration sums two products of ``n`` times ``rank + oversampling``
    entries across processes. The same parameters must have gradients on all processes, which raise,
    skip and step together.

    Other kinds of sharding leave each process a part of the parameters or of the model, and it
    would filter that part by itself. ``FullyShardedDataParallel`` is an error; use ``fully_shard``.
    So is ``scope="model"`` under ``ZeroRedundancyOptimizer``; use ``scope="parameter"``. Others
    cannot be told.

    The options may change between steps, and are checked in each. A new ``rank`` keeps the
    directions that "subspace" knows; a rank of ``n`` or more is Adam until it changes again.

    The order of the parameters defines the matrix, so a different order is a different optimizer. A
    missing gradient counts as zeros in the matrix, and its parameter does not change. As usual in
    torch, ``load_state_dict`` restores the options in the checkpoint, including the rank.

    Args:
        params (iterable): iterable of parameters, of named parameters or of dicts defining
            parameter groups. They must be real and dense; for DTensors see above.
        lr (float, Tensor, optional): learning rate (default: 1e-3)
        betas (tuple[float | Tensor, float | Tensor], optional): coefficients for the running
            averages of the filtered gradient and its square (default: (0.9, 0.999))
        eps (float, optional): term added to the denominator (default: 1e-8)
        weight_decay (float, optional): weight decay coefficient (default: 0)
        amsgrad (bool, optional): whether to use the AMSGrad variant (default: False)
        rank (int or float): the number of singular values to keep or, as a float in (0, 1), its
            ratio to ``n``; the product is rounded, and at least 1
        method (str, optional): how to find the approximation, see above (default: "gram")
        scope (str, optional): "model" for one matrix of all gradients, or "parameter" for a matrix
            per parameter of two or more dimensions, whose first dimension indexes the rows (as in
            torch's weights); other parameters are not filtered (default: "model")
        batch_dims (int, optional): number of leading axes, the same in every parameter, that index
            independent models, each with its own matrix. A model's filtered gradient depends on the
            other models by rounding at most, even if those are not finite (default: 0)
        nonfinite (str, optional): what to do about NaN and infinite gradients, and a matrix whose
            norm overflows: "raise" an error that names the parameter, "skip" the step and count it
            in ``skipped_steps``, or "propagate" NaN to their whole matrix but no other, which needs
            no synchronisation with the device (default: "raise")
        tolerance (float, optional): by how much the error of an approximate method may exceed the
            smallest possible, relative to it. Every step proves this. If the proof fails, the
            method iterates further, then falls back to "gram". The proof costs a Gram matrix and
            its eigenvalues (default: None, no proof)
        seed (int, optional): all randomness is a function of the seed and the step; the global
            generator is not used (default: 0)
        oversampling (int, optional): number of directions beyond the rank in the approximate
            methods; "subspace" replaces a quarter of them, rounded up, with random ones at every
            step (default: 8)
        iterations (int, optional): number of iterations per step in the approximate methods
            (default: None, 2 from a random start and 1 from a previous basis)
        diagnostics (bool, optional): whether ``last_step_info`` includes captured energy and excess
            error, which cost a few reductions and the proof described above (default: False)
        foreach (bool, optional): as in :class:`torch.optim.Adam` (default: None)
        maximize (bool, optional): maximize the objective (default: False)
        capturable (bool, optional): as in :class:`torch.optim.Adam`; for a graph capture use the
            approximate methods with ``nonfinite="propagate"`` and no tolerance (default: False)
        differentiable (bool, optional): as in :class:`torch.optim.Adam`; needs ``method="svd"``
            (default: False)
        fused (bool, optional): as in :class:`torch.optim.Adam` (default: None)
        decoupled_weight_decay (bool, optional): decay as AdamW does (default: False)

    Attributes:
        last_step_info (tuple[MatrixInfo, ...]): what the last step did to each matrix, empty if no
            matrix was filtered
        skipped_steps (int): steps that ``nonfinite="skip"`` skipped since construction or loading

    Example:
        >>> # xdoctest: +SKIP
        >>> optimizer = LRGAdam(model.parameters(), lr=1e-3, rank=20)
        >>> optimizer.zero_grad()
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        rank: int | float,
        method: str = "gram",
        scope: str = "model",
        batch_dims: int = 0,
        nonfinite: str = "raise",
        tolerance: float | None = None,
        seed: int = 0,
        oversampling: int = 8,
        iterations: int | None = None,
        diagnostics: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        self.last_step_info: tuple[MatrixInfo, ...] = ()
        self.skipped_steps = 0
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        options = {
            "rank": rank,
            "method": method,
            "scope": scope,
            "batch_dims": batch_dims,
            "nonfinite": nonfinite,
            "tolerance": tolerance,
            "seed": seed,
            "oversampling": oversampling,
            "iterations": iterations,
            "diagnostics": diagnostics,
        }
        # Adam's constructor does not know these. Groups added later get them from the defaults.
        self.defaults.update(options)
        for group in self.param_groups:
            for name, value in options.items():
                group.setdefault(name, value)
            self._check_group(group)
            self._check_whole(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not type it
        self.__dict__.setdefault("last_step_info", ())
        self.__dict__.setdefault("skipped_steps", 0)
        for group in self.param_groups:  # from a checkpoint of Adam or of an older version
            for name in _SHARED_OPTIONS:
                if name in self.defaults:
                    group.setdefault(name, self.defaults[name])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as :meth:`torch.optim.Optimizer.add_param_group` does.

        With ``scope="model"`` its parameters extend the one matrix, and its options for that matrix
        must be those of the other groups.
        """
        super().add_param_group(param_group)
        if "rank" in self.defaults:
            try:
                self._check_group(param_group)
                self._check_whole(param_group)
            except ValueError:
                self.param_groups.pop()
                raise

    @private.uncompiled
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        The base class casts all state to the dtype of its parameter. A basis keeps the dtype in
        which it was saved, so that resuming is exact for bfloat16 parameters too.
        """
        loaded: dict[str, Any] = {}
        # Registered last, so this pre-hook sees what the others made of the argument.
        hook = self.register_load_state_dict_pre_hook(lambda _, given: loaded.update(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        params = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in loaded["param_groups"] for key in group["params"]]
        for key, p in zip(keys, params, strict=True):
            if "basis" in loaded["state"].get(key, {}):
                self.state[p]["basis"] = loaded["state"][key]["basis"].to(p.device, copy=True)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], _T]) -> _T: ...

    @private.with_grad_if_differentiable
    def step(self, closure: Callable[[], _T] | None = None) -> _T | None:
        """Perform a single optimization step.

        Args:
            closure (Callable, optional): A closure that reevaluates the model
                and returns the loss.

        Raises:
            ValueError: if an option has changed to something that is not allowed.
            RuntimeError: if a gradient is sparse, complex or (with ``nonfinite="raise"``)
                not finite. Parameters, gradients and state are then left unchanged.
            torch.linalg.LinAlgError: if a decomposition and its retry both fail.

        """
        private.check_graph_capture(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        bases = self._filter_gradients()
        if bases is None:
            self.skipped_steps += 1
            return loss

        for group in self.param_groups:
            lists: tuple[_List, _List, _List, _List, _List, _List] = ([], [], [], [], [], [])
            has_complex = private.init_group(self, group, *lists)
            beta1, beta2 = group["betas"]
            # Not super().step(), because its hooks and profiler range would run a second time.
            adam(
                *lists,
                has_complex=has_complex,
                beta1=beta1,
                beta2=beta2,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                **{name: group[name] for name in _ADAM_OPTIONS},
            )
        # Not earlier, because Adam initialises the state of a parameter only if it is empty.
        for p, basis in bases.items():
            self.state[p]["basis"] = basis
        return loss

    def _filter_gradients(self) -> dict[Tensor, Tensor] | None:
        """Replace every gradient with its rank-k approximation.

        Returns:
            The bases for the next step, keyed by the parameter whose state keeps them, or ``None``
            if a gradient is not finite and the step must be skipped.

        """
        present = [
            (group, p) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        for group in self.param_groups:
            self._check_group(group)
        for _, p in present:
            _check_gradient(p.grad)
        if any(p.is_meta for _, p in present):  # no values to filter: what follows is Adam's
            self.last_step_info = ()
            return {}
        results: list[_Filtered] = []
        for options, params in self._matrices():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
            shape = _matrix_shape(grads, options)
            k = _rank(options["rank"], min(shape))
            if k >= min(shape):
                continue
            matrix, cut = _as_matrix(grads, shape, options)
            owner = next((p for p in params if "basis" in self.state.get(p, {})), None)
            if owner is None:  # the first whose state Adam will initialise
                owner = next(p for p in params if p.grad is not None)
            found = _approximate(matrix, k, options, self.state.get(owner, {}))
            info = _info(matrix, k, found, options)
            results.append(_Filtered(options, params, cut, owner, found, info))
            del matrix

        # An approximation is finite throughout or nowhere.
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        checks = [(r.options, r.params, r.found.matrix[..., 0, 0]) for r in results]
        filtered = {id(p) for r in results for p in r.params}
        checks += [(group, [p], p.grad) for group, p in present if id(p) not in filtered]
        for options, params, tensor in checks:
            if options["nonfinite"] == "propagate":
                continue
            # With GradScaler, the fused kernel itself skips a step that has an infinity. An
            # overflow is news to it.
            if found_inf is not None:
                found_inf = torch.maximum(found_inf, (~_finite(tensor)).to(found_inf))
                self.found_inf = found_inf
            elif _finite(tensor):
                continue
            elif options["nonfinite"] == "skip":
                return None
            else:
                raise RuntimeError(self._describe_nonfinite(params))

        for r in results:
            for p, g in zip(r.params, r.cut(r.found.matrix), strict=True):
                if p.grad is None:
                    continue
                if hasattr(p.grad, "full_tensor") and not hasattr(g, "full_tensor"):
                    g = _shard_like(g, p.grad)
                p.grad = g
        self.last_step_info = tuple(r.info for r in results)
        return {r.owner: r.found.basis for r in results if r.found.basis is not None}

    def _matrices(self) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """List the options and the parameters of every matrix that has a gradient."""
        first = self.param_groups[0]
        if first["scope"] == "model":
            for group in self.param_groups[1:]:
                _check_shared(first, group)
            matrices = [(first, [p for group in self.param_groups for p in group["params"]])]
        else:
            matrices = [
                (group, [p])
                for group in self.param_groups
                for p in group["params"]
                if p.ndim - group["batch_dims"] >= 2 and p.numel() > 0
            ]
        return [m for m in matrices if any(p.grad is not None for p in m[1])]

    def _check_group(self, group: dict[str, Any]) -> None:
        """Check the options of a group, which may change between steps."""
        _check_options(group)
        first = self.param_groups[0]
        if group["scope"] != first["scope"]:
            raise ValueError(f"Invalid scope: {group['scope']}, other groups have {first['scope']}")
        if group["scope"] == "model":
            _check_shared(first, group)
        batch_dims = group["batch_dims"]
        batch = next((p.shape[:batch_dims] for p in first["params"] if not is_lazy(p)), None)
        for p in group["params"]:
            if is_lazy(p):  # its shape is not known before the first step
                continue
            if p.ndim < batch_dims or p.shape[:batch_dims] != (batch or p.shape[:batch_dims]):
                raise ValueError(
                    f"Invalid batch_dims: {batch_dims} for a parameter of shape {tuple(p.shape)}, "
                    "all parameters need the same leading axes"
                )

    def _check_whole(self, group: dict[str, Any]) -> None:
        """Refuse the parts of parameters that other kinds of sharding leave to each process."""
        if any(private.is_flattened(p) for p in group["params"]):
            raise ValueError(
                "Invalid params: FullyShardedDataParallel hides their shapes, should be sharded by "
                "torch.distributed.fsdp.fully_shard"
            )
        if group["scope"] == "model" and _called_from(
            "torch.distributed.optim.zero_redundancy_optimizer"
        ):
            raise ValueError(
                "Invalid scope: model, a process of ZeroRedundancyOptimizer has only some of the "
                "parameters, should be 'parameter'"
            )

    def _describe_nonfinite(self, params: list[Tensor]) -> str:
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group["params"]):
                if p.grad is None or not any(p is q for q in params):
                    continue
                if not _finite(p.grad):
                    names = group.get("param_names")
                    name = names[position] if names else f"{position} of group {index}"
                    return f"LRGAdam found a non-finite gradient in parameter {name}"
        return "LRGAdam found gradients that are finite, but too large for the norm of their matrix"


class _Filtered(NamedTuple):
    """A gradient matrix whose approximation has been found."""

    options: dict[str, Any]
    params: list[Tensor]
    cut: Callable[[Tensor], list[Tensor]]  # from the approximation to the gradients
    owner: Tensor  # the parameter whose state keeps the basis
    found: low_rank.Approximation
    info: MatrixInfo


def _as_matrix(
    grads: list[Tensor], shape: tuple[int, int], options: dict[str, Any]
) -> tuple["Tensor | ShardedMatrix", Callable[[Tensor], list[Tensor]]]:
    """Lay out gradients in a matrix, and return it with a function that cuts it up again."""
    dtype = torch.float64 if any(g.dtype == torch.float64 for g in grads) else torch.float32
    batch_dims, whole = options["batch_dims"], options["scope"] == "model"
    if any(hasattr(g, "full_tensor") for g in grads):
        from .sharded import ShardedMatrix, can_stay_sharded

        products_suffice = (
            options["method"] in ("randomized", "subspace")
            and options["tolerance"] is None
            and not options["diagnostics"]
        )
        if whole and batch_dims == 0 and products_suffice and can_stay_sharded(grads):
            sharded = ShardedMatrix(grads, dtype)
            return sharded, sharded.pieces
        # Every process gathers everything and computes the same bits.
        grads = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
    if whole:
        return to_square(grads, batch_dims, dtype), lambda m: from_square(m, grads, batch_dims)
    (grad,) = grads
    matrix = grad.to(dtype).reshape(*grad.shape[:batch_dims], *shape)
    return matrix, lambda m: [resembling(m, grad)]


def _approximate(
    matrix: "Tensor | ShardedMatrix", k: int, options: dict[str, Any], state: dict[str, Any]
) -> low_rank.Approximation:
    method, tolerance = options["method"], options["tolerance"]
    # Only a matrix of all gradients is a copy of them.
    overwrite = options["scope"] == "model" and not options["diagnostics"]
    if isinstance(matrix, Tensor):
        if method == "svd":
            return low_rank.svd(matrix, k)
        if method == "gram":
            return low_rank.gram(matrix, k, overwrite=overwrite)
    block = min(k + options["oversampling"], *matrix.shape[-2:])
    basis = state.get("basis") if method == "subspace" else None
    if basis is None or basis.shape[:-1] != (*matrix.shape[:-2], matrix.shape[-1]):
        basis = torch.empty(matrix.shape[-1], 0, device=matrix.device)
    # A quarter of the spare directions is new. If the rank has grown, the missing ones are too.
    kept = block - math.ceil((block - k) / 4)
    iterations = options["iterations"] or (1 if basis.shape[-1] >= kept else 2)
    start = low_rank.completed(basis[..., :kept], block, options["seed"], state.get("step", 0))
    if isinstance(matrix, Tensor):
        certify = tolerance is not None
        found = low_rank.subspace(matrix, k, start, iterations, overwrite=overwrite and not certify)
        if certify:
            found = low_rank.certified(matrix, k, found, tolerance)
    else:
        found = matrix.subspace(k, start, iterations)
    return found if method == "subspace" else found._replace(basis=None)


def _info(
    matrix: "Tensor | ShardedMatrix", k: int, found: low_rank.Approximation, options: dict[str, Any]
) -> MatrixInfo:
    energy = excess = None
    if options["diagnostics"] and isinstance(matrix, Tensor):
        energy = low_rank.captured_energy(matrix, found.matrix)
        if options["method"] in ("gram", "svd"):
            excess = torch.zeros_like(energy)
        else:
            excess = low_rank.excess_error(matrix, found.matrix, k)
    return MatrixInfo(tuple(matrix.shape), k, found.retries, found.fallbacks, energy, excess)


def _rank(rank: int | float, side: int) -> int:
    return max(1, round(rank * side)) if isinstance(rank, float) else rank


def _matrix_shape(grads: list[Tensor], options: dict[str, Any]) -> tuple[int, int]:
    shapes = [g.shape[options["batch_dims"] :] for g in grads]
    if options["scope"] == "parameter":
        return shapes[0][0], shapes[0][1:].numel()
    side = square_side(sum(shape.numel() for shape in shapes))
    return side, side


def _finite(tensor: Tensor) -> Tensor:
    if not hasattr(tensor, "full_tensor"):
        return tensor.isfinite().all()
    # Agree with the other processes. By a sum: torch 2.8 adds up what each finds all() to be.
    wrong = tensor.isfinite().logical_not().sum()
    assert hasattr(wrong, "full_tensor")
    none: Tensor = wrong.full_tensor() == 0
    return none


def _check_gradient(grad: Tensor) -> None:
    if grad.layout != torch.strided:
        raise RuntimeError("LRGAdam does not support sparse gradients")
    if grad.is_complex():
        raise RuntimeError("LRGAdam does not support complex gradients")


def _called_from(module: str) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame is not None


def _shard_like(whole: Tensor, sharded: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(sharded, DTensor)
    # Without a source rank nothing is communicated: each process cuts its own shard.
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)


def _check_options(options: dict[str, Any]) -> None:
    """Raise ValueError for what is not allowed, and replace NumPy's numbers with Python's."""
    options["rank"] = _plain_rank(options["rank"])
    for name, choices in _CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"Invalid {name}: {options[name]}, should be one of {choices}")
        options[name] = choices[choices.index(options[name])]
    for name in ("batch_dims", "oversampling", "seed"):
        value = _plain_int(options[name])
        if value is None or value < 0:
            raise ValueError(f"Invalid {name}: {options[name]!r}, should be an int >= 0")
        options[name] = value
    if options["iterations"] is not None:
        value = _plain_int(options["iterations"])
        if value is None or value < 1:
            raise ValueError(
                f"Invalid iterations: {options['iterations']!r}, should be None or an int >= 1"
            )
        options["iterations"] = value
    if options["tolerance"] is not None:
        tolerance = _plain_float(options["tolerance"])
        if not 0 < tolerance < math.inf:
            raise ValueError(
                f"Invalid tolerance: {options['tolerance']!r}, should be None or in (0, inf)"
            )
        options["tolerance"] = tolerance
    options["diagnostics"] = bool(options["diagnostics"])
    if options["differentiable"] and options["method"] != "svd":
        raise ValueError("differentiable=True needs method='svd', which autograd can follow")


def _plain_rank(rank: object) -> int | float:
    whole = None if isinstance(rank, bool) else _plain_int(rank)
    if whole is not None and whole >= 1:
        return whole
    if whole is None and 0 < (share := _plain_float(rank)) < 1:
        return share
    raise ValueError(f"Invalid rank: {rank!r}, should be an int >= 1 or a float in (0, 1)")


def _plain_int(value: Any) -> int | None:  # noqa: ANN401 - whatever the caller gave
    try:
        return int(operator.index(value))
    except TypeError:
        return None


def _plain_float(value: object) -> float:
    return float(value) if isinstance(value, Real) else math.nan


def _check_shared(first: dict[str, Any], group: dict[str, Any]) -> None:
    for name in _SHARED_OPTIONS:
        if group[name] != first[name]:
            raise ValueError(
                f"Invalid {name}: {group[name]}, with scope='model' all groups share one matrix "
                f"and another group has {first[name]}"
            )
