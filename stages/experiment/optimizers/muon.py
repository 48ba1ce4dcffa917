"""Muon on matrices, Adam on all other weights (Jordan et al., 2024)."""

from collections.abc import Iterable

import torch
from torch import Tensor


def create(params: Iterable[Tensor], *, lr: float) -> list[torch.optim.Optimizer]:
    """Torch's defaults, except that Muon's updates are scaled to the size of Adam's."""
    params = list(params)
    matrices = [p for p in params if p.ndim == 2]
    rest = [p for p in params if p.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(rest, lr=lr),
    ]
