"""A control: a random subspace in place of the top one."""

import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, projected
from experiment.optimizers import Weights
from experiment.randomness import stream


class RandomSubspace:
    """Project onto `rank` random directions, other ones for each step and replicate.

    The same form as the best approximation, (G V) V^T, with a V that knows nothing of G.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._generator = torch.Generator()
        self._generator.manual_seed(int(stream(0, "random subspace").integers(2**63)))

    def __call__(self, matrix: Tensor) -> Tensor:
        """Filter the gradient matrices (R, n, n)."""
        shape = (*matrix.shape[:-1], self._rank)
        drawn = torch.randn(shape, generator=self._generator, dtype=matrix.dtype)
        basis = torch.linalg.qr(drawn.to(matrix.device)).Q
        return projected(matrix, basis)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """Adam on a projection of each gradient onto `rank` random directions."""
    return FilteredAdam(weights, lr=lr, gradient_filter=RandomSubspace(rank))
