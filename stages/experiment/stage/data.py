"""The data of every stage: three parts, each with samples and their classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from experiment.stage import files, plugins
from experiment.stage.errors import UserError, reason
from experiment.stage.params import Data
from experiment.stage.randomness import stream


class Split(NamedTuple):
    """Samples x (n, inputs) float32 and their classes y (n,) int64, numbered from 0."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    @property
    def inputs(self) -> int:
        """Number of features."""
        return self.x.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes; each occurs in the training samples."""
        return int(self.y.max()) + 1


class Dataset(NamedTuple):
    """The three parts of the data; `test` is used only to score the final training."""

    train: Split
    validation: Split
    test: Split

    @classmethod
    def read(cls, name: str) -> Self:
        """Read the file that the stage fetch_data writes; a damaged one raises UserError."""
        x_and_y = iter(files.read_arrays(data_file(name), *ARRAYS))
        return cls(*map(Split, x_and_y, x_and_y))

    def write(self, name: str, title: str) -> None:
        """Write the arrays x_train, y_train and so on, and the title for figures."""
        arrays = [array for split in self for array in split]
        named = zip([*ARRAYS, "title"], [*arrays, np.array(title)], strict=True)
        files.write_arrays(data_file(name), dict(named))


ARRAYS = [f"{axis}_{part}" for part in Dataset._fields for axis in Split._fields]


def data_file(name: str) -> Path:
    """The file of the data set `name`."""
    return Path(f"data/{name}.npz")


def title(name: str) -> str:
    """The title of the data set in figures."""
    (found,) = files.read_arrays(data_file(name), "title")
    return str(found)


def load(given: Data, seed: int, where: str = "params.yaml: data") -> tuple[Dataset, str]:
    """Load the data with a module of `experiment.datasets`, and flip labels if asked to.

    The module gets a random stream as `rng` if it takes one. Messages name the section `where`.

    Returns:
        The data, and their title in figures: the module's `TITLE`, or else its name.

    Raises:
        UserError: the module is missing, fails, or returns what `Split` does not describe.

    """
    module = plugins.module("datasets", given.name, f"{where}.name")
    rng = stream(seed, "data", given.name)
    options = plugins.arguments(module.load, given.options, Data.model_fields, where, rng=rng)
    try:
        dataset = module.load(**options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {given.name} cannot be loaded: {reason(error)}") from None
    _check(dataset, f"stages/experiment/datasets/{given.name}.py: ")
    if given.flipped:
        labels = stream(seed, "data", "flipped labels")
        dataset = dataset._replace(train=flipped(dataset.train, given.flipped, labels))
        _check(dataset, f"{where}.flipped = {given.flipped}: ")
    return dataset, getattr(module, "TITLE", given.name)


def flipped(split: Split, share: float, rng: np.random.Generator) -> Split:
    """The same samples, with a share of them moved to another class, chosen uniformly.

    A smaller share flips a subset of the labels that a larger one flips, to the same classes.
    """
    chosen = rng.permutation(len(split.y))[: round(share * len(split.y))]
    shifts = rng.integers(1, split.classes, len(split.y))
    y = split.y.copy()
    y[chosen] = (y[chosen] + shifts[chosen]) % split.classes
    return Split(split.x, y)


def _check(dataset: Dataset, where: str) -> None:
    """Raise UserError for the first part with a wrong type, shape or class."""

    def refuse(found: str, allowed: str) -> NoReturn:
        raise UserError(f"{where}{found}; allowed: {allowed}")

    if not (isinstance(dataset, Dataset) and all(isinstance(part, Split) for part in dataset)):
        refuse(f"load returns {type(dataset).__name__}", "a Dataset of Splits")
    for part, (x, y) in zip(Dataset._fields, dataset, strict=True):
        for name, array, dtype, axes, of in (
            (f"x_{part}", x, "float32", 2, "a row per sample"),
            (f"y_{part}", y, "int64", 1, "a class per sample"),
        ):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != axes:
                found = getattr(array, "dtype", type(array).__name__)
                refuse(f"{name} is {found} of shape {np.shape(array)}", f"{dtype} with {of}")
        columns, classes = dataset.train.inputs, np.arange(len(np.unique(dataset.train.y)))
        if len(x) != len(y) or len(y) == 0:
            found = f"x_{part} has {len(x)} rows and y_{part} has {len(y)}"
            refuse(found, "the same number, at least 1")
        infinite = np.count_nonzero(~np.isfinite(x))
        if x.shape[1] != columns or infinite:
            found = f"{x.shape[1]} columns and {infinite} entries that are not finite"
            refuse(f"x_{part} has {found}", f"{columns} columns of finite numbers, as in x_train")
        if len(classes) < 2 or not np.isin(y, classes).all():
            found = f"y_{part} holds the classes {np.unique(y)[:10].tolist()}"
            refuse(found, "0 to C - 1, each of at least 2 classes in the training samples")
