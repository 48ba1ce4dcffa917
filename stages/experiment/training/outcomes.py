"""The outcomes of each replicate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TEST_SCORES = ("test_loss_nats", "test_accuracy_share")


def outcomes(curves: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One row per replicate: its scores at the end, and its best epoch on the validation set.

    Args:
        curves: train and validation losses (R, epochs + 1), and test scores (R,), if any.

    """
    validation = curves["validation_loss_nats"]
    table = pd.DataFrame(
        {
            "replicate": np.arange(len(validation)),
            "train_loss_nats": curves["train_loss_nats"][:, -1],
            "validation_loss_nats": validation[:, -1],
            "best_validation_loss_nats": validation.min(axis=1),
            "best_epoch": validation.argmin(axis=1),
        }
    )
    return table.assign(**{name: curves[name] for name in TEST_SCORES if name in curves})
