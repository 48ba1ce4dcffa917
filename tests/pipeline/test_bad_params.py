"""A mistake in params.yaml is one line that names key, value and what is allowed, and no more."""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT, Project
from ruamel.yaml import YAML

from experiment import training, tuning
from experiment.errors import UserError
from experiment.network import MLP, Weights
from experiment.params import Params, read_params

STAGES = Project(ROOT).stages()
ALL = sorted({key for stage in STAGES.values() for key in stage.get("params", [])})
TEXT = (ROOT / "params.yaml").read_text()


def edited(changes: dict[str, str]) -> str:
    """params.yaml with the values of dotted keys replaced by other text, as a user types it."""
    params = yaml.safe_load(TEXT)
    for number, key in enumerate(changes):
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[name] = f"@{number}@"
    text = yaml.safe_dump(params, sort_keys=False)
    for number, value in enumerate(changes.values()):
        text = text.replace(f"'@{number}@'", value)
    return text


# What a user types for one key, and what the line names.
BAD = [
    *[("rank", v) for v in ("ten", "true", "yes", "0", "-1", "2.5", "120", "[5]", "{low: 5}")],
    *[("rank", v) for v in ("None", "1:30", "1,000", "1e400", ".inf", ".nan", "2026-01-01")],
    *[("seed", v) for v in ("-1", "4294967296", "null", "0.5", "'zero'", "1e-3", "false")],
    *[("device", v) for v in ("gpu", "CPU", "null", "0", "cuda:1")],
    *[("data.train", v) for v in ("0", "4000", "-5", "all")],
    *[("data.validation", v) for v in ("0", "3999", "2001")],
    *[("model.hidden", v) for v in ("[]", "64", "[0]", "[64, -1]", "[4097]", "[1, null]")],
    *[("model.hidden", v) for v in ("[true]", "'[128, 64]'", "[[64]]", "[1,1,1,1,1,1,1,1,1]")],
    *[("training.epochs", v) for v in ("0", "10001", "1.5", "ten")],
    *[("training.batch_size", v) for v in ("0", "2001", "null")],
    *[("tune.trials", v) for v in ("0", "10001", "fifteen")],
    *[("tune.wave", v) for v in ("0", "-4", "10001")],
    *[("tune.replicates", v) for v in ("0", "1001")],
    *[("tune.lr.low", v) for v in ("0", "-0.001", "0.1", "0.2", "1e-9", ".nan", "1e-5x")],
    *[("tune.lr.high", v) for v in ("11", "0.0001", "0.00001", ".inf", "low")],
    *[("tune.rank.low", v) for v in ("0", "118", "119", "1.5")],
    *[("tune.rank.high", v) for v in ("1", "120", "true")],
    *[("final_train.replicates", v) for v in ("1", "0", "10001", "many")],
    *[("final_train.group", v) for v in ("0", "1001", "null")],
    *[("compare.margin", v) for v in ("0", "1", "-0.1", "1%", "null", "true")],
    *[("studies.lrs", v) for v in ("[]", "0.001", "[0, 0.001]", "[0.001, 11]", "null")],
    *[("studies.arms.noise_0.train.lrs", v) for v in ("[]", "0.001", "[0, 0.001]", "[0.001, x]")],
    *[("studies.arms.rank_1.study", v) for v in ("rank_sweeps", "Controls", "null", "''")],
    *[("studies.arms.rank_1.against", v) for v in ("adam", "null", "[1]")],
    *[("studies.gradients.epochs", v) for v in ("[]", "20", "[0, 1]", "[1, 1.5]")],
    *[("studies.gradients.ranks", v) for v in ("[]", "20", "[0, 1]", "[true]")],
    *[("studies.published.training_samples", v) for v in ("[]", "2000", "[2000, 4001]")],
    *[(section, "3") for section in ("data", "model", "training", "tune", "compare")],
    *[(section, "null") for section in ("tune.lr", "tune.rank", "final_train")],
]

# Lists in which the order matters.
ASCENDING = [
    "studies.lrs",
    "studies.arms.noise_0.train.lrs",
    "studies.gradients.epochs",
    "studies.gradients.ranks",
    "studies.published.training_samples",
]

