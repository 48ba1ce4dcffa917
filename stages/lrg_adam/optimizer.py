"""The LRGAdam optimizer."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields
from traceback import walk_stack
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Adam
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

from .filter import Options, Truncation, uncompiled

# Without the hooks and the profiler range around it, because those of LRGAdam.step run already.
_adam_step = inspect.unwrap(Adam.step)

_OPTIONS = tuple(field.name for field in fields(Options))
_REMOVED = {
    "tolerance": "method='gram' is exact, and more iterations of 'randomized' are more accurate",
    "oversampling": "the method 'randomized' takes 8 directions beyond the rank",
    "diagnostics": "the attribute captured_energy is always there",
}


class LRGAdam(Adam):
    """Adam on the best rank-k approximation of the gradient.

    A step is :func:`truncate_grad_rank_`, which also goes before any other optimizer, and then the
    step of :class:`torch.optim.Adam`. From a rank of the matrix's side on, it is Adam's bit for
    bit. The state is Adam's. Options may change between steps, which check them. As usual in torch,
    ``load_state_dict`` restores the options in the checkpoint, including the rank.

    The update is not low-rank, because Adam divides entry by entry, and decays weights, after the
    filter. ``.grad`` holds the filtered gradient after a step, so clip before it.

    All processes that share DTensors must have gradients for the same parameters, with equal values
    where a gradient is not sharded. They raise, skip and step together. Other kinds of sharding
    leave each process a part of the model to filter by itself. ``FullyShardedDataParallel`` is an
    error, and so is ``ZeroRedundancyOptimizer`` with ``scope="model"``; others are not detected.

    Args:
        params (iterable): parameters, named parameters or dicts defining parameter groups, all real
            and dense. With ``scope="model"`` all groups share a matrix and the filter's options.
        rank (int or float): as in :func:`truncate_grad_rank_`, like ``method``, ``scope``,
            ``batch_dims`` and ``iterations``
        nonfinite (str, optional): what to do about gradients that are not finite or whose norm
            overflows: "raise" an error that names the parameter, "skip" the step and count it, or
            "propagate" NaN without waiting for the device (default: "raise")
        seed (int, optional): decides, with the step, the directions of "randomized" (default: 0)
        adam: Adam's other keyword arguments. ``differentiable`` needs ``method="svd"``; a graph
            capture needs ``capturable``, ``method="randomized"`` and ``nonfinite="propagate"``.

    """

    #: What :func:`truncate_grad_rank_` returned in the last step.
    captured_energy: Tensor | None = None
    #: Number of steps skipped since construction or loading.
    skipped_steps: int = 0

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
        **adam: Any,  # noqa: ANN401
    ) -> None:
        for name in _REMOVED.keys() & adam:
            raise TypeError(f"LRGAdam: {name} was removed: {_REMOVED[name]}")
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **adam)
        # Adam's constructor does not know these. Groups added later get them from the defaults.
        options = Options(rank, method, scope, batch_dims, nonfinite, seed, iterations)
        self.defaults |= asdict(options)
        for group in self.param_groups:
            group |= self.defaults | group
            _check_whole(group)
        self._check_groups()

    def __getstate__(self) -> dict[str, Any]:
        own = {"captured_energy", "skipped_steps"} & vars(self).keys()
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not type it
        for group in self.param_groups:  # from a checkpoint of Adam or of an older version
            for name in _REMOVED:
                group.pop(name, None)
            if group.get("iterations", 0) is None:
                del group["iterations"]
            if group.get("method") == "subspace":
                warnings.warn("the method 'subspace' is now 'randomized'", stacklevel=3)
                group["method"] = "randomized"
            group |= self.defaults | group
        for values in self.state.values():
            values.pop("basis", None)

    # As in Adam.step: no gradients unless differentiable=True, and the compiler breaks its graph at
    # the ends. Under torch.no_grad alone it copies every parameter.
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Perform a single optimization step, and return the loss that ``closure`` returns.

        Raises what :func:`truncate_grad_rank_` raises. Parameters, gradients and state are then
        left unchanged.
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

    @uncompiled
    def _truncate_gradients(self) -> bool:
        """Replace the gradients, and return whether to step."""
        options = self._check_groups()
        sets = [group["params"] for group in self.param_groups]
        if options[0].scope == "model":  # all groups have the same options
            options, sets = options[:1], [[p for params in sets for p in params]]
        truncation = Truncation(zip(options, sets, map(self._step_of, sets), strict=True))
        nonfinite = options[0].nonfinite
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and nonfinite != "propagate":
            # From GradScaler. The fused kernel skips by itself.
            self.found_inf = torch.maximum(found_inf, (~truncation.finite()).to(found_inf))
            nonfinite = "propagate"
        written = truncation.write(nonfinite, self._name)
        self.captured_energy = truncation.kept().detach()
        return written

    def _step_of(self, params: list[Tensor]) -> int | Tensor:
        first = next((p for p in params if p.grad is not None), None)
        return 0 if first is None else self.state.get(first, {}).get("step", 0)

    def _check_groups(self) -> list[Options]:
        """Check the options of all groups, which may change between steps, and return them."""
        groups, first = self.param_groups, self.param_groups[0]
        options = [Options(*(group[name] for name in _OPTIONS)) for group in groups]
        shared = _OPTIONS if options[0].scope == "model" else ("scope", "nonfinite")
        for one, group in zip(options, groups, strict=True):
            for name in shared:
                if (value := group[name]) != first[name]:
                    raise ValueError(f"Invalid {name}: {value}, another group has {first[name]}")
            # The shape of a lazy parameter is not known before the first step.
            params = [*first["params"], *group["params"]]
            one.check_shapes(p for p in params if not is_lazy(p))
            if group["differentiable"] and one.method != "svd":
                raise ValueError("differentiable=True needs method='svd', which autograd follows")
        return options

    def _name(self, param: Tensor) -> str:
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group["params"]):
                if p is param:
                    names = group.get("param_names")
                    return names[position] if names else f"{position} of group {index}"
        raise AssertionError


def _check_whole(group: dict[str, Any]) -> None:
    """Refuse the parts of parameters that other kinds of sharding leave to each process."""
    # With use_orig_params=True, nothing public tells its parts of parameters from others.
    if any(getattr(p, "_fsdp_flattened", False) for p in group["params"]):
        raise ValueError(
            "Invalid params: FullyShardedDataParallel hides their shapes, should be sharded by "
            "torch.distributed.fsdp.fully_shard"
        )
    zero = "torch.distributed.optim.zero_redundancy_optimizer"  # it constructs this optimizer
    callers = (frame.f_globals.get("__name__") for frame, _ in walk_stack(None))
    if group["scope"] == "model" and zero in callers:
        raise ValueError(
            "Invalid scope: model, a process of ZeroRedundancyOptimizer has only some of the "
            "parameters, should be 'parameter'"
        )
