"""Data sets as modules: the digits, and what a module may not return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiment.stage import data, plugins
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError
from experiment.stage.params import Data


def given(name: str, **options: object) -> Data:
    return Data.model_validate(
        {"name": name, "train": 20, "validation": 10, "shuffle": False, "flipped": 0} | options
    )


# The digits


@pytest.fixture(scope="module")
def split() -> Dataset:
    return data.load(given("digits"), seed=0)[0]


def test_the_digits_are_three_parts(split: Dataset) -> None:
    assert [part.x.shape for part in split] == [(1077, 64), (360, 64), (360, 64)]
    for x, y in split:
        assert (x.dtype, y.dtype, y.shape) == (np.float32, np.int64, (len(x),))
        assert np.isfinite(x).all()
    assert (split.train.inputs, split.train.classes) == (64, 10)
    assert data.load(given("digits"), seed=0)[1] == "digits"


def test_the_digits_are_standardised_on_the_training_part(split: Dataset) -> None:
    mean, deviation = split.train.x.mean(0, np.float64), split.train.x.std(0, dtype=np.float64)
    constant = deviation == 0
    assert np.abs(mean).max() < 1e-6
    assert np.abs(deviation[~constant] - 1).max() < 1e-6
    assert 0 < constant.sum() < 10
    assert (split.train.x[:, constant] == 0).all()
    for part in (split.validation, split.test):  # by the same numbers, not by their own
        assert np.abs(part.x.mean(0)).max() > 0.01
        assert np.abs(part.x.std(0)[~constant] - 1).max() > 0.01


def test_every_digit_is_in_one_part(split: Dataset) -> None:
    pixels, labels = load_digits(return_X_y=True)
    x, y = np.concatenate([part.x for part in split]), np.concatenate([part.y for part in split])
    # Undo what was done to each pixel, by its extremes: all samples are there if any of it is so.
    span = np.ptp(x, axis=0)
    unit = np.ptp(pixels, axis=0) / np.where(span == 0, 1, span)
    undone = (x - x.min(0)) * unit + pixels.min(0)
    assert np.abs(undone - np.rint(undone)).max() < 1e-4

    found, expected = (
        Counter(
            (image.tobytes(), label)
            for image, label in zip(images.astype(int), classes, strict=True)
        )
        for images, classes in ((np.rint(undone), y.tolist()), (pixels, labels.tolist()))
    )
    assert found == expected
    assert set(expected.values()) == {1}  # so that no image could be in two parts unseen


def test_the_seed_decides_the_split() -> None:
    contents = [
        b"".join(array.tobytes() for part in data.load(given("digits"), seed)[0] for array in part)
        for seed in (0, 0, 1)
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


# What a module may return


def rows(count: int = 20, inputs: int = 5, classes: int = 3) -> Split:
    rng = np.random.default_rng(count)
    return Split(rng.standard_normal((count, inputs), np.float32), np.arange(count) % classes)


GOOD = Dataset(rows(20), rows(10), rows(8))


def loaded(load: Callable[..., object], monkeypatch: pytest.MonkeyPatch, **more: object) -> object:
    monkeypatch.setattr(plugins, "module", lambda *_: SimpleNamespace(load=load, **more))
    return data.load(given("brought", extra=7), seed=3)


def test_a_module_gets_what_it_takes_and_names_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def load(train: int, extra: int, *, rng: np.random.Generator) -> Dataset:
        seen.update(train=train, extra=extra, drawn=rng.integers(2**32))
        return GOOD

    assert loaded(load, monkeypatch, TITLE="Brought data") == (GOOD, "Brought data")
    first = dict(seen)
    assert loaded(load, monkeypatch) == (GOOD, "brought")
    assert seen == first
    assert (seen["train"], seen["extra"]) == (20, 7)


@pytest.mark.parametrize(
    "error", [ValueError("data.extra = 7; allowed: at most 6"), ImportError("no such kernel")]
)
def test_a_module_that_fails_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(extra: int) -> Dataset:  # noqa: ARG001
        raise error

    with pytest.raises(UserError) as failed:
        loaded(load, monkeypatch)

    expected = f"params.yaml: data: brought cannot be loaded: {type(error).__name__}: {error}"
    assert str(failed.value) == expected


# Wrong labels

SHARES = (0.1, 0.25, 0.5, 0.999)


def flipped_by(share: float, seed: int = 0, name: str = "digits") -> Dataset:
    return data.load(given(name, train=1000, flipped=share), seed)[0]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ["digits", "mnist1d"])
def test_a_share_of_the_training_labels_is_wrong_and_nothing_else(name: str, share: float) -> None:
    right, found = (flipped_by(one, name=name) for one in (0, share))
    assert (found.train.y != right.train.y).sum() == round(share * len(right.train.y))
    assert found.train.y.dtype == np.int64
    assert set(found.train.y) <= set(range(10))
    assert np.array_equal(found.train.x, right.train.x)
    for one, other in zip(found[1:], right[1:], strict=True):
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.y, other.y)


def test_every_other_class_is_as_likely() -> None:
    right = Split(np.zeros((30_000, 1), np.float32), np.arange(30_000) % 3)
    found = data.flipped(right, 0.5, np.random.default_rng(0))
    pairs = np.bincount(3 * right.y + found.y, minlength=9).reshape(3, 3)
    np.testing.assert_allclose(pairs / 10_000, np.full((3, 3), 0.25) + 0.25 * np.eye(3), atol=0.02)


def test_a_smaller_share_is_flipped_in_a_larger_one_in_the_same_way() -> None:
    right = flipped_by(0).train.y
    for small, large in pairwise(SHARES):
        few, many = (flipped_by(share).train.y for share in (small, large))
        assert np.array_equal(few[few != right], many[few != right])


def test_the_seed_decides_which_labels_are_wrong() -> None:
    # MNIST-1D itself is the same for every seed.
    one, again, other = (flipped_by(0.25, seed, "mnist1d").train.y for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_labels_of_which_a_class_is_gone_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Split(rows(2).x, np.arange(2))
    monkeypatch.setattr(
        plugins, "module", lambda *_: SimpleNamespace(load=lambda: Dataset(pair, pair, pair))
    )
    with pytest.raises(UserError) as refused:
        flipped_by(0.5, name="brought")
    (line,) = str(refused.value).splitlines()
    assert line.startswith("params.yaml: data.flipped = 0.5: y_train holds the classes ")
    assert "; allowed: " in line


def nan(split: Split) -> Split:
    x = split.x.copy()
    x[4, 2] = np.nan
    return split._replace(x=x)


TRAIN, VALIDATION, TEST = GOOD
UNFIT = {
    "float64": (
        GOOD._replace(train=TRAIN._replace(x=TRAIN.x.astype(np.float64))),
        "x_train is float64 of shape (20, 5); allowed: float32 with a row per sample",
    ),
    "a list": (
        GOOD._replace(validation=VALIDATION._replace(y=VALIDATION.y.tolist())),
        "y_validation is list of shape (10,); allowed: int64 with a class per sample",
    ),
    "one-hot labels": (
        GOOD._replace(train=TRAIN._replace(y=np.eye(3, dtype=np.int64)[TRAIN.y])),
        "y_train is int64 of shape (20, 3); allowed: int64 with a class per sample",
    ),
    "NaN": (
        GOOD._replace(validation=nan(VALIDATION)),
        "x_validation has 5 columns and 1 entries that are not finite; allowed: 5 columns",
    ),
    "other columns": (
        GOOD._replace(validation=rows(10, inputs=6)),
        "x_validation has 6 columns and 0 entries that are not finite; allowed: 5 columns",
    ),
    "no rows": (
        GOOD._replace(test=Split(TEST.x[:0], TEST.y[:0])),
        "x_test has 0 rows and y_test has 0; allowed: the same number, at least 1",
    ),
    "a class that training lacks": (
        GOOD._replace(test=rows(8, classes=4)),
        "y_test holds the classes [0, 1, 2, 3]; allowed: 0 to C - 1, ",
    ),
    "a gap in the classes": (
        GOOD._replace(train=TRAIN._replace(y=TRAIN.y * 2)),
        "y_train holds the classes [0, 2, 4]; allowed: 0 to C - 1, ",
    ),
    "one class": (
        Dataset(*(part._replace(y=part.y * 0) for part in GOOD)),
        "y_train holds the classes [0]; allowed: 0 to C - 1, ",
    ),
    "no data": (None, "load returns NoneType; allowed: a Dataset"),
    "plain tuples": (tuple(map(tuple, GOOD)), "load returns tuple; allowed: a Dataset"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_a_module_may_not_return_is_one_line(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned, named = UNFIT[case]

    with pytest.raises(UserError) as refused:
        loaded(lambda extra: returned, monkeypatch)  # noqa: ARG005

    (line,) = str(refused.value).splitlines()
    assert line.startswith("stages/experiment/datasets/brought.py: ")
    assert named in line