# Keys that contradict each other, and the one that is named.
CONTRADICTIONS = [
    ({"data.train": "3500", "data.validation": "501"}, "data.validation = 501"),
    ({"data.train": "63"}, "training.batch_size = 64"),
    ({"rank": "100", "model.hidden": "[8]"}, "rank = 100"),
    ({"tune.rank.high": "22", "model.hidden": "[8]"}, "tune.rank.high = 22"),
    ({"tune.lr.low": "0.1", "tune.lr.high": "0.1"}, "tune.lr = "),
    ({"studies.arms.rank_1.against": "[adam, adma]"}, "studies.arms.rank_1.against = ['adam', "),
    ({"studies.gradients.trajectories": "[nobody]"}, "studies.gradients.trajectories = ['nobody']"),
    ({"studies.published.rank.high": "120"}, "studies.published.rank.high = 120"),
    ({"rank": "1", "model.hidden": "[4]"}, "studies.published.rank.high = 20"),
    # The published experiment trains the mlp all the same.
    (
        {"rank": "1", "model.name": "cnn", "studies.published.rank.high": "120"},
        "studies.published.rank.high = 120",
    ),
]

# Whole files that are none.
FILES = {
    "empty": "",
    "a list": "- seed\n- rank\n",
    "a word": "seed\n",
    "not YAML": "seed: [0\n",
    "a tab": "seed: 0\n\trank: 1\n",
    "an object": "seed: !!python/object/apply:os.system ['true']\n",
    "one key twice": f"{TEXT}\nseed: 1\n",
    "an unknown key": f"{TEXT}\nlr: 0.1\n",
    "a mistyped key": TEXT.replace("rank: null", "rnak: null"),
    "a dotted key": f"{TEXT}\ntune.epochs: 7\n",
    "a dotted key of no section": f"{TEXT}\nother.key: 7\n",
    "a key that is a number": f"{TEXT}\n7: 7\n",
    "a key that is null": f"{TEXT}\nnull: 7\n",
    "a key that is a list": f"{TEXT}\n? [1, 2]\n: 7\n",
    "a missing section": re.sub(r"(?ms)^tune:.*?(?=^final)", "", TEXT),
    "binary": "\udcff\udcfe",
    "an unknown anchor": "seed: *other\n",
    "two documents": "seed: 0\n---\nseed: 1\n",
}


