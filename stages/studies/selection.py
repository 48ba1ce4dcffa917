"""Which learning rate of a grid the few seeds of a tuning show to be the best."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def best(losses: ArrayLike) -> int:
    """Index of the best of neighbouring learning rates.

    Of a few seeds the lowest mean may be low by luck, and its neighbours tell: losses change little
    from one learning rate to the next, their errors more. So each loss counts with its two
    neighbours' as 2 : 1 : 1. One without two finite neighbours counts alone.

    Args:
        losses: mean loss for each learning rate, in their order; not finite where it diverged.

    Raises:
        ValueError: all of them diverged.

    """
    loss = np.asarray(losses, dtype=np.float64)
    loss = np.where(np.isfinite(loss), loss, np.nan)
    padded = np.pad(loss, 1, constant_values=np.nan)
    smooth = (padded[:-2] + 2 * loss + padded[2:]) / 4
    return int(np.nanargmin(np.where(np.isnan(smooth), loss, smooth)))
