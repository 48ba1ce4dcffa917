"""A control: a random subspace in place of the top one."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, projected, streams
from experiment.optimizers import Weights


class RandomSubspace:
    """Project onto `rank` random directions, other ones for each step and replicate.

    The same form as the best approximation, (G V) V^T, with a V that knows nothing of G.
    """

    def __init__(self, rank: int, draw_from: Sequence[np.random.Generator]) -> None:
        self._rank = rank
        self._streams = draw_from

    def __call__(self, matrix: Tensor) -> Tensor:
        """Filter the gradient matrices (R, n, n), one for each stream."""
        shape = (matrix.shape[-1], self._rank)
        drawn = np.stack([one.standard_normal(shape, np.float32) for one in self._streams])
        basis = torch.linalg.qr(torch.from_numpy(drawn).to(matrix.device)).Q
        return projected(matrix, basis)


def create(weights: Weights, *, lr: float, rank: int) -> torch.optim.Optimizer:
    """Adam on a projection of each gradient onto `rank` random directions."""
    weights = list(weights)
    subspace = RandomSubspace(rank, streams(weights[0], "random subspace"))
    return FilteredAdam(weights, lr=lr, gradient_filter=subspace)
