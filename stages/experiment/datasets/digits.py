"""The 1797 scanned digits of 8 x 8 pixels that scikit-learn ships (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiment.stage.data import Dataset, Split

TITLE = "digits"
# Numbers of validation and of test samples; the others are for training.
VALIDATION = TEST = 360


def load(*, rng: np.random.Generator) -> Dataset:
    """A stratified split, standardised with the statistics of the training samples.

    Pixels that are constant over the training samples are centred but not scaled.
    """
    x, y = load_digits(return_X_y=True)
    seeds = rng.integers(2**32, size=2).tolist()
    x, x_test, y, y_test = train_test_split(x, y, test_size=TEST, stratify=y, random_state=seeds[0])
    x, x_validation, y, y_validation = train_test_split(
        x, y, test_size=VALIDATION, stratify=y, random_state=seeds[1]
    )
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1
    parts = ((x, y), (x_validation, y_validation), (x_test, y_test))
    return Dataset(
        *(
            Split(((part - mean) / deviation).astype(np.float32), labels.astype(np.int64))
            for part, labels in parts
        )
    )
