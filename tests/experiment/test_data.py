"""The data: the published arrays, their split, and what happens when they are not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from experiment import data
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.params import Data


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return data.published()


def test_the_file_holds_the_published_rows(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "mnist1d.npz"
    data.split(arrays, Data(train=2000, validation=1000, shuffle=False)).write(path)

    with np.load(path, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "x_train": ("float32", (2000, 40)),
        "y_train": ("int64", (2000,)),
        "x_validation": ("float32", (1000, 40)),
        "y_validation": ("int64", (1000,)),
        "x_test": ("float32", (1000, 40)),
        "y_test": ("int64", (1000,)),
    }
    assert np.array_equal(found["x_train"], arrays["x"][:2000])
    assert np.array_equal(found["x_validation"], arrays["x"][2000:3000])
    assert np.array_equal(found["y_test"], arrays["y_test"])
    assert hashlib.sha256(found["x_test"].tobytes()).hexdigest() == data.PUBLISHED["x_test"]


def test_other_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.PUBLISHED, "y", "0" * 64)
    with pytest.raises(UserError, match="array y with SHA-256 d97dc7ae"):
        data.published()


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_damaged_file_is_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "mnist1d.npz"
    rows = data.Split(np.zeros((9, 40), np.float32), np.zeros(9, np.int64))
    Dataset(rows, rows, rows).write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"mnist1d.npz: .*fetch_data"):
        Dataset.read(path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mnist1d.npz"
    np.savez(path, x_train=np.zeros((9, 40), np.float32))
    with pytest.raises(UserError, match="no array 'y_train'"):
        Dataset.read(path)
