"""params.yaml: what a rank may be, and a line for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from project import ROOT

from experiment.stage.errors import UserError
from experiment.stage.params import Params, read_params

RANK = "tuned, or a whole number from 1 to the side of the gradient matrix"
HIGH = "full, one less than the side of the gradient matrix, or a whole number from 1 to that side"


def edited(folder: Path, changes: Mapping[str, str | None]) -> Path:
    """params.yaml with other text for some keys, as a user types it; for None, without the key.

    A slash separates the name of a section from a key in it.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for number, (key, typed) in enumerate(changes.items()):
        *sections, name = key.split("/")
        section = params
        for part in sections:
            section = section[part]
        section[name] = f"@{number}@"
        if typed is None:
            del section[name]
    text = yaml.safe_dump(params, sort_keys=False)
    for number, typed in enumerate(changes.values()):
        text = text.replace(f"'@{number}@'", typed or "")
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def read(folder: Path, changes: Mapping[str, str | None]) -> Params:
    return read_params(edited(folder, changes))


def refused(folder: Path, changes: Mapping[str, str | None]) -> list[str]:
    """The lines of the error, without the path that each begins with."""
    path = edited(folder, changes)
    with pytest.raises(UserError) as error:
        read_params(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_params_yaml_is_read() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.rank == "tuned"
    assert (params.tune.rank.low, params.tune.rank.high) == (1, "full")
    assert params.model.options == {"hidden": [128, 64]}
    assert params.data.options == {
        "train": 2000,
        "validation": 1000,
        "shuffle": False,
        "flipped": 0,
    }


@pytest.mark.parametrize(
    ("typed", "rank"),
    [
        *[(text, "tuned") for text in ("tuned", "'tuned'", "null", "~", "")],
        *[("10", 10), ("'10'", 10), ("1", 1), ("100000", 100_000)],
    ],
)
def test_a_rank_is_tuned_or_a_number(typed: str, rank: object, tmp_path: Path) -> None:
    found = read(tmp_path, {"rank": typed}).rank
    assert found == rank
    assert type(found) is type(rank)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        *[("ten", "'ten'"), ("full", "'full'"), ("''", "''")],
        *[("true", "True"), ("false", "False"), ("0", "0"), ("-1", "-1"), ("2.5", "2.5")],
        *[("100001", "100001"), ("[5]", "[5]"), (".nan", "nan"), (".inf", "inf")],
        ("{low: 1, high: 5}", "{'low': 1, 'high': 5}"),
    ],
)
def test_any_other_rank_is_refused(typed: str, value: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {"rank": typed}) == [f"rank = {value}; allowed: {RANK}"]


@pytest.mark.parametrize(
    ("typed", "high"), [("full", "full"), ("2", 2), ("118", 118), ("'118'", 118)]
)
def test_the_highest_rank_is_full_or_a_number(typed: str, high: object, tmp_path: Path) -> None:
    found = read(tmp_path, {"tune/rank/high": typed}).tune.rank.high
    assert found == high
    assert type(found) is type(high)


@pytest.mark.parametrize(
    ("typed", "value"), [("tuned", "'tuned'"), ("true", "True"), ("0", "0"), ("2.5", "2.5")]
)
def test_any_other_highest_rank_is_refused(typed: str, value: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {"tune/rank/high": typed}) == [
        f"tune.rank.high = {value}; allowed: {HIGH}"
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"tune/rank/low": "8", "tune/rank/high": "7"},
            "tune.rank = {'low': 8, 'high': 7}; allowed: low below high",
        ),
        (
            {"tune/rank/low": "7", "tune/rank/high": "'7'"},
            "tune.rank = {'low': 7, 'high': '7'}; allowed: low below high",
        ),
        (
            {"tune/lr/low": "0.1", "tune/lr/high": "0.1"},
            "tune.lr = {'low': 0.1, 'high': 0.1}; allowed: low below high",
        ),
    ],
)
def test_low_is_below_high(changes: dict[str, str], line: str, tmp_path: Path) -> None:
    assert refused(tmp_path, changes) == [line]


def test_any_low_is_below_full(tmp_path: Path) -> None:
    ranks = read(tmp_path, {"tune/rank/low": "100000", "tune/rank/high": "full"}).tune.rank
    assert (ranks.low, ranks.high) == (100_000, "full")


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("rnak", "unknown key rnak = 5; allowed in its place: rank"),
        ("training/epoch", "unknown key training.epoch = 5; allowed in its place: epochs"),
        ("tune/rank/step", "unknown key tune.rank.step = 5; allowed in its place: low, high"),
        ("tune.wave", "unknown key tune.wave = 5; allowed in its place: tune"),
    ],
)
def test_an_unknown_key_is_told_with_the_likely_one(key: str, line: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {key: "5"}) == [line]


def test_data_and_model_may_have_keys_of_a_module_s_own(tmp_path: Path) -> None:
    params = read(tmp_path, {"data/fold": "3", "model/activation": "gelu"})
    assert params.data.options["fold"] == 3
    assert params.model.options["activation"] == "gelu"


@pytest.mark.parametrize("typed", ["../mnist1d", "MNIST", "a.b", "_a", "2d", "''", "null", "7"])
def test_a_module_has_a_name_that_a_path_can_hold(typed: str, tmp_path: Path) -> None:
    (line,) = refused(tmp_path, {"data/name": typed})
    assert line.startswith("data.name = ")
    assert line.endswith("; allowed: the name of a module")


def test_every_mistake_has_a_line(tmp_path: Path) -> None:
    lines = refused(
        tmp_path,
        {
            "seed": None,
            "sede": "0",
            "rank": "ten",
            "model/hidden": "[0, 64, -1]",
            "training/epochs": "0",
            "compare/margin": "1%",
        },
    )
    assert sorted(lines) == [
        "compare.margin = '1%'; allowed: a number above 0 and below 1",
        "model.hidden = -1; allowed: a list of 1 to 8 whole numbers from 1 to 4096",
        "model.hidden = 0; allowed: a list of 1 to 8 whole numbers from 1 to 4096",
        f"rank = 'ten'; allowed: {RANK}",
        "seed is missing; allowed: a whole number from 0 to 4294967295",
        "training.epochs = 0; allowed: a whole number from 1 to 10000",
        "unknown key sede = 0; allowed in its place: seed",
    ]
