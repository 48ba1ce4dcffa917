"""The LRGAdam optimizer."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

from . import low_rank
from .flatten import from_square, square_side, to_square

_METHODS = {"svd": low_rank.svd, "gram": low_rank.gram}


class LRGAdam(Adam):
    """Adam on the best rank-k approximation of the gradient."""

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
        write_back: str = "rebind",
        tolerance: float | None = None,
        seed: int = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
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
            "write_back": write_back,
            "tolerance": tolerance,
            "seed": seed,
        }
        self.defaults.update(options)
        for group in self.param_groups:
            for name, value in options.items():
                group.setdefault(name, value)
            if not 0 < group["rank"]:
                raise ValueError(f"Invalid rank: {group['rank']}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Perform a single optimization step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._filter()
        for group in self.param_groups:
            lists: list[list[Tensor]] = [[], [], [], [], [], []]
            has_complex = self._init_group(group, *lists)
            beta1, beta2 = group["betas"]
            adam(
                *lists,
                has_complex=has_complex,
                beta1=beta1,
                beta2=beta2,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                **{
                    name: group[name]
                    for name in (
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
                },
            )
        return loss

    def _filter(self) -> None:
        options: dict[str, Any] = self.param_groups[0]
        params = [p for group in self.param_groups for p in group["params"]]
        if all(p.grad is None for p in params):
            return
        batch_dims = options["batch_dims"]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        side = square_side(sum(g[(0,) * batch_dims].numel() for g in grads))
        rank = options["rank"]
        if isinstance(rank, float):
            rank = max(1, round(rank * side))
        if rank >= side:
            return
        matrix = to_square(grads, batch_dims, torch.float32)
        finite = matrix.isfinite().all(-1).all(-1)
        if options["nonfinite"] == "propagate":
            matrix = torch.where(finite[..., None, None], matrix, 0)
        elif not finite.all():
            raise RuntimeError("LRGAdam found a non-finite gradient")
        approximation = _METHODS[options["method"]](matrix, rank)
        if options["nonfinite"] == "propagate":
            approximation = torch.where(finite[..., None, None], approximation, torch.nan)
        for p, g in zip(params, from_square(approximation, grads, batch_dims), strict=True):
            if p.grad is not None:
                p.grad = g
