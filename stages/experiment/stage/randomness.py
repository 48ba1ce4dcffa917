"""Independent random streams, each derived from the root seed and a name."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """The random generator of `name` under the root `seed`.

    Streams with different names are independent, and none depends on draws from the others, so
    work can be split, repeated or resumed without changing its numbers
    (`numpy.random.SeedSequence`, https://numpy.org/doc/stable/reference/random/parallel.html).
    """
    key = [part if isinstance(part, int) else crc32(part.encode()) for part in name]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
