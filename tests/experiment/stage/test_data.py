"""The file with the data: what is written is read, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiment.stage import data
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError

ROWS = Split(np.zeros((9, 40), np.float32), np.arange(9) % 2)
FILE = Path("data/some.npz")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_written_is_read() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Split(rng.standard_normal((n, 7), dtype=np.float32), rng.permutation(n) % 3)
        for n in (30, 20, 10)
    ]
    Dataset(*parts).write("some", "Some data")

    found = Dataset.read("some")

    assert data.data_file("some") == FILE
    assert data.title("some") == "Some data"
    assert (found.train.inputs, found.train.classes) == (7, 3)
    for part, split in zip(parts, found, strict=True):
        for expected, array in zip(part, split, strict=True):
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_damaged_file_is_named(keep: int) -> None:
    Dataset(ROWS, ROWS, ROWS).write("some", "Some data")
    assert FILE.stat().st_size > keep
    FILE.write_bytes(FILE.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"some.npz: .*fetch_data"):
        Dataset.read("some")


def test_a_missing_array_is_named() -> None:
    FILE.parent.mkdir()
    np.savez(FILE, x_train=np.zeros((9, 40), np.float32))
    with pytest.raises(UserError, match=r"some\.npz: damaged, .*y_train"):
        Dataset.read("some")
