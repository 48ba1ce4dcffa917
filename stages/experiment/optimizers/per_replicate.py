"""Adam and LRG-Adam with hyperparameters of its own for each replicate.

For searches that run side by side: their trials train together, at other learning rates and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from experiment.filtered_adam import spectrum
from experiment.optimizers import Weights
from lrg_adam.flatten import from_square, to_square

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class PerReplicateAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1) on weights (R, ...).

    Args:
        weights: each with the replicates as its first axis.
        lr: R learning rates.
        rank: R ranks to which the gradients are truncated, or None.

    """

    def __init__(
        self, weights: Iterable[Tensor], *, lr: Sequence[float], rank: Sequence[int] | None
    ) -> None:
        super().__init__(weights, {})
        self._lr = torch.tensor(lr)
        self._rank = None if rank is None else torch.tensor(rank)
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 - the signature is torch's
        """Truncate the gradients, if asked for, and take Adam's step."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights]
        if self._rank is not None:
            gradients = self._truncated(gradients, self._rank)
        self._steps += 1
        for weight, gradient in zip(weights, gradients, strict=True):
            state = self.state[weight]
            if not state:
                state["mean"] = torch.zeros_like(weight)
                state["square"] = torch.zeros_like(weight)
            mean = state["mean"].lerp_(gradient, 1 - BETA1)
            square = state["square"].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            scale = square.sqrt().div_(math.sqrt(1 - BETA2**self._steps)).add_(EPS)
            lr = (self._lr / (1 - BETA1**self._steps)).view(-1, *[1] * (weight.ndim - 1))
            weight.sub_(lr * mean / scale)

    @staticmethod
    def _truncated(gradients: Sequence[Tensor], rank: Tensor) -> list[Tensor]:
        matrix = to_square(gradients, 1, torch.float32)
        _, vectors = spectrum(matrix)
        side = matrix.shape[-1]
        kept = torch.arange(side) >= side - rank[:, None]
        basis = vectors * kept[:, None, :]
        return from_square(((matrix @ basis) @ basis.mT).contiguous(), gradients, 1)


def create(
    weights: Weights, *, lr: Sequence[float], rank: Sequence[int] | None = None
) -> torch.optim.Optimizer:
    """Adam, or with `rank` LRG-Adam, where replicate r has lr[r] and rank[r]."""
    return PerReplicateAdam(weights, lr=lr, rank=rank)
