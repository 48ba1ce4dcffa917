"""A mistake in params.yaml is one line that names key, value and what is allowed, and no more."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT, Project
from ruamel.yaml import YAML
from test_hermetic import leaves

import check_params
from experiment.datasets import mnist1d
from experiment.stage import files
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from experiment.training import loop, search
from experiment.training.network import Weights, build

STAGES = Project(ROOT).stages()
TEXT = (ROOT / "params.yaml").read_text()
ALL = sorted(leaves(yaml.safe_load(TEXT)))


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
    *[("rank", v) for v in ("ten", "true", "yes", "0", "-1", "2.5", "[5]", "{low: 5}", "full")],
    *[("rank", v) for v in ("None", "1:30", "1,000", "1e400", ".inf", ".nan", "2026-01-01")],
    *[("seed", v) for v in ("-1", "4294967296", "null", "0.5", "'zero'", "1e-3", "false")],
    *[("device", v) for v in ("gpu", "CPU", "null", "0", "cuda:1")],
    *[("data.name", v) for v in ("Digits", "a.b", "../mnist1d", "''", "null", "2d", "__init__")],
    *[("data.train", v) for v in ("0", "-5", "all", "null", "1e-3", "10000001")],
    *[("data.validation", v) for v in ("0", "-1", "rest")],
    *[("data.shuffle", v) for v in ("null", "0", "'true'", "yes")],
    *[("data.flipped", v) for v in ("null", "true", "-0.1", "1", "x", "20%", ".nan", "[0.1]")],
    *[("model.name", v) for v in ("MLP", "mlp.py", "null", "[mlp]", "1")],
    *[("model.hidden", v) for v in ("[]", "64", "[0]", "[64, -1]", "[4097]", "[1, null]")],
    *[("model.hidden", v) for v in ("[true]", "'[128, 64]'", "[[64]]", "[1,1,1,1,1,1,1,1,1]")],
    *[("training.epochs", v) for v in ("0", "10001", "1.5", "ten")],
    *[("training.batch_size", v) for v in ("0", "null", "10000001")],
    *[("tune.trials", v) for v in ("0", "10001", "fifteen")],
    *[("tune.wave", v) for v in ("0", "-4", "10001")],
    *[("tune.replicates", v) for v in ("0", "1001")],
    *[("tune.lr.low", v) for v in ("0", "-0.001", "0.1", "0.2", "1e-9", ".nan", "1e-5x")],
    *[("tune.lr.high", v) for v in ("11", "0.0001", "0.00001", ".inf", "low")],
    *[("tune.rank.low", v) for v in ("0", "1.5", "null", "full", "100001")],
    *[("tune.rank.high", v) for v in ("1", "true", "tuned", "100001")],
    *[("final_train.replicates", v) for v in ("1", "0", "10001", "many")],
    *[("final_train.group", v) for v in ("0", "1001", "null")],
    *[("compare.margin", v) for v in ("0", "1", "-0.1", "1%", "null", "true")],
    *[("compare.targets", v) for v in ("[]", "1.3", "[0]", "[1.3, -1]", "[x]", "[true]", "null")],
    *[(section, "3") for section in ("data", "model", "training", "tune", "compare")],
    *[(section, "null") for section in ("tune.lr", "tune.rank", "final_train")],
]

# Keys that contradict the data, the network or each other, with what the line begins with. No
# stage but the first sees to it.
CONTRADICTIONS = [
    *[({"rank": v}, f"rank = {v}; allowed: at most 119 ") for v in ("120", "500", "100000")],
    *[
        ({"tune.rank.low": v}, f"tune.rank.low = {v}; allowed: at most 118 ")
        for v in ("119", "500")
    ],
    ({"tune.rank.high": "120"}, "tune.rank.high = 120; allowed: at most 119 "),
    ({"training.batch_size": "2001"}, "training.batch_size = 2001; allowed: at most 2000 "),
    ({"data.train": "63"}, "training.batch_size = 64; allowed: at most 63 "),
    ({"rank": "100", "model.hidden": "[8]"}, "rank = 100; allowed: at most 21 "),
    ({"tune.rank.high": "22", "model.hidden": "[8]"}, "tune.rank.high = 22; allowed: at most 21 "),
    ({"rank": "74", "model.name": "cnn"}, "rank = 74; allowed: at most 73 "),
    (
        {"rank": "118", "data.name": "digits", "model.hidden": "[8]"},
        "rank = 118; allowed: at most ",
    ),
    *[
        (changes, "data: mnist1d refuses: data.train = ")
        for changes in (
            {"data.train": "4000"},
            {"data.validation": "3999"},
            {"data.validation": "2001"},
            {"data.train": "3500", "data.validation": "501"},
        )
    ],
    ({"data.name": "nothing"}, "data.name = 'nothing'; allowed: a module in stages/experiment/da"),
    ({"model.name": "nothing"}, "model.name = 'nothing'; allowed: a module in stages/experiment"),
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
    "a mistyped key": TEXT.replace("rank: tuned", "rnak: tuned"),
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
        read_params(path)
    message = str(refused.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    return message.replace(f"{path}: ", "")


def test_there_are_a_hundred_of_them() -> None:
    assert len(BAD) + len(CONTRADICTIONS) + len(FILES) >= 100
    # Every key and every section, but for one whose keys may all be a user's own.
    assert {key for key, _ in BAD} >= set(ALL)


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(key: str, value: str, tmp_path: Path) -> None:
    (line,) = refusal(edited({key: value}), tmp_path).splitlines()

    section = key.rpartition(".")[0]
    assert line.startswith((f"{key} = ", f"{section} = {{"))
    assert "; allowed: " in line


@pytest.fixture
def published_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate the published data once for all tests, which takes a second."""
    monkeypatch.setattr(mnist1d, "published", PUBLISHED)


