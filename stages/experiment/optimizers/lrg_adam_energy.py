"""A control: as much energy at every step instead of as many singular values."""

from functools import partial

import torch
from torch import Tensor

from experiment.filtered_adam import FilteredAdam, projected, spectrum
from experiment.optimizers import Weights


def keep_energy(matrix: Tensor, energy: float) -> Tensor:
    """Truncate each gradient matrix (R, n, n) to the lowest rank that keeps a share of its energy.

    Energy is the squared Frobenius norm.
    """
    values, vectors = spectrum(matrix)
    values = values.clamp(min=0).flip(-1)
    kept = values.cumsum(-1)
    # A direction is needed where those before it do not hold the share yet.
    needed = (kept - values < energy * kept[..., -1:]).flip(-1)
    basis = vectors * needed[..., None, :]
    return projected(matrix, basis)


def create(weights: Weights, *, lr: float, energy: float) -> torch.optim.Optimizer:
    """LRG-Adam that keeps the share `energy` of each gradient's energy."""
    if not 0 < energy <= 1:
        raise ValueError(f"Invalid energy: {energy}, it is a share of the whole")
    return FilteredAdam(weights, lr=lr, gradient_filter=partial(keep_energy, energy=energy))