def refusal(text: str, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as refused:
        read_params(ALL, path)
    message = str(refused.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    return message.replace(f"{path}: ", "")


def test_there_are_forty_of_them() -> None:
    assert len(BAD) + len(CONTRADICTIONS) + len(FILES) >= 100


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(key: str, value: str, tmp_path: Path) -> None:
    (line,) = refusal(edited({key: value}), tmp_path).splitlines()

    section = key.rpartition(".")[0]
    assert line.startswith((f"{key} = ", f"{section} = {{"))
    assert "; allowed: " in line


@pytest.mark.parametrize(("changes", "named"), CONTRADICTIONS)
def test_a_contradiction_is_named(changes: dict[str, str], named: str, tmp_path: Path) -> None:
    (line,) = refusal(edited(changes), tmp_path).splitlines()

    assert line.startswith(named)
    assert "; allowed: " in line


@pytest.mark.parametrize("key", ASCENDING)
@pytest.mark.parametrize("value", ["[2, 1]", "[1, 1]", "[1, 3, 2]", "['2', 1]"])
def test_a_list_in_which_the_order_matters_is_to_ascend(
    key: str, value: str, tmp_path: Path
) -> None:
    (line,) = refusal(edited({key: value}), tmp_path).splitlines()

    assert line.startswith(f"{key} = [")
    assert "; allowed: an ascending list of " in line


@pytest.mark.parametrize(
    "name", ["a b", "a.b", "a-b", "A", "_a", "2a", "''", "'{a}'", "ä", "7", "null", '"a\\n"']
)
def test_an_arm_has_a_name_that_dvc_and_the_command_line_take(name: str, tmp_path: Path) -> None:
    text = TEXT.replace("    permuted: {", f"    {name}: {{")

    (line,) = refusal(text, tmp_path).splitlines()

    assert line.startswith("studies.arms has ")
    assert "; allowed: names of " in line


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    for line in refusal(text, tmp_path).splitlines():
        assert "allowed" in line or line.startswith("not YAML: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params\.yaml"):
        read_params(ALL, tmp_path / "params.yaml")


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from([*ALL, "tune", "data", "other", "tune.other"]), value=values)
def test_any_value_is_taken_for_what_it_says_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    params = YAML(typ="safe").load(TEXT)
    *sections, name = key.split(".")
    section = params
    for part in sections:
        section = section[part]
    section[name] = value
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    with path.open("w", encoding="utf-8") as file:
        try:
            YAML(typ="safe").dump(params, file)
        except Exception:
            return  # nothing that could be in a file

    refused = ""
    try:
        read = read_params(ALL, path)
    except UserError as error:
        refused = str(error)
    if refused:
        assert all(line.startswith(f"{path}: ") for line in refused.splitlines())
        return
    for part in key.split("."):
        read = getattr(read, part)
    if isinstance(read, bool):
        assert value is read
        return
    if isinstance(value, str):
        value = Fraction(value.strip().replace("_", ""))
    if isinstance(read, float | int):
        assert not isinstance(value, bool)
        assert math.isclose(read, value, rel_tol=1e-15)
    elif isinstance(value, dict | list):
        assert "true" not in str(value).lower()
    else:
        assert read == value


@given(hidden=st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_the_side_of_the_matrix_is_that_of_the_network(hidden: list[int]) -> None:
    section = Params.model_fields["model"].annotation(name="mlp", hidden=hidden)
    weights = sum(math.prod(shape) for shape in MLP(hidden).shapes.values())

    assert (section.matrix_side - 1) ** 2 < weights <= section.matrix_side**2


@pytest.mark.parametrize(
    "changes", [dict([BAD[0]]), {"tune.lr.high": "1e-5"}, {"data.validation": "2001"}]
)
def test_a_mistake_is_found_by_the_first_stage_and_costs_nothing(
    project: Project, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.read()
    (project.folder / "params.yaml").write_text(edited(changes))
    monkeypatch.chdir(project.folder)

    for stage in STAGES.values():
        if "params" not in stage:
            continue
        _, script, *arguments = stage["cmd"].split()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        (line,) = str(ended.value.code).splitlines()
        assert line.startswith("error: params.yaml: ")

    assert project.read() == before


def poison(monkeypatch: pytest.MonkeyPatch, *, above: float) -> None:
    """Let the last replicate of every training with a learning rate above a limit become NaN."""
    healthy = training.train

    def train(setting: training.Setting, *arguments: object) -> Iterator[Weights]:
        for weights in healthy(setting, *arguments):
            if setting.hyperparameters["lr"] > above:
                for tensor in weights.values():
                    tensor.data[-1] = math.nan
            yield weights

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(tuning, "train", train)


def run_here(
    project: Project, monkeypatch: pytest.MonkeyPatch, script: str, optimizer: str
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    monkeypatch.setattr(sys, "argv", [script, optimizer])
    shutil.rmtree(".scratch")
    runpy.run_path(script, run_name="__main__")


def test_a_trial_that_diverges_is_a_bad_trial(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = pd.read_csv(project.folder / "plots/tuning/adam.csv")
    limit = trials["lr"].median()
    poison(monkeypatch, above=limit)

    run_here(project, monkeypatch, "stages/tune.py", "adam")

    found = pd.read_csv("plots/tuning/adam.csv")
    assert len(found) == len(trials)
    assert ((found["validation_loss_nats"] == math.inf) == (found["lr"] > limit)).all()
    assert found["validation_loss_nats"].isin([math.inf]).any()
    assert json.loads(Path("metrics/tune_adam.json").read_text())["best"]["lr"] <= limit


def test_a_search_in_which_all_diverge_is_reported_and_costs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.read()
    poison(monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: every trial diverged; params.yaml: tune.lr = "):
        run_here(project, monkeypatch, "stages/tune.py", "lrg_adam")

    assert project.read() == before


def test_a_final_training_that_diverges_says_which_replicates_did(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.read()
    poison(monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: 2 of 6 replicates diverged with .*: 2, 5$"):
        run_here(project, monkeypatch, "stages/final_train.py", "adam")

    assert project.read() == before
