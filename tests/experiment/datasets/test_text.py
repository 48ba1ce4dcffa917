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


def loaded(train: int = 4000, validation: int = 1000, **more: object) -> Dataset:
    given = Data(name="text", train=train, validation=validation, shuffle=False, flipped=0, **more)
    return data.load(given, seed=0)[0]


@pytest.mark.parametrize(("window", "rare"), [(8, "q"), (16, "")])
def test_each_sample_is_a_passage_of_its_own_part_of_the_descriptions(
    window: int, rare: str
) -> None:
    parts = ["", "", ""]
    for file in sorted(DESCRIPTIONS.glob("*.rst")):
        prose = re.sub("[^a-z]+", " ", file.read_text("utf-8").lower())
        cuts = [len(prose) * tenths // 10 for tenths in (0, 6, 8, 10)]
        for i in range(3):
            parts[i] += prose[cuts[i] : cuts[i + 1]]

    dataset = loaded(window=window)

    # With windows of 8, no training sample is followed by a q.
    alphabet = [letter for letter in " abcdefghijklmnopqrstuvwxyz" if letter != rare]
    for (x, y), prose, count in zip(dataset, parts, (4000, 1000, 4000), strict=True):
        assert x.shape == (count, window)
        passages = np.concatenate([x.astype(int), y[:, None]], axis=1)
        known = prose.translate(str.maketrans(rare, " " * len(rare)))
        position = -1
        for passage in ("".join(alphabet[i] for i in row) for row in passages):
            position = known.find(passage, position + 1)
            assert position >= 0
        assert position > len(known) - 2 * window - len(known) // count - 1


def test_few_samples_make_a_small_vocabulary() -> None:
    dataset = loaded(train=20)
    assert dataset.train.classes < 20
    assert max(split.x.max() for split in dataset) == dataset.train.classes - 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"window": 0}, "data.window = 0; allowed: a whole number from 1 to 1000"),
        ({"window": 8.5}, "data.window = 8.5; allowed: a whole number from 1 to 1000"),
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
