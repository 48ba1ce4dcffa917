"""Addition modulo 31, the task on which networks grok (Power et al., 2022).

A network first memorises the training pairs, and long after that learns to add.
"""

from __future__ import annotations

import numpy as np

from experiment.stage.data import Dataset, Split

TITLE = "addition modulo 31"
MODULUS = 31
# Numbers of training and of validation pairs of the 961; the others are for testing.
TRAIN, VALIDATION = 576, 192


def load(*, rng: np.random.Generator) -> Dataset:
    """All pairs x = (a, b), in random order and so divided at random; y = (a + b) mod 31."""
    a, b = np.divmod(rng.permutation(MODULUS**2), MODULUS)
    x, y = np.stack([a, b], axis=1).astype(np.float32), (a + b) % MODULUS
    cuts = [TRAIN, TRAIN + VALIDATION]
    return Dataset(*map(Split, np.split(x, cuts), np.split(y, cuts)))
