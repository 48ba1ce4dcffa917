"""Settings as words of a command: what DVC writes is read as it was in the YAML file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from dvc.config import Config
from dvc.parsing.interpolate import to_str
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from experiment.stage.errors import UserError
from experiment.stage.schema import Section
from studies.training.arms import ArmTraining
from studies.training.words import parse

CONFIG = Config(str(Path(__file__).parents[2] / ".dvc"))


class Anything(Section):
    """A model that takes whatever there is under one key."""

    given: dict[str, Any] = Field(default={})


class Inner(Section):
    """A section."""

    low: float
    high: float


class Model(Section):
    """Keys of several kinds."""

    whole: int = 0
    rates: list[float] = Field(default=[])
    flag: bool = False
    text: str = ""
    lr: Inner | None = None


def written(content: dict[str, Any]) -> list[str]:
    """The words that the shell makes of what DVC writes for a mapping in this project."""
    return shlex.split(to_str(content, CONFIG.get("parsing")))


def anything(words: list[str]) -> object:
    return parse(Anything, words, "").given["it"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["3"], 3),
        (["-3"], -3),
        (["010"], 10),  # YAML 1.2, as in the file
        (["0.5"], 0.5),
        (["1e-5"], 1e-5),
        (["1e-05"], 1e-5),
        (["-1e-05"], -1e-5),
        (["1e+16"], 1e16),
        (["5.0"], 5.0),
        (["true"], True),
        (["false"], False),
        (["subspace"], "subspace"),
        (["two words"], "two words"),
        (["yes"], "yes"),
        (["1:30"], "1:30"),
        (["0.9", "0.999"], [0.9, 0.999]),
        (["a", "1", "true"], ["a", 1, True]),
        ([], True),
    ],
)
def test_a_value_is_what_it_is_in_yaml(words: list[str], value: object) -> None:
    found = anything(["--given.it", *words])
    assert found == value
    assert type(found) is type(value)


def test_no_before_a_key_is_false() -> None:
    assert anything(["--no-given.it"]) is False
    assert parse(Model, ["--no-flag"], "").flag is False


def test_dots_lead_into_sections() -> None:
    found = parse(Model, ["--lr.low", "1e-05", "--whole", "2", "--lr.high", "0.1"], "")
    assert found == Model(whole=2, lr=Inner(low=1e-5, high=0.1))


def test_of_two_values_for_a_key_the_later_counts() -> None:
    words = ["--rates", "1", "2", "--whole", "1", "--rates", "3", "4", "5", "--whole", "7"]
    assert parse(Model, words, "") == Model(rates=[3, 4, 5], whole=7)
    assert parse(Model, ["--flag", "--no-flag"], "").flag is False
    assert parse(Model, ["--no-flag", "--flag"], "").flag is True


COMMAND = "--lrs 0.1 --tuning_replicates 1 --replicates 2 --group 1 --optimizer adam"
ARM = COMMAND.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3", *ARM], "'3' belongs to no key; allowed: --key value ..."),
        ([*ARM, "--group", "many"], "group = 'many'; allowed: a whole number from 1 to 1000"),
        ([*ARM, "--group", "1", "2"], "group = [1, 2]; allowed: a whole number from 1 to 1000"),
        ([*ARM, "--group"], "group = True; allowed: a whole number from 1 to 1000"),
        ([*ARM, "--no-group"], "group = False; allowed: a whole number from 1 to 1000"),
        ([*ARM, "--lrs", "2", "1"], "lrs = [2, 1]; allowed: an ascending list of numbers"),
        ([*ARM, "--gruop", "1"], "unknown key gruop = 1; allowed in its place: group"),
        ([*ARM, "--data", "digits"], "data = 'digits'; allowed: keys under data in params.yaml"),
        (ARM[:-2], "optimizer is missing; allowed: a module in stages/experiment/optimizers"),
        ([*ARM, "--hyperparameters.lr", "1"], "hyperparameters = {'lr': 1}; allowed: arguments of"),
        ([*ARM, "--hyperparameters.a.b", "1"], "hyperparameters = {'a': {'b': 1}}; allowed: "),
        ([*ARM, "--hyperparameters.a", "[1"], ""),
        ([*ARM, "--hyperparameters.a", "@"], ""),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(ArmTraining, words, "arm a: ")
    assert str(refused.value).startswith(f"arm a: {message}")
    assert "\n" not in str(refused.value)


def test_one_learning_rate_is_a_list_of_one() -> None:
    assert parse(ArmTraining, ARM, "").lrs == [0.1]


# What check_arms lets pass as a hyperparameter.
NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False)
)
TEXT = st.from_regex(r"[a-z][a-z_]*( [a-z]+)?", fullmatch=True).filter(
    lambda text: text not in ("null", "true", "false")
)
VALUES = st.one_of(NUMBERS, st.booleans(), TEXT)


@given(
    st.dictionaries(
        st.from_regex("[a-z][a-z_0-9]*", fullmatch=True),
        st.one_of(VALUES, st.lists(st.one_of(NUMBERS, TEXT), min_size=2, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_what_dvc_writes_is_read_as_it_was(hyperparameters: dict[str, Any]) -> None:
    found = parse(Anything, written({"given": hyperparameters}), "").given
    assert found == hyperparameters
    for name, value in hyperparameters.items():
        values, read = (one if isinstance(one, list) else [one] for one in (value, found[name]))
        assert [type(one) for one in read] == [type(one) for one in values]


def test_a_mapping_comes_back_with_the_defaults_before_it() -> None:
    defaults = {"whole": 1, "rates": [1e-4, 0.5], "lr": {"low": 1e-8, "high": 10}, "flag": True}
    own = {"rates": [0.25, 3e-5], "text": "it's $HOME; two", "flag": False}
    assert parse(Model, written(defaults) + written(own), "") == Model(**(defaults | own))
