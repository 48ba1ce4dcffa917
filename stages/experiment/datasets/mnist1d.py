"""MNIST-1D (Greydanus, 2020), generated offline, bit for bit as published."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError

TITLE = "MNIST-1D"

# SHA-256 of the published arrays' bytes (mnist1d_data.pkl of github.com/greydanus/mnist1d),
# samples as float32, labels as int64.
PUBLISHED = {
    "x": "d53506bddd12d3b72c7153b1ae7f34807724b1dd078a7273809bf9d0792319f6",
    "y": "d97dc7aecec8ad6b5d8f143ba3e9c4bd7e25c420d7dfc2eb990591cfc0ed3e15",
    "x_test": "30addc43827c82aafa5db8bc97cea63349ca687e87db2f201cc4f5415d9a4ebd",
    "y_test": "8de99be3ff9dab15ae0dc072c3d6ced7cf6b33d365888ce4a386fc944489452c",
}

# The pixel order of mnist1d's own `shuffle_seq`: position i holds pixel PIXEL_ORDER[i]. It destroys
# the locality that a convolution exploits and makes no difference to a dense layer.
# fmt: off
PIXEL_ORDER = (
    19, 22, 4, 32, 17, 18, 28, 31, 11, 24, 23, 7, 25, 35, 34, 6, 3, 13, 12, 26,
    1, 27, 20, 10, 36, 9, 37, 29, 8, 30, 5, 38, 16, 15, 33, 39, 14, 21, 0, 2,
)
# fmt: on


def load(
    *, train: int, validation: int, shuffle: bool, rng: np.random.Generator, fresh_test: int = 0
) -> Dataset:
    """The first `train` published rows, the next `validation` rows, and the test rows.

    Args:
        train: number of training rows.
        validation: number of validation rows.
        shuffle: put the pixels in the order PIXEL_ORDER.
        rng: seeds the fresh test rows; nothing else depends on it.
        fresh_test: 0 tests on the 1000 published rows, n on n newly generated ones.

    Raises:
        ValueError: `train` + `validation` exceeds the 4000 published training rows, or `fresh_test`
            is not a whole number from 0 to 1,000,000.

    """
    if type(fresh_test) is not int or not 0 <= fresh_test <= 1_000_000:
        raise ValueError(
            f"data.fresh_test = {fresh_test!r}; allowed: a whole number from 0 to 1000000"
        )
    arrays = published()
    x, y = arrays["x"], arrays["y"]
    if train + validation > len(y):
        raise ValueError(
            f"data.train = {train} and data.validation = {validation}; allowed: together at most "
            f"{len(y)}, the published training rows"
        )
    dataset = Dataset(
        train=Split(x[:train], y[:train]),
        validation=Split(x[train : train + validation], y[train : train + validation]),
        test=fresh(fresh_test, int(rng.integers(2**31)))
        if fresh_test
        else Split(arrays["x_test"], arrays["y_test"]),
    )
    return Dataset(*map(shuffled, dataset)) if shuffle else dataset


def published() -> dict[str, NDArray[Any]]:
    """Generate MNIST-1D offline: x (4000, 40), y (4000,), x_test (1000, 40), y_test (1000,).

    Raises:
        UserError: the arrays differ from the published ones, for example after a change in
            mnist1d, NumPy or SciPy.

    """
    train, test = _generated()
    arrays: dict[str, NDArray[Any]] = {
        "x": train.x,
        "y": train.y,
        "x_test": test.x,
        "y_test": test.y,
    }
    for name, array in arrays.items():
        found = hashlib.sha256(array.tobytes()).hexdigest()
        if found != PUBLISHED[name]:
            raise UserError(
                f"mnist1d generates an array {name} with SHA-256 {found}, "
                f"not the published {PUBLISHED[name]}; install the versions in constraints.txt"
            )
    return arrays


def fresh(samples: int, seed: int) -> Split:
    """New samples from the generator of the published ones.

    Like the published ones, they have mean 0 and standard deviation 1 over all samples.
    """
    every_class_alike = -(-samples // 10) * 10
    made, _ = _generated(num_samples=every_class_alike, train_split=1.0, seed=seed)
    return Split(made.x[:samples], made.y[:samples])


def offline(samples: int) -> tuple[Split, Split]:
    """The samples that `mnist1d.get_dataset` silently generates when its download fails.

    Four fifths are training samples, the others test samples; none are published rows.
    """
    return _generated(num_samples=samples)


def shuffled(split: Split) -> Split:
    """The same samples with their pixels in the order PIXEL_ORDER."""
    return Split(np.ascontiguousarray(split.x[:, list(PIXEL_ORDER)]), split.y)


@cache
def _generated(**changes: float) -> tuple[Split, Split]:
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