PUBLISHED = functools.cache(mnist1d.published)


@pytest.mark.usefixtures("published_once")
@pytest.mark.parametrize(("changes", "named"), CONTRADICTIONS)
def test_a_contradiction_is_named(
    changes: dict[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "constraints.txt", "constraints.txt")
    Path("params.yaml").write_text(edited(changes))

    with pytest.raises(UserError) as refused:
        check_params.main()

    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"params.yaml: {named}")
    assert "; allowed: " in line
    # What DVC had deleted is there all the same.
    assert Path("data/versions.json").exists()


@pytest.mark.usefixtures("published_once")
@pytest.mark.parametrize(
    "changes",
    [
        {"rank": "119"},
        {"rank": "1"},
        {"rank": "null"},
        {"tune.rank.low": "117", "tune.rank.high": "118"},
        {"tune.rank.high": "119"},
        {"training.batch_size": "2000"},
        {"data.train": "3000"},
        {"data.validation": "2000", "data.shuffle": "true"},
        {"data.flipped": "0.999"},
        {"data.flipped": "0.2", "data.name": "digits"},
        {"model.name": "logistic"},
        {"model.name": "cnn", "data.name": "digits", "device": "cuda"},
    ],
)
def test_what_makes_sense_is_taken(
    changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "constraints.txt", "constraints.txt")
    Path("params.yaml").write_text(edited(changes))

    with files.unchanged():
        check_params.main()


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    for line in refusal(text, tmp_path).splitlines():
        assert "allowed" in line or line.startswith("not YAML: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params\.yaml"):
        read_params(tmp_path / "params.yaml")


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
        read = read_params(path)
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
    if isinstance(read, str):
        assert value == read or (value is None and read == {"rank": "tuned"}.get(key, "full"))
        return
    if isinstance(value, str):
        value = Fraction(value.strip().replace("_", ""))
    if isinstance(read, float | int):
        assert not isinstance(value, bool)
        assert math.isclose(read, value, rel_tol=1e-15)
    elif isinstance(value, dict | list):
        assert "true" not in str(value).lower()
    else:
        raise AssertionError(f"{value!r} was taken for {read!r}")


SAMPLES = Split(np.zeros((10, 40), np.float32), np.arange(10))


@given(hidden=st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_the_side_of_the_matrix_is_that_of_the_network(hidden: list[int]) -> None:
    network = build("mlp", {"hidden": hidden}, SAMPLES)
    weights = sum(math.prod(shape) for shape in network.shapes.values())

    assert (network.matrix_side - 1) ** 2 < weights <= network.matrix_side**2


@pytest.mark.parametrize("changes", [dict([BAD[0]]), {"tune.lr.high": "1e-5"}, {"other": "1"}])
def test_no_stage_takes_a_mistake(
    project: Project, changes: dict[str, str], run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    (project.folder / "params.yaml").write_text(edited(changes))

    for stage in STAGES.values():
        with pytest.raises(SystemExit) as ended:
            run_here(project, stage["cmd"])
        (line,) = str(ended.value.code).splitlines()
        assert line.startswith("error: params.yaml: ")

    assert project.read() == before


def poison(monkeypatch: pytest.MonkeyPatch, *, above: float) -> None:
    """Let the last replicate of every training with a learning rate above a limit become NaN."""
    healthy = loop.train

    def train(setting: loop.RunConfig, *arguments: object) -> Iterator[Weights]:
        for weights in healthy(setting, *arguments):
            if setting.hyperparameters["lr"] > above:
                for tensor in weights.values():
                    tensor.data[-1] = math.nan
            yield weights

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(search, "train", train)


def test_a_trial_that_diverges_is_a_bad_trial(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    path = project.folder / "metrics/tune_adam.json"
    lrs = sorted(trial["lr"] for trial in json.loads(path.read_text())["trials"])
    limit = lrs[len(lrs) // 2]
    poison(monkeypatch, above=limit)

    run_here(project, "python stages tune adam")

    tuned = json.loads(path.read_text())
    trials = tuned["trials"]
    assert len(trials) == len(lrs)
    assert [t["lr"] for t in trials if t["trial_loss_nats"] is None] != []
    assert all((t["trial_loss_nats"] is None) == (t["lr"] > limit) for t in trials)
    assert tuned["best"]["lr"] <= limit


def test_a_search_in_which_all_diverge_is_reported(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    poison(monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: every trial diverged; params.yaml: tune.lr = "):
        run_here(project, "python stages tune lrg_adam")

    assert project.read() == before


def test_a_final_training_that_diverges_says_which_replicates_did(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    poison(monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: 2 of 6 replicates diverged with .*: 2, 5$"):
        run_here(project, "python stages final_train adam")

    assert project.read() == before
