"""A study of one's own: its arms train, and nothing that is published changes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import SAID, STUDIES, Project, stages_run

from experiment.report.measures import MEASURES

from .small import (
    MNIST1D,
    OWN,
    OWN_STUDY,
    SMALL_STUDIES,
    TRAINING,
    all_stages,
    arm,
    read_yaml,
    results,
    trained,
    would_train,
    write_yaml,
)

pytestmark = pytest.mark.slow  # minutes: the published studies run first

OURS = {
    "metrics/own/arms/sign.json",
    "metrics/own/arms/rmsprop.json",
    "metrics/own/mine.csv",
    "metrics/own/mine.json",
    "plots/own/mine.png",
    "plots/own/mine_curves.png",
}


@pytest.fixture
def project(with_own: Project, tmp_path: Path) -> Project:
    """A copy of the project with a study of one's own, to be changed."""
    return with_own.copy(tmp_path / "project")


def test_it_trains_its_arms_alone_and_changes_no_byte_of_what_is_published(
    studied: Project, with_own: Project
) -> None:
    said = (with_own.folder / SAID).read_text()

    ran = sorted(address.rpartition(":")[2] for address in stages_run(said))
    assert ran == ["check_arms", "compare_own@mine", "own@rmsprop", "own@sign"]
    # The published arms are up to date; a study says how far it is, and what it found.
    count = len(SMALL_STUDIES["arms"]) + 2
    assert f"arm {count - 1} of {count}: " in said
    assert f"arm {count} of {count}: " in said
    assert re.search("equivalent|inconclusive|better|worse", said)
    published, after = results(studied), results(with_own)
    assert after.keys() - published.keys() == OURS
    assert {path: after[path] for path in published} == published


def test_a_study_of_ones_own_shows_in_metrics_and_plots(with_own: Project) -> None:
    changes = with_own.dvc("metrics", "show", "metrics/own/mine.json").stdout
    assert "rmsprop against adam" in changes
    assert "plots/own/mine.png" in with_own.dvc("plots", "diff", "--json").stdout.replace("\\", "/")


def test_its_table_compares_its_arms_with_those_they_name(with_own: Project) -> None:
    table = pd.read_csv(with_own.folder / "metrics/own/mine.csv")
    pairs = {("sign", "adam"), ("sign", "rmsprop"), ("rmsprop", "adam")}
    assert set(zip(table["arm"], table["against"], strict=True)) == pairs
    assert set(table["measure"]) == set(MEASURES)
    assert len(table) == len(pairs) * len(MEASURES)
    assert set(table["verdict"]) <= {"better", "worse", "equivalent", "inconclusive"}
    labels = {name: arm["label"] for name, arm in OWN_STUDY["own"].items()}
    assert all(labels[row.arm] == row.label for row in table.itertuples())


def test_it_may_be_taken_away_again(project: Project, studied: Project) -> None:
    write_yaml(project, OWN, {"own_studies": [], "own": {}, "data": {}})
    (project.folder / "stages/experiment/optimizers/sign.py").unlink()
    shutil.rmtree(project.folder / "metrics/own/arms")
    for path in OURS:
        (project.folder / path).unlink(missing_ok=True)
    assert would_train(project) == []
    assert results(project) == results(studied)


def test_changes_of_its_arms_train_these_arms_alone(project: Project) -> None:
    content = read_yaml(project, OWN)
    content["own"]["sign"]["train"]["lrs"] = [0.001, 0.003]
    content["own"]["rmsprop"]["label"] = "renamed"
    content["data"]["few"] = {**MNIST1D, "train": 100}
    bases = {"few_adam": [], "few_sgd": ["few_adam"]}
    for name, against in bases.items():
        optimizer = "adam" if name == "few_adam" else "torch.optim.SGD"
        content["own"][name] = arm("mine", name, *against, optimizer=optimizer, data="few")
    write_yaml(project, OWN, content)

    ran = trained(project, f"{STUDIES}:compare_own@mine")

    assert sorted(ran) == ["own/few_adam", "own/few_sgd", "own/sign"]
    table = pd.read_csv(project.folder / "metrics/own/mine.csv").set_index("arm")
    assert set(table.loc["rmsprop", "label"]) == {"renamed"}


def test_an_edit_of_a_module_that_it_imports_trains_the_arm_that_uses_it(
    project: Project,
) -> None:
    rooms = project.folder / "stages/experiment/optimizers"
    (rooms / "halves.py").write_text("HALF = 0.5\n")
    module = rooms / "sign.py"
    imported = "import torch\n\nfrom experiment.optimizers import halves\n"
    module.write_text(module.read_text().replace("import torch\n", imported))
    assert trained(project, f"{STUDIES}:own@sign") == ["own/sign"]
    (rooms / "halves.py").write_text("HALF = 0.25\n")
    assert would_train(project) == ["own/sign"]


@pytest.mark.parametrize("place", ["hyperparameters", "arm", "data set"])
def test_no_name_and_no_value_reaches_a_shell(project: Project, place: str) -> None:
    evil = "a;touch x;"
    content = read_yaml(project, OWN)
    one = content["own"]["sign"]
    if place == "arm":
        content["own"][evil] = one
    elif place == "data set":
        content["data"][evil] = MNIST1D
    else:
        one["train"][place] = {evil: evil}
    write_yaml(project, OWN, content)
    before = results(project)
    failed = project.dvc("repro", f"{STUDIES}:compare_own@mine", check=False)
    assert failed.returncode != 0
    assert not (project.folder / "x").exists()
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in failed.stderr
    after = results(project)
    assert {path: after[path] for path in before} == before


def test_a_published_table_reads_no_result_of_ones_own(project: Project) -> None:
    """Not even one that has the name of a published arm, as one that was moved there has."""
    folder = project.folder / "metrics/own/arms"
    (folder / "rank_20.json").write_bytes((folder / "sign.json").read_bytes())
    before = results(project)
    project.dvc("repro", "-f", "-s", f"{STUDIES}:compare@rank_sweep", f"{STUDIES}:learning_rate")
    assert results(project) == before


def test_no_published_stage_depends_on_a_result_of_ones_own(with_own: Project) -> None:
    stages = all_stages(with_own)
    for address, stage in stages.items():
        if address.startswith(TRAINING) or "own" in address.rpartition(":")[2]:
            continue
        for path in stage["deps"]:
            assert not any(f"{ours}/".startswith(f"{path}/") for ours in OURS), (address, path)
