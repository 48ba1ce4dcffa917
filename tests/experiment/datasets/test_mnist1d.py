"""MNIST-1D: the published arrays, their split, and what is made beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import requests
from mnist1d.data import get_dataset, get_dataset_args, make_dataset

from experiment.datasets import mnist1d
from experiment.stage import data
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.stage.params import Data
from experiment.stage.randomness import stream


def given(train: int, validation: int, shuffle: bool = False, **more: object) -> Data:
    return Data(
        name="mnist1d", train=train, validation=validation, shuffle=shuffle, flipped=0, **more
    )


@pytest.fixture(scope="module")
def published() -> tuple[Split, Split]:
    return mnist1d.published()


def test_the_file_holds_the_published_rows(
    published: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset, title = data.load(given(2000, 1000), seed=0)
    dataset.write("mnist1d", title)

    with np.load("data/mnist1d.npz", allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    assert found.pop("title") == title == "MNIST-1D"
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "x_train": ("float32", (2000, 40)),
        "y_train": ("int64", (2000,)),
        "x_validation": ("float32", (1000, 40)),
        "y_validation": ("int64", (1000,)),
        "x_test": ("float32", (1000, 40)),
        "y_test": ("int64", (1000,)),
    }
    rows, test = published
    assert np.array_equal(found["x_train"], rows.x[:2000])
    assert np.array_equal(found["x_validation"], rows.x[2000:3000])
    assert np.array_equal(found["y_test"], test.y)
    assert hashlib.sha256(found["x_test"].tobytes()).hexdigest().startswith("30addc43827c82aa")


def test_other_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist1d, "PUBLISHED", "0" * 64)
    with pytest.raises(UserError, match="arrays with SHA-256 b09ad3e2"):
        mnist1d.published()


def test_rows_that_cannot_be_had_are_refused_in_one_line() -> None:
    dataset, _ = data.load(given(3500, 500), seed=0)
    assert [len(split.y) for split in dataset] == [3500, 500, 1000]

    for refusal, named in (
        (given(3500, 501), "data.train = 3500 and data.validation = 501; allowed: together at"),
        (given(20, 10, fresh_test=-1), "data.fresh_test = -1; allowed: a whole number from 0 to"),
        (given(20, 10, fresh_test="x"), "data.fresh_test = 'x'; allowed: a whole number from 0 to"),
    ):
        with pytest.raises(UserError) as refused:
            data.load(refusal, seed=0)
        (line,) = str(refused.value).splitlines()
        assert named in line


def test_shuffled_pixels_are_those_that_mnist1d_shuffles(published: tuple[Split, Split]) -> None:
    args = get_dataset_args()
    args.shuffle_seq = True
    expected = make_dataset(args)["x"].astype(np.float32)

    found = mnist1d.shuffled(published[0])

    assert np.array_equal(found.x, expected)
    assert found.x.flags.c_contiguous
    assert np.array_equal(found.y, published[0].y)


def test_fresh_test_rows_replace_the_published_ones_alone(
    published: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist1d, "published", lambda: published)  # generated once, to save time
    changes = ({}, {"fresh_test": 995}, {"fresh_test": 995, "shuffle": True})
    plain, dataset, shuffled = (data.load(given(2000, 1000, **c), seed=0)[0] for c in changes)
    other = data.load(given(2000, 1000, fresh_test=995), seed=1)[0]

    for one, same in zip(dataset[:2], plain[:2], strict=True):
        assert np.array_equal(one.x, same.x)
        assert np.array_equal(one.y, same.y)
    assert dataset.test.x.shape == (995, 40)
    assert np.array_equal(mnist1d.shuffled(dataset.test).x, shuffled.test.x)
    # Drawn anew: no row is one of another part, of the published test or of another seed.
    analysed = mnist1d.fresh(995, int(stream(0, "studies, fresh samples").integers(2**31)))
    others = (*plain, other.test, analysed)
    seen = {row.tobytes() for split in others for row in split.x}
    assert not seen & {row.tobytes() for row in dataset.test.x}


def test_fresh_samples_look_like_the_published_ones_and_are_others(
    published: tuple[Split, Split],
) -> None:
    rows, _ = published
    new = mnist1d.fresh(2000, seed=7)
    assert new.x.shape == (2000, 40)
    assert np.array_equal(np.bincount(new.y), [200] * 10)
    assert abs(new.x.mean()) < 1e-6
    assert abs(new.x.std() - 1) < 1e-6
    for c in range(10):
        difference = new.x[new.y == c].mean(0) - rows.x[rows.y == c].mean(0)
        assert np.abs(difference).max() < 0.5  # 200 samples of a deviation of about 1
    assert not (new.x[:, None] == rows.x[None, :50]).all(-1).any()


def test_samples_of_another_number_are_what_mnist1d_makes_of_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", no_network)
    args = get_dataset_args()
    args.num_samples = 2000
    expected = get_dataset(args, path=str(tmp_path / "data.pkl"), verbose=False)

    train, test = mnist1d.generated(num_samples=2000)

    assert (len(train.y), len(test.y)) == (1600, 400)
    assert np.array_equal(train.x, expected["x"].astype(np.float32))
    assert np.array_equal(test.y, expected["y_test"])
