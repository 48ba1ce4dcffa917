"""Predict the next character of English prose: the data set descriptions that scikit-learn ships.

Everything but the letters a to z becomes a space.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import numpy as np

from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError

TITLE = "text"
# SHA-256 of the descriptions, joined by line feeds.
PUBLISHED = "603cceecd62789b6fcf0e44071b86e065aff114e5f771a897dfa67a89b1d2405"
TEST = 4000  # number of test samples


def load(*, train: int, validation: int, window: int = 8) -> Dataset:
    """Samples of `window` consecutive characters, and the character that follows each.

    The first 60 % of each description are for training, the next 20 % for validation, the last 20 %
    for testing. The samples of a part are evenly spaced. Classes are the characters that follow a
    training sample, in the order of the alphabet, a space first; any other letter is a space too.

    Raises:
        ValueError: `window` is not a whole number from 1 to 1000, or a part of the text has fewer
            than `train` or `validation` samples.

    """
    if type(window) is not int or not 1 <= window <= 1000:
        raise ValueError(f"data.window = {window!r}; allowed: a whole number from 1 to 1000")
    texts = descriptions()
    parts = []
    for name, count, start, stop in (
        ("train", train, 0, 6),
        ("validation", validation, 6, 8),
        ("test", TEST, 8, 10),
    ):
        text = "".join(text[len(text) * start // 10 : len(text) * stop // 10] for text in texts)
        if count > len(text) - window:
            raise ValueError(
                f"data.{name} = {count}; allowed: at most {len(text) - window}, the windows of "
                f"{window} characters in this part of the text"
            )
        # ASCII codes of evenly spaced passages: the samples, and what follows each.
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        starts = np.arange(count) * (len(codes) - window) // count
        parts.append(codes[starts[:, None] + np.arange(window + 1)])
    vocabulary = np.unique(parts[0][:, -1])
    classes = np.zeros(128, np.int64)
    classes[vocabulary] = np.arange(len(vocabulary))
    return Dataset(
        *(Split(classes[part[:, :-1]].astype(np.float32), classes[part[:, -1]]) for part in parts)
    )


def descriptions() -> list[str]:
    """The texts in the order of their files' names.

    Raises:
        UserError: they differ from those of the version in constraints.txt.

    """
    files = resources.files("sklearn.datasets.descr").iterdir()
    texts = [
        re.sub("[^a-z]+", " ", file.read_text("utf-8").lower())
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".rst")
    ]
    found = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if found != PUBLISHED:
        raise UserError(
            f"scikit-learn ships descriptions with SHA-256 {found}, not {PUBLISHED}; "
            "install the versions in constraints.txt"
        )
    return texts
