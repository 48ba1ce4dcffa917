"""The data of every stage: three parts, each with samples and their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from experiment.stage import files, plugins
from experiment.stage.errors import UserError
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
        path = data_file(name)
        names = [f"{axis}_{part}" for part in cls._fields for axis in Split._fields]
        x_and_y = iter(_arrays(path, *names))
        read = cls(*map(Split, x_and_y, x_and_y))
        _check(read, f"{path}: ")
        return read

    def write(self, name: str, title: str) -> None:
        """Write the arrays x_train, y_train and so on, and the title for figures."""
        arrays: dict[str, NDArray[Any]] = {
            f"{axis}_{part}": getattr(split, axis)
            for part, split in self._asdict().items()
            for axis in Split._fields
        }
        files.write_arrays(data_file(name), arrays | {"title": np.array(title)})


def data_file(name: str) -> Path:
    """The file of the data set `name`."""
    return Path(f"data/{name}.npz")


def title(name: str) -> str:
    """The title of the data set in figures; its samples are not read."""
    return str(files.read_arrays(data_file(name), "title")["title"])


def _arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    arrays = files.read_arrays(path)
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path}: no array {missing[0]!r}; `dvc repro -f fetch_data`")
    return [arrays[name] for name in names]


def load(given: Data, seed: int, where: str = "params.yaml: data") -> tuple[Dataset, str]:
    """Load the data with a module of `experiment.datasets`, and flip labels if asked to.

    Args:
        given: the name of the module, its options, and the share of training labels to flip.
        seed: root of the random streams; the module gets one as `rng` if it takes it.
        where: where the name and the options are set, for messages.

    Returns:
        The data, and their title in figures: the module's `TITLE`, or else its name.

    Raises:
        UserError: there is no such module, it does not take the options, or its samples are not
            as `Split` describes them.

    """
    module = plugins.module("datasets", given.name, f"{where}.name")
    create = plugins.function("datasets", given.name, module)
    arguments = plugins.arguments(
        create,
        given.options,
        Data.model_fields,
        where,
        rng=stream(seed, "data", given.name),
    )
    try:
        dataset = create(**arguments)
    except (ImportError, ValueError) as error:
        if plugins.while_importing(error):
            raise plugins.not_loaded("datasets", given.name, error) from None
        raise UserError(f"{where}: {given.name} rejected its options: {error}") from None
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
    if not (isinstance(dataset, Dataset) and all(isinstance(part, Split) for part in dataset)):
        raise UserError(
            f"{where}load returns {type(dataset).__name__}; allowed: a Dataset of Splits"
        )
    for part, (x, y) in zip(Dataset._fields, dataset, strict=True):
        for name, array, dtype, axes in (
            (f"x_{part}", x, "float32", 2),
            (f"y_{part}", y, "int64", 1),
        ):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != axes:
                found = getattr(array, "dtype", type(array).__name__)
                raise UserError(
                    f"{where}{name} is {found} of shape {np.shape(array)}; allowed: {dtype} with "
                    f"{'a row per sample' if axes == 2 else 'a class per sample'}"
                )
        if len(x) != len(y) or len(y) == 0:
            raise UserError(
                f"{where}x_{part} has {len(x)} rows and y_{part} has {len(y)}; "
                "allowed: the same number, at least 1"
            )
        if x.shape[1] != dataset[0].x.shape[1]:
            raise UserError(
                f"{where}x_{part} has {x.shape[1]} columns; allowed: as x_train, "
                f"{dataset[0].x.shape[1]}"
            )
        if not np.isfinite(x).all():
            raise UserError(f"{where}x_{part} is not finite; allowed: finite numbers")
    known = np.unique(dataset[0].y)
    if len(known) < 2 or not np.array_equal(known, np.arange(len(known))):
        raise UserError(
            f"{where}y_train holds the classes {_few(known)}; allowed: 0 to C - 1, each of at "
            "least 2 classes in the training samples"
        )
    for part, split in zip(Dataset._fields, dataset, strict=True):
        if unknown := sorted(set(split.y.tolist()) - set(known.tolist())):
            raise UserError(
                f"{where}y_{part} holds the classes {_few(np.array(unknown))}; allowed: those of "
                f"y_train, 0 to {len(known) - 1}"
            )


def _few(values: NDArray[Any]) -> str:
    return ", ".join(map(str, values[:10])) + (" ..." if len(values) > 10 else "")
