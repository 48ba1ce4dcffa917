"""The LRGAdam optimizer."""

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from types import FrameType
from typing import Any, Never, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Adam
from torch.optim.optimizer import ParamsT

from . import private
from .filter import TOO_LARGE, Options, Truncation, check_choice

_T = TypeVar("_T")

# Adam's step without the hooks and the profiler range that torch puts around it, because those of
# LRGAdam.step run already.
_adam_step = inspect.unwrap(Adam.step)

_OPTIONS = tuple(field.name for field in fields(Options))
_NONFINITE = ("raise", "skip", "propagate")
_REMOVED = {
    "tolerance": "method='gram' is exact, and more iterations of 'randomized' are more accurate",
    "oversampling": "the method 'randomized' takes 8 directions beyond the rank",
    "diagnostics": "the attribute captured_energy is always there",
}


class LRGAdam(Adam):
    r"""Adam on the best rank-k approximation of the gradient.

    With all gradients :math:`g_t` laid end to end in the rows of a square matrix :math:`G_t` of
    side :math:`n`, padded with zeros, and :math:`G_t = U \Sigma V^\top`, Adam's step is taken with
    :math:`\widehat{G}_t = U_{:,1:k} \Sigma_{1:k,1:k} V_{:,1:k}^\top`, cut up again. With ``rank >=
    n`` this is :class:`torch.optim.Adam`, bit for bit.

    The filter is :func:`truncate_grad_rank_`, which also goes before any other optimizer. The state
    is Adam's. Options may change between steps, which check them. As usual in torch,
    ``load_state_dict`` restores the options in the checkpoint, including the rank.

    The limitations:

    - It saves no memory: it keeps Adam's moments, and a step needs copies of the gradient, see the
      README.
    - The update is not low-rank: Adam divides entry by entry after the filter, and decays weights
      after it. Entries that the filter leaves near zero make ``eps`` matter more.
    - It cannot filter while ``backward`` runs, because the matrix needs all gradients. Hooks that
      step each parameter as its gradient arrives turn it into a different optimizer, without error.
    - It does not clip. Clip before ``step``; after it ``.grad`` holds the filtered gradient.

    Every process gathers DTensors, such as those of FSDP, except for "randomized" with
    ``scope="model"`` and without ``batch_dims``, on a mesh with a single axis over which every
    DTensor is sharded by its first dimension or replicated. Each process then works on its own rows
    of the matrix, and every iteration sums two products of ``n`` times ``rank + 8`` entries. All
    processes must have gradients for the same parameters, with equal values where a gradient is not
    sharded. They raise, skip and step together. Other kinds of sharding leave each process a part
    of the model to filter by itself. ``FullyShardedDataParallel`` is an error, as is
    ``scope="model"`` under ``ZeroRedundancyOptimizer``; other kinds cannot be detected.

    Args:
        params (iterable): parameters, named parameters or dicts defining parameter groups, all real
            and dense. With ``scope="model"`` all groups share a matrix and the filter's options.
        rank (int or float): as in :func:`truncate_grad_rank_`, like ``method``, ``scope``,
            ``batch_dims`` and ``iterations``
        nonfinite (str, optional): what to do about gradients that are not finite or whose norm
            overflows: "raise" an error that names the parameter, "skip" the step and count it, or
            "propagate" NaN without waiting for the device (default: "raise")
        seed (int, optional): decides, with the step, the directions of "randomized" (default: 0)

        The others are Adam's. ``differentiable`` needs ``method="svd"``; a graph capture needs
        ``capturable``, ``method="randomized"`` and ``nonfinite="propagate"``.

    Attributes:
        captured_energy (Tensor or None): what :func:`truncate_grad_rank_` returned in the last step
        skipped_steps (int): steps skipped since construction or loading

    Example:
        >>> # xdoctest: +SKIP
        >>> optimizer = LRGAdam(model.parameters(), lr=1e-3, rank=20)
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
        seed: int = 0,
        iterations: int = 4,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **removed: Never,
    ) -> None:
        for name in removed:
            what = f"was removed: {_REMOVED[name]}" if name in _REMOVED else "is not an option"
            raise TypeError(f"LRGAdam: {name} {what}")
        self.captured_energy: Tensor | None = None
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
        # Adam's constructor does not know these. Groups added later get them from the defaults.
        self.defaults |= {
            "rank": rank,
            "method": method,
            "scope": scope,
            "batch_dims": batch_dims,
            "nonfinite": nonfinite,
            "seed": seed,
            "iterations": iterations,
        }
        for group in self.param_groups:
            for name in (*_OPTIONS, "nonfinite"):
                group.setdefault(name, self.defaults[name])
            self._check_whole(group)
        self._check_groups()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not type it
        self.__dict__.setdefault("captured_energy", None)
        self.__dict__.setdefault("skipped_steps", 0)
        for group in self.param_groups:  # from a checkpoint of Adam or of an older version
            for name in _REMOVED:
                group.pop(name, None)
            if group.get("iterations", 0) is None:
                del group["iterations"]
            if group.get("method") == "subspace":
                warnings.warn("the method 'subspace' is now 'randomized'", stacklevel=3)
                group["method"] = "randomized"
            for name in (*_OPTIONS, "nonfinite"):
                if name in self.defaults:
                    group.setdefault(name, self.defaults[name])
        for values in self.state.values():
            values.pop("basis", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose parameters extend the matrix if ``scope="model"``."""
        super().add_param_group(param_group)
        if "rank" in self.defaults:
            try:
                self._check_whole(param_group)
                self._check_groups()
            except ValueError:
                self.param_groups.pop()
                raise

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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._truncate_gradients():
            _adam_step(self)
        else:
            self.skipped_steps += 1
        return loss

    @private.uncompiled
    def _truncate_gradients(self) -> bool:
        """Replace the gradients, and return whether to step."""
        options = self._check_groups()
        sets = [group["params"] for group in self.param_groups]
        if options[0].scope == "model":  # all groups have the same options
            options, sets = options[:1], [[p for params in sets for p in params]]
        truncation = Truncation(zip(options, sets, map(self._step_of, sets), strict=True))
        nonfinite = self.param_groups[0]["nonfinite"]
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if nonfinite == "propagate":
            pass
        elif found_inf is not None:  # GradScaler's, with which the fused kernel skips by itself
            self.found_inf = torch.maximum(found_inf, (~truncation.finite()).to(found_inf))
        elif not truncation.finite():
            if nonfinite == "skip":
                return False
            raise RuntimeError(self._describe(truncation.nonfinite_parameter()))
        truncation.write()
        self.captured_energy = truncation.kept().detach()
        return True

    def _step_of(self, params: list[Tensor]) -> int | Tensor:
        """How many steps a set of parameters has taken."""
        first = next((p for p in params if p.grad is not None), None)
        return 0 if first is None else self.state.get(first, {}).get("step", 0)

    def _check_groups(self) -> list[Options]:
        """Check the options of all groups, which may change between steps, and return them."""
        first = self.param_groups[0]
        shared = ("scope", "nonfinite", *(_OPTIONS if first["scope"] == "model" else ()))
        for group in self.param_groups:
            check_choice("nonfinite", group["nonfinite"], _NONFINITE)
            for name in _REMOVED.keys() & group.keys():
                raise TypeError(f"LRGAdam: {name} was removed: {_REMOVED[name]}")
            if group["differentiable"] and group["method"] != "svd":
                raise ValueError("differentiable=True needs method='svd', which autograd follows")
        options = [Options(*(group[name] for name in _OPTIONS)) for group in self.param_groups]
        for name in shared:
            for group in self.param_groups:
                if group[name] != first[name]:
                    raise ValueError(
                        f"Invalid {name}: {group[name]}, another group has {first[name]} and all "
                        "must have the same"
                    )
        for one, group in zip(options, self.param_groups, strict=True):
            # The shape of a lazy parameter is not known before the first step.
            params = [*first["params"], *group["params"]]
            one.check_shapes(p for p in params if not is_lazy(p))
        return options

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

    def _describe(self, culprit: Tensor | None) -> str:
        if culprit is None:
            return f"LRGAdam: {TOO_LARGE}"
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group["params"]):
                if p is culprit:
                    names = group.get("param_names")
                    name = names[position] if names else f"{position} of group {index}"
        return f"LRGAdam: non-finite gradient in parameter {name}"


def _called_from(module: str) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame is not None
