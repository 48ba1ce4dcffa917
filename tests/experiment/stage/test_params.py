"""params.yaml: a mistake is one line with the key, its value and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from project import PARAMS, edited, leaves

from experiment.stage.errors import UserError
from experiment.stage.params import Params, read_params


def read(folder: Path, text: str) -> Params:
    path = folder / "params.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return read_params(path)


def rejection(folder: Path, text: str) -> list[str]:
    """The lines of the error, without the path that each begins with."""
    with pytest.raises(UserError) as error:
        read(folder, text)
    start = f"{folder / 'params.yaml'}: "
    lines = str(error.value).splitlines()
    assert all(line.startswith(start) for line in lines)
    return [line.removeprefix(start) for line in lines]


# What a user types for one key.
BAD = {
    "rank": ["ten", "'10'", "10.0", "true", "0", "2.5", "[5]", "{low: 5}", "full", "1e400", "null"],
    "seed": ["-1", "4294967296", "null", "0.5", "'zero'", "1e-3", "false"],
    "device": ["gpu", "CPU", "null", "0", "cuda:1"],
    "adam.betas": ["null", "[]", "[0.9, null]", "[.nan, 0.9]", "[[0.9, 0.99]]"],
    "adam.eps": ["null", ".inf", "2026-01-01", "{low: 1e-9}", "{low: 1, high: 0.1}"],
    "adam.weight_decay": [
        *("{low: 0, high: 1, log: true}", "{low: 0.1, high: 0.1}", "{low: 0, high: .inf}"),
        *("{low: 0, high: one}", "{low: 0, high: 1, log: 1}", "{low: 0, high: 1, step: 0.1}"),
        *("{low: '0', high: '1'}", "{low: false, high: true}"),
    ],
    "lrg_adam.weight_decay": ["{low: 2, high: 1}"],
    "lrg_adam.method": ["null", "{low: gram, high: svd}"],
    "data.name": ["Digits", "a.b", "../mnist1d", "''", "null", "2d", "_a", "7"],
    "data.train": ["0", "-5", "all", "null", "1e-3", "10000001"],
    "data.validation": ["0", "rest"],
    "data.shuffle": ["null", "0", "'true'", "yes"],
    "data.flipped": ["null", "true", "-0.1", "1", "20%", ".nan", "[0.1]"],
    "model.name": ["MLP", "mlp.py", "null", "[mlp]"],
    "model.hidden": ["[]", "64", "[64, -1]", "[4097]", "[true]", "'[64]'", "[1,1,1,1,1,1,1,1,1]"],
    "training.epochs": ["0", "10001", "1.5", "ten"],
    "training.batch_size": ["0", "null", "10000001"],
    "training.schedule": ["cosin", "null", "1"],
    "training.warmup": ["2", "1", "-0.1", "true", "half"],
    "tune.trials": ["0", "10001", "fifteen"],
    "tune.wave": ["0", "10001"],
    "tune.replicates": ["0", "1001"],
    "tune.lr.low": ["0", "0.1", "0.2", "1e-9", ".nan", "1e-5x"],
    "tune.lr.high": ["11", "0.0001", ".inf", "low"],
    "tune.rank.low": ["0", "1.5", "null", "full", "100001"],
    "tune.rank.high": ["1", "true", "tuned", "100001"],
    "final_train.replicates": ["1", "10001", "many"],
    "final_train.group": ["0", "1001", "null"],
    "compare.margin": ["0", "1", "1%", "null", "true"],
    "compare.targets": ["[]", "1.3", "[0]", "[x]", "[true]", "null"],
    **{section: ["3", "null"] for section in ("adam", "data", "model", "tune.lr", "compare")},
}


def test_every_parameter_has_bad_values() -> None:
    assert set(leaves(yaml.safe_load(PARAMS))) <= BAD.keys()


@pytest.mark.parametrize(("key", "typed"), [(key, typed) for key in BAD for typed in BAD[key]])
def test_a_bad_value_is_named_with_what_is_allowed(key: str, typed: str, tmp_path: Path) -> None:
    (line,) = rejection(tmp_path, edited({key: typed}))

    section = key.rpartition(".")[0]
    assert line.startswith((f"{key} = ", f"{section} = {{"))
    assert "; allowed: " in line


def test_every_mistake_has_a_line(tmp_path: Path) -> None:
    changes = {
        "seed": None,
        "sede": "0",
        "rank": "ten",
        "adam.weight_decay": "{low: 1, high: 0.1}",
        "model.hidden": "[0, 64, -1]",
        "training.epoch": "5",
        "tune.lr.high": "0.00001",
        "compare.margin": "1%",
    }
    assert sorted(rejection(tmp_path, edited(changes))) == [
        "adam.weight_decay = {'low': 1, 'high': 0.1}; allowed: keywords of the "
        "optimizer, each a number, a word, true, false, a list of numbers, or an interval {low, "
        "high, log}: two numbers, low below high, and above 0 if log is true",
        "compare.margin = '1%'; allowed: a number above 0 and below 1",
        "model.hidden = [0, 64, -1]; allowed: a list of 1 to 8 whole numbers from 1 to 4096",
        "rank = 'ten'; allowed: tuned, or a whole number from 1 to the side of the gradient matrix",
        "seed is missing; allowed: a whole number from 0 to 4294967295",
        "tune.lr = {'low': 0.0001, 'high': 1e-05}; allowed: low below high",
        "unknown key sede = 0; allowed in its place: seed",
        "unknown key training.epoch = 5; allowed in its place: epochs",
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("", "- seed\n- rank\n", "seed\n", "seed: [0\n", "seed: 0\n\trank: 1\n", "\udcff\udcfe"),
        *("seed: !!python/object/apply:os.system ['true']\n", f"{PARAMS}\nseed: 1\n"),
        *(f"{PARAMS}\ntune.epochs: 7\n", f"{PARAMS}\n7: 7\n", f"{PARAMS}\n? [1, 2]\n: 7\n"),
        *("seed: *other\n", "seed: 0\n---\nseed: 1\n"),
        re.sub(r"(?ms)^tune:.*?(?=^final)", "", PARAMS),
    ],
)
def test_a_file_without_parameters_is_rejected_in_lines(text: str, tmp_path: Path) -> None:
    for line in rejection(tmp_path, text):
        assert "allowed" in line or line.startswith("not YAML: ")


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        *[("rank", typed, "tuned") for typed in ("tuned", "'tuned'")],
        ("rank", "10", 10),
        ("tune.lr.low", "1e-05", 1e-5),
        ("seed", "010", 10),
    ],
)
def test_a_value_is_read_as_it_is_meant(
    key: str, typed: str, value: object, tmp_path: Path
) -> None:
    found = read(tmp_path, edited({key: typed}))
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_hyperparameters_are_values_or_intervals(tmp_path: Path) -> None:
    changes = {
        "adam.betas": "[0.8, 0.99]",
        "adam.weight_decay": "{low: 1e-4, high: 1, log: true}",
        "lrg_adam.method": "randomized",
        "lrg_adam.iterations": "{low: 1, high: 8}",
    }
    params = read(tmp_path, edited(changes))
    assert params.adam["betas"] == [0.8, 0.99]
    assert dict(params.adam["weight_decay"]) == {"low": 1e-4, "high": 1, "log": True}
    assert params.lrg_adam["method"] == "randomized"
    assert dict(params.lrg_adam["iterations"]) == {"low": 1, "high": 8, "log": False}


def test_data_and_model_may_have_keys_of_a_module_s_own(tmp_path: Path) -> None:
    params = read(tmp_path, edited({"data.fold": "3", "model.activation": "gelu"}))
    assert params.data.options["fold"] == 3
    assert params.model.options["activation"] == "gelu"
