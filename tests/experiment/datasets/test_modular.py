"""Modular addition: every pair once, and its sum."""

from __future__ import annotations

import numpy as np

from experiment.datasets import modular


def test_every_pair_is_in_one_part_with_its_sum() -> None:
    dataset = modular.load(rng=np.random.default_rng(0))
    other = modular.load(rng=np.random.default_rng(1))

    pairs = np.concatenate([split.x for split in dataset]).astype(int)
    assert sorted(map(tuple, pairs.tolist())) == [(a, b) for a in range(31) for b in range(31)]
    for x, y in dataset:
        assert np.array_equal(y, x.sum(1) % 31)
    assert not np.array_equal(dataset.train.x, other.train.x)
