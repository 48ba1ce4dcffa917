"""Adam and LRG-Adam with hyperparameters of its own for each replicate.

For searches that run side by side: their trials train together, at other learning rates and ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from experiment.arithmetic import sqrt
from experiment.filtered_adam import projected, spectrum
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
        self._mean = self._square = torch.zeros(())  # the moments, (R, n, n)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 - the signature is torch's
        """Truncate the gradients, if asked for, and take Adam's step."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        # All entries of a replicate in one matrix, for the moments as for the truncation.
        gradient = to_square([weight.grad for weight in weights], 1, torch.float32)
        if self._rank is not None:
            gradient = truncated_each(gradient, self._rank)
        if self._steps == 0:
            self._mean, self._square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self._steps += 1
        self._mean.lerp_(gradient, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        update = sqrt(self._square / (1 - BETA2**self._steps)).add_(EPS).reciprocal_()
        update *= self._mean
        update *= (self._lr / (1 - BETA1**self._steps))[:, None, None]
        for weight, part in zip(weights, from_square(update, weights, 1), strict=True):
            weight.sub_(part)


def truncated_each(matrix: Tensor, rank: Tensor) -> Tensor:
    """Best approximations of matrices (R, n, n), each of a rank of its own, (R,)."""
    highest = min(int(rank.max()), matrix.shape[-1])
    kept = torch.arange(highest) >= highest - rank[:, None]
    basis = spectrum(matrix)[1][..., -highest:] * kept[:, None, :]
    return projected(matrix, basis)


def create(
    weights: Weights, *, lr: Sequence[float], rank: Sequence[int] | None = None
) -> torch.optim.Optimizer:
    """Adam, or with `rank` LRG-Adam, where replicate r has lr[r] and rank[r]."""
    return PerReplicateAdam(weights, lr=lr, rank=rank)
