"""MNIST-1D (Greydanus, 2020), generated offline, bit for bit as published."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError

TITLE = "MNIST-1D"

# SHA-256 of the published x, y, x_test and y_test, one after the other (mnist1d_data.pkl of
# github.com/greydanus/mnist1d), samples as float32, labels as int64.
PUBLISHED = "b09ad3e22c854bc5a1948b85c373aab653ceb38c9170f5ed05b7d054e4160db9"

# The pixel order of mnist1d's own `shuffle_seq`: position i holds pixel PIXEL_ORDER[i]. It destroys
# the locality that a convolution exploits and makes no difference to a dense layer.
# fmt: off
PIXEL_ORDER = [
    19, 22, 4, 32, 17, 18, 28, 31, 11, 24, 23, 7, 25, 35, 34, 6, 3, 13, 12, 26,
    1, 27, 20, 10, 36, 9, 37, 29, 8, 30, 5, 38, 16, 15, 33, 39, 14, 21, 0, 2,
]
# fmt: on


def load(
    *, train: int, validation: int, shuffle: bool, rng: np.random.Generator, fresh_test: int = 0
) -> Dataset:
    """The first `train` published rows, the next `validation` rows, and the test rows.

    `shuffle` puts the pixels in the order PIXEL_ORDER. The test rows are the 1000 published ones,
    or if `fresh_test` is above 0, that many new ones; nothing else depends on `rng`.

    Raises:
        ValueError: `train` + `validation` exceeds the 4000 published training rows, or `fresh_test`
            is not a whole number from 0 to 1,000,000.

    """
    if type(fresh_test) is not int or not 0 <= fresh_test <= 1_000_000:
        raise ValueError(
            f"data.fresh_test = {fresh_test!r}; allowed: a whole number from 0 to 1000000"
        )
    rows, test = published()
    if train + validation > len(rows.y):
        raise ValueError(
            f"data.train = {train} and data.validation = {validation}; allowed: together at most "
            f"{len(rows.y)}, the published training rows"
        )
    if fresh_test:
        test = fresh(fresh_test, int(rng.integers(2**31)))
    first, after = slice(train), slice(train, train + validation)
    parts = Split(rows.x[first], rows.y[first]), Split(rows.x[after], rows.y[after]), test
    return Dataset(*map(shuffled, parts) if shuffle else parts)


def published() -> tuple[Split, Split]:
    """Generate MNIST-1D offline: 4000 training rows of 40 pixels, and 1000 test rows.

    Raises:
        UserError: they differ from the published ones, for example after a change in mnist1d,
            NumPy or SciPy.

    """
    train, test = generated()
    found = hashlib.sha256(b"".join(array.tobytes() for array in (*train, *test))).hexdigest()
    if found != PUBLISHED:
        raise UserError(
            f"mnist1d generates arrays with SHA-256 {found}, not the published {PUBLISHED}; "
            "install the versions in constraints.txt"
        )
    return train, test


def fresh(samples: int, seed: int) -> Split:
    """New samples from the generator of the published ones.

    Like the published ones, they have mean 0 and standard deviation 1 over all samples.
    """
    every_class_alike = -(-samples // 10) * 10
    made, _ = generated(num_samples=every_class_alike, train_split=1.0, seed=seed)
    return Split(made.x[:samples], made.y[:samples])


def shuffled(split: Split) -> Split:
    """The same samples with their pixels in the order PIXEL_ORDER."""
    return Split(np.ascontiguousarray(split.x[:, PIXEL_ORDER]), split.y)


@cache
def generated(**changes: float) -> tuple[Split, Split]:
    """Training and test samples that mnist1d makes with these changes of its arguments.

    With `num_samples` alone, they are those that its `get_dataset` silently generates when its
    download fails: none of them are published rows.
    """
    # Imported here because it loads Matplotlib, which stages that only read data do not need.
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    vars(args).update(changes)
    made = make_dataset(args)
    train, test = (
        Split(np.ascontiguousarray(made[x], dtype=np.float32), made[y].astype(np.int64))
        for x, y in (("x", "y"), ("x_test", "y_test"))
    )
    return train, test
