"""A study of one's own: its arms train, and nothing that is published changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import STUDIES, Project

from experiment.report.measures import MEASURES

from .small import (
    OWN,
    OWN_STUDY,
    TRAINING,
    add_own_study,
    all_stages,
    files_below,
    read_yaml,
    results,
    trained,
    write_yaml,
)

pytestmark = pytest.mark.slow  # minutes: the published studies run first

OURS = {
    "metrics/own/arms/sign.json",
    "metrics/own/arms/rmsprop.json",
    "metrics/own/mine.csv",
    "plots/own/mine.png",
}
# What a user edits to have a study, and what DVC keeps of its stages.
# DVC has written that check_params ran with one module more.
EDITED = {OWN, "stages/experiment/optimizers/sign.py", "stages/studies/dvc.lock", "dvc.lock"}


@pytest.fixture
def project(with_own: Project, tmp_path: Path) -> Project:
    """A copy of the project with a study of one's own, to be changed."""
    return with_own.copy(tmp_path / "project")


def test_it_trains_its_arms_alone_and_changes_no_byte_of_what_is_published(
    studied: Project, tmp_path: Path
) -> None:
    project = studied.copy(tmp_path / "project")
    before, published = files_below(project.folder), results(project)
    add_own_study(project)

    ran = project.ran("repro", f"{STUDIES}:compare_own@mine")

    names = [address.rpartition(":")[2] for address in ran]
    assert sorted(names) == [
        "check_arms",
        "check_params",
        "compare_own@mine",
        "own@rmsprop",
        "own@sign",
    ]
    after = files_below(project.folder)
    # Folders of outputs have a .gitignore only where DVC keeps outputs from Git.
    assert after.keys() - before.keys() == OURS | {"stages/experiment/optimizers/sign.py"}
    assert {path for path in before if after[path] != before[path]} == EDITED & before.keys()
    assert {path: after[path] for path in published} == published

    # Everything once more: no published arm trains, and no published byte changes.
    assert trained(project, STUDIES) == []
    last = files_below(project.folder)
    assert {path: last[path] for path in published} == published
    assert {path: last[path] for path in OURS} == {path: after[path] for path in OURS}
    assert project.ran("repro", STUDIES) == []


def test_its_table_compares_its_arms_with_those_they_name(with_own: Project) -> None:
    table = pd.read_csv(with_own.folder / "metrics/own/mine.csv")
    pairs = {("sign", "adam"), ("sign", "rmsprop"), ("rmsprop", "adam")}
    assert set(zip(table["arm"], table["against"], strict=True)) == pairs
    assert set(table["measure"]) == set(MEASURES)
    assert len(table) == len(pairs) * len(MEASURES)
    assert set(table["verdict"]) <= {"better", "worse", "equivalent", "inconclusive"}
    labels = {name: arm["label"] for name, arm in OWN_STUDY["own"].items()}
    assert all(labels[row.arm] == row.label for row in table.itertuples())


def test_its_arms_have_the_defaults_and_the_network_of_the_parameters(with_own: Project) -> None:
    sign, rmsprop = (
        json.loads((with_own.folder / f"metrics/own/arms/{name}.json").read_text())
        for name in ("sign", "rmsprop")
    )
    assert (sign["train"]["model"], sign["matrix_side"]) == ("mlp", 21)
    assert (rmsprop["train"]["model"], rmsprop["matrix_side"]) == ("logistic", 21)
    assert sign["train"]["optimizer"] == "sign"
    assert sign["train"]["hyperparameters"] == {"decay": 0.9}
    assert rmsprop["train"]["hyperparameters"] == {"momentum": 0.9, "centered": True}
    assert {row["lr"] for row in sign["tuning"]} == {0.001, 0.01}
    assert {row["lr"] for row in rmsprop["tuning"]} == {0.001, 0.01, 0.03}


def test_it_may_be_taken_away_again(project: Project, studied: Project) -> None:
    write_yaml(project, OWN, {"own_studies": [], "own": {}})
    assert trained(project, STUDIES) == []
    assert results(project) == results(studied)
    (project.folder / "stages/experiment/optimizers/sign.py").unlink()
    shutil.rmtree(project.folder / "metrics/own/arms")
    for path in ("metrics/own/mine.csv", "plots/own/mine.png"):
        (project.folder / path).unlink()
    assert trained(project, STUDIES) == []
    assert results(project) == results(studied)


def test_a_change_of_one_of_its_arms_trains_that_one_alone(project: Project) -> None:
    content = read_yaml(project, OWN)
    content["own"]["sign"]["train"]["lrs"] = [0.001, 0.003]
    write_yaml(project, OWN, content)
    assert trained(project, STUDIES) == ["own/sign"]


def test_a_change_of_one_of_its_labels_trains_nothing(project: Project) -> None:
    content = read_yaml(project, OWN)
    content["own"]["sign"]["label"] = "signs"
    write_yaml(project, OWN, content)
    assert trained(project, STUDIES) == []
    table = pd.read_csv(project.folder / "metrics/own/mine.csv").set_index("arm")
    assert set(table.loc["sign", "label"]) == {"signs"}


def test_an_edit_of_its_module_trains_no_published_arm(project: Project) -> None:
    path = project.folder / "stages/experiment/optimizers/sign.py"
    path.write_text(path.read_text() + "\n# An edit.\n")
    found = trained(project, STUDIES)
    assert "own/sign" in found
    assert set(found) <= {"own/sign", "own/rmsprop"}


def test_an_arm_that_its_optimizer_refuses_leaves_every_output(project: Project) -> None:
    content = read_yaml(project, OWN)
    content["own"]["sign"]["train"]["hyperparameters"] = {"deacy": 0.9}
    write_yaml(project, OWN, content)
    before = results(project)
    failed = project.dvc("repro", f"{STUDIES}:compare_own@mine", check=False)
    assert failed.returncode != 0
    message = "error: arm sign: train.hyperparameters = {'deacy': 0.9}; allowed: what sign takes"
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(message)
    assert results(project) == before


def test_a_published_table_reads_no_result_of_ones_own(project: Project) -> None:
    """Not even one that has the name of a published arm, as one that was moved there has."""
    folder = project.folder / "metrics/own/arms"
    (folder / "rank_1.json").write_bytes((folder / "sign.json").read_bytes())
    before = results(project)
    project.dvc("repro", "-f", "-s", f"{STUDIES}:rank_sweep", f"{STUDIES}:learning_rate")
    assert results(project) == before


def test_no_published_stage_depends_on_a_result_of_ones_own(with_own: Project) -> None:
    stages = all_stages(with_own)
    for address, stage in stages.items():
        if address.startswith(TRAINING) or "own" in address.rpartition(":")[2]:
            continue
        for path in stage["deps"]:
            assert not any(f"{ours}/".startswith(f"{path}/") for ours in OURS), (address, path)
