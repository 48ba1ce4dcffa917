"""What is kept of each replicate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def outcomes(curves: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """A row a replicate: where its training ended, and its best epoch on the validation set."""
    validation = curves["validation_loss"]
    return pd.DataFrame(
        {
            "replicate": np.arange(len(validation)),
            "train_loss": curves["train_loss"][:, -1],
            "validation_loss": validation[:, -1],
            "best_validation_loss": validation.min(axis=1),
            "best_epoch": validation.argmin(axis=1),
            "test_loss": curves["test_loss"],
            "test_accuracy": curves["test_accuracy"],
        }
    )
