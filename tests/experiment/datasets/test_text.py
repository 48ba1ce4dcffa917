"""Text: passages of real prose, of which no character is in two parts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from experiment.datasets import text
from experiment.stage import data
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import Data

DESCRIPTIONS = Path(sklearn.datasets.__file__).parent / "descr"


def loaded(**changes: object) -> Dataset:
    given = {"train": 4000, "validation": 1000, "shuffle": False, "flipped": 0, **changes}
    return data.load(Data(name="text", **given), seed=0)[0]


def test_each_sample_is_a_passage_of_its_own_part_of_the_descriptions() -> None:
    parts = ["", "", ""]
    for file in sorted(DESCRIPTIONS.glob("*.rst")):
        prose = re.sub("[^a-z]+", " ", file.read_text("utf-8").lower())
        cuts = [len(prose) * tenths // 10 for tenths in (0, 6, 8, 10)]
        for i in range(3):
            parts[i] += prose[cuts[i] : cuts[i + 1]]

    alphabet = " abcdefghijklmnoprstuvwxyz"  # no training sample is followed by a q
    for (x, y), prose, count in zip(loaded(), parts, (4000, 1000, 4000), strict=True):
        assert x.shape == (count, 8)
        known, position = prose.replace("q", " "), -1
        for row in np.concatenate([x.astype(int), y[:, None]], axis=1):
            position = known.find("".join(alphabet[i] for i in row), position + 1)
            assert position >= 0
        assert position > 0.99 * len(known)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"window": 0}, "data.window = 0; allowed: a whole number from 1 to 1000"),
        ({"train": 40_000}, "data.train = 40000; allowed: at most "),
        ({"validation": 9_000, "window": 2}, "data.validation = 9000; allowed: at most "),
    ],
)
def test_what_the_text_does_not_hold_is_one_line(given: dict[str, object], named: str) -> None:
    with pytest.raises(UserError) as refused:
        loaded(**given)
    (line,) = str(refused.value).splitlines()
    assert named in line


def test_another_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iris.rst").write_text("Another text.")
    monkeypatch.setattr(text.resources, "files", lambda _: tmp_path)
    with pytest.raises(UserError, match=r"^scikit-learn ships .* install the versions in"):
        loaded()
