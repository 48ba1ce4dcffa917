"""MNIST-1D as published, and the form in which the stages read it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from experiment import files
from experiment.errors import UserError
from experiment.params import LENGTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from experiment.params import Data

DATA_FILE = Path("data/mnist1d.npz")

# SHA-256 of the published arrays' bytes (mnist1d_data.pkl of github.com/greydanus/mnist1d),
# samples as float32, labels as int64.
PUBLISHED = {
    "x": "d53506bddd12d3b72c7153b1ae7f34807724b1dd078a7273809bf9d0792319f6",
    "y": "d97dc7aecec8ad6b5d8f143ba3e9c4bd7e25c420d7dfc2eb990591cfc0ed3e15",
    "x_test": "30addc43827c82aafa5db8bc97cea63349ca687e87db2f201cc4f5415d9a4ebd",
    "y_test": "8de99be3ff9dab15ae0dc072c3d6ced7cf6b33d365888ce4a386fc944489452c",
}


# The order that mnist1d's own `shuffle_seq` gives the published pixels: place i holds pixel
# PIXEL_ORDER[i]. It destroys what a convolution looks for, and means nothing to a dense layer.
# fmt: off
PIXEL_ORDER = (
    19, 22, 4, 32, 17, 18, 28, 31, 11, 24, 23, 7, 25, 35, 34, 6, 3, 13, 12, 26,
    1, 27, 20, 10, 36, 9, 37, 29, 8, 30, 5, 38, 16, 15, 33, 39, 14, 21, 0, 2,
)
# fmt: on


class Split(NamedTuple):
    """Samples x (n, 40) float32 and their classes y (n,) int64."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


class Dataset(NamedTuple):
    """The three parts of the data; `test` is for the final training alone."""

    train: Split
    validation: Split
    test: Split

    @classmethod
    def read(cls, path: Path = DATA_FILE) -> Self:
        """Read the file that the stage fetch_data writes; a damaged one raises UserError."""
        arrays = files.read_arrays(path)
        try:
            read = cls(*(Split(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in cls._fields))
        except KeyError as missing:
            raise UserError(f"{path}: no array {missing}; `dvc repro -f fetch_data`") from None
        for part, (x, y) in read._asdict().items():
            if (x.shape, x.dtype, y.dtype) != ((len(y), LENGTH), np.float32, np.int64):
                raise UserError(f"{path}: x_{part}, y_{part} damaged; `dvc repro -f fetch_data`")
        return read

    def write(self, path: Path = DATA_FILE) -> None:
        """Write the arrays x_train, y_train, x_validation, y_validation, x_test, y_test."""
        arrays = {
            f"{axis}_{part}": getattr(split, axis)
            for part, split in self._asdict().items()
            for axis in Split._fields
        }
        files.write_arrays(path, arrays)


def published() -> dict[str, NDArray[Any]]:
    """Generate MNIST-1D offline: x (4000, 40), y (4000,), x_test (1000, 40), y_test (1000,).

    Raises:
        UserError: the arrays are not the published ones to the bit, as after a change in
            mnist1d, NumPy or SciPy.

    """
    # Imported here: it loads Matplotlib, which no other stage that reads data needs.
    from mnist1d.data import get_dataset_args, make_dataset

    generated = make_dataset(get_dataset_args())
    arrays = {
        name: np.ascontiguousarray(generated[name], dtype=np.float32 if "x" in name else np.int64)
        for name in PUBLISHED
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
    """New samples from the same generator as the published ones, about `samples` of them.

    They have mean 0 and standard deviation 1 over all samples, as the published ones have.
    """
    return _generated(num_samples=samples, train_split=1.0, seed=seed)[0]


def offline(samples: int) -> tuple[Split, Split]:
    """What `mnist1d.get_dataset` makes of `num_samples` when its download fails, in silence.

    Four fifths of the samples to train on, the others to test on; neither are published rows.
    """
    return _generated(num_samples=samples)


def _generated(**changes: float) -> tuple[Split, Split]:
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    vars(args).update(changes)
    made = make_dataset(args)
    train, test = (
        Split(np.ascontiguousarray(made[x], dtype=np.float32), made[y].astype(np.int64))
        for x, y in (("x", "y"), ("x_test", "y_test"))
    )
    return train, test


def shuffled(dataset: Dataset) -> Dataset:
    """The same samples with their pixels in another order, the one that mnist1d publishes."""
    order = list(PIXEL_ORDER)
    return Dataset(*(Split(np.ascontiguousarray(s.x[:, order]), s.y) for s in dataset))


def split(arrays: dict[str, NDArray[Any]], sizes: Data) -> Dataset:
    """Cut the published arrays: first the training rows, next the validation rows."""
    train = slice(0, sizes.train)
    validation = slice(sizes.train, sizes.train + sizes.validation)
    x, y = arrays["x"], arrays["y"]
    dataset = Dataset(
        train=Split(x[train], y[train]),
        validation=Split(x[validation], y[validation]),
        test=Split(arrays["x_test"], arrays["y_test"]),
    )
    return shuffled(dataset) if sizes.shuffle else dataset
