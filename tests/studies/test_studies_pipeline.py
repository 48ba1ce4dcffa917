"""The studies as a pipeline: what runs again, what a mistake leaves, and what they conclude."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import ARMS, ROOT, STUDIES, Project, set_params, stage_outputs

from .small import (
    OWN,
    SMALL_STUDIES,
    TRAINING,
    all_stages,
    edit_arm,
    read_yaml,
    results,
    trained,
    would_train,
    write_yaml,
)

pytestmark = pytest.mark.slow  # minutes on two cores: there are many stages


def of_arms(found: list[str]) -> set[str]:
    return {name.removeprefix("arms/") for name in found if name.startswith("arms/")}


def using(**train: object) -> set[str]:
    """The arms that train with these settings."""
    arms = SMALL_STUDIES["arms"].items()
    complete = {name: {**SMALL_STUDIES["defaults"], **arm["train"]} for name, arm in arms}
    return {name for name, one in complete.items() if train.items() <= one.items()}


def append(project: Project, path: str, text: str = "\n# An edit.\n") -> None:
    file = project.folder / path
    file.write_text(file.read_text() + text)


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.ran("repro", STUDIES) == []


def test_a_forced_run_computes_an_arm_again(project: Project) -> None:
    before = results(project)
    path = project.folder / "metrics/studies/arms/adam.json"
    time = path.stat().st_mtime_ns

    project.dvc("repro", "-f", "-s", f"{TRAINING}:arm@adam")

    assert results(project) == before
    assert path.stat().st_mtime_ns > time
    # Finished pieces are kept until the stage ends well.
    assert not list(project.folder.glob(".scratch/studies_adam/*"))


def test_the_main_pipeline_needs_no_study(studied: Project) -> None:
    outputs = {path for stage in all_stages(studied).values() for path in stage_outputs(stage)}
    inputs = {path for stage in studied.stages().values() for path in stage["deps"]}
    assert not outputs & inputs
    assert not any(path.startswith("stages/studies") for path in inputs)


def test_an_arm_is_one_file(studied: Project) -> None:
    for name in ("rank_20", "digits", "noise_0"):
        content = json.loads((studied.folder / f"metrics/studies/arms/{name}.json").read_text())
        settings = json.loads((studied.folder / f"data/arms/{name}.json").read_text())["train"]
        assert content["train"] == settings
        tuning = {(row["lr"], row["replicate"]) for row in content["tuning"]}
        assert tuning == {(lr, i) for lr in settings["lrs"] for i in range(2)}
        for row, losses in zip(
            content["replicates"], content["validation_losses_nats"].values(), strict=True
        ):
            # From before training to after the last epoch.
            assert len(losses) == settings["epochs"] + 1
            assert row["validation_loss_nats"] == losses[-1]
            assert row["best_validation_loss_nats"] == min(losses)


def test_full_rank_is_adam_to_the_last_bit(studied: Project) -> None:
    full, adam = (
        json.loads((studied.folder / f"metrics/studies/arms/{name}.json").read_text())
        for name in ("rank_21", "adam")
    )
    for key in ("lr", "tuning", "replicates"):
        assert full[key] == adam[key]


# What runs again


def test_changes_of_arms_train_these_arms_alone(project: Project) -> None:
    edit_arm(project, "random_subspace", train={"hyperparameters": {"keep": "random", "rank": 2}})
    edit_arm(project, "randomized", train={"lrs": [0.003, 0.01]})
    # What these change is a comparison, or the analysis of an arm that is trained.
    edit_arm(project, "rank_20", label="renamed")
    edit_arm(project, "permuted", against=["adam", "rank_20"])
    set_params(project.folder / "params.yaml", {"compare.margin": 0.5})
    content = read_yaml(project, ARMS)
    content["trajectories"].append("rank_21")
    write_yaml(project, ARMS, content)

    changed = ["arms/random_subspace", "arms/randomized"]
    assert sorted(would_train(project)) == [*changed, "gradients/rank_21"]
    compared = (f"{STUDIES}:compare@{study}" for study in ("rank_sweep", "controls"))
    assert sorted(trained(project, *compared)) == changed
    arm = json.loads((project.folder / "metrics/studies/arms/randomized.json").read_text())
    assert {row["lr"] for row in arm["tuning"]} == {0.003, 0.01}
    table = pd.read_csv(project.folder / "metrics/studies/rank_sweep.csv").set_index("arm")
    assert set(table.loc["rank_20", "label"]) == {"renamed"}
    table = pd.read_csv(project.folder / "metrics/studies/controls.csv")
    assert set(table.set_index("arm").loc["permuted", "against"]) == {"adam", "rank_20"}
    assert list(table["margin"]) == pytest.approx(list(0.5 * table["mean_against"]))


def test_what_no_arm_uses_trains_nothing(project: Project) -> None:
    append(project, "stages/studies/report/tables.py")
    for package in ("optimizers", "networks", "datasets"):
        (project.folder / f"stages/experiment/{package}/mine.py").write_text('"""Mine."""\n')
    changes = {"model.name": "logistic", "model.hidden": [9], "training.epochs": 3}
    changes |= {"device": "cuda", "data.flipped": 0.1}
    set_params(project.folder / "params.yaml", changes)
    assert would_train(project) == []


def test_an_edit_of_a_module_trains_the_arms_that_use_it_alone(project: Project) -> None:
    modules = ["optimizers/controls", "optimizers/muon", "networks/logistic"]
    # The data stay as they are, and no arm reports.
    modules += ["datasets/digits", "report/statistics"]
    for module in modules:
        append(project, f"stages/experiment/{module}.py")
    expected = using(optimizer="controls") | using(optimizer="muon") | using(model="logistic")
    assert of_arms(would_train(project)) == expected


def test_another_setting_trains_what_it_is_of_alone(project: Project) -> None:
    content = read_yaml(project, ARMS)
    content["search_budget"]["samplers"] += 1
    content["gradients"]["batches"] += 1
    write_yaml(project, ARMS, content)
    trajectories = {f"gradients/{name}" for name in SMALL_STUDIES["trajectories"]}
    assert set(would_train(project)) == {"search_budget", *trajectories}

    content["published"]["samplers"] += 1
    content["data"]["flipped_20"]["flipped"] = 0.3
    write_yaml(project, ARMS, content)
    ran = would_train(project)
    assert of_arms(ran) == using(data="flipped_20")
    assert "published" in ran


# No study of one's own


def test_an_empty_own_yaml_adds_no_stage(project: Project) -> None:
    empty = (ROOT / OWN).read_text()
    assert yaml.safe_load(empty) == {"own_studies": [], "own": {}, "data": {}}
    (project.folder / OWN).write_text(empty)
    listed = project.dvc("stage", "list", "--name-only", STUDIES).stdout.split()
    assert listed
    assert not [name for name in listed if "own" in name]
    assert would_train(project) == []
    assert not (project.folder / "metrics/own/arms").exists()


# Mistakes


def test_a_mistake_leaves_every_result(project: Project) -> None:
    before = results(project)
    for path, content in (
        (ARMS, {**SMALL_STUDIES, "unknown": 1}),
        # A second stage with the output of a published one.
        (OWN, {"own_studies": ["controls"], "own": {}}),
        # What DVC itself needs to make stages of.
        (OWN, {"own_studies": [], "own": None}),
    ):
        write_yaml(project, path, content)
        failed = project.dvc("repro", STUDIES, check=False)
        project.run("git", "checkout", "-q", path)
        assert failed.returncode != 0
        assert "Traceback" not in failed.stderr
        after = {name: project.folder / name for name in before}
        assert {name: file.read_bytes() for name, file in after.items()} == before


def test_an_optimizer_against_itself_is_equivalent(tmp_path: Path) -> None:
    """A wide grid is refined until it is as fine as the grid of the published Adam."""
    project = Project.fresh(tmp_path, {})
    content = read_yaml(project, ARMS)
    arms = {name: content["arms"][name] for name in ("adam",)}
    small = {**content, "arms": arms, "trajectories": ["adam"]}
    write_yaml(project, ARMS, small)
    again = {"study": "mine", "label": "Adam", "against": ["adam"], "train": {"optimizer": "adam"}}
    write_yaml(project, OWN, {"own_studies": ["mine"], "own": {"again": again}})
    project.dvc("repro", f"{STUDIES}:compare_own@mine", EXPERIMENT_WORKERS="2")
    table = pd.read_csv(project.folder / "metrics/own/mine.csv").set_index("measure")
    assert table.loc["test_loss_nats", "verdict"] == "equivalent"
