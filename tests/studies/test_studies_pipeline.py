"""The studies as a pipeline: what runs again, what a mistake leaves, and what they conclude."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from project import ARMS, ROOT, STUDIES, Project, set_params, stage_outputs

from .small import (
    OWN,
    SIGN,
    SMALL_STUDIES,
    STUDY,
    TRAINING,
    all_stages,
    edit_arm,
    read_yaml,
    refused,
    results,
    trained,
    write_yaml,
)

pytestmark = pytest.mark.slow  # two minutes on two cores: there are many stages

CONTROLS = [
    f"arms/{name}"
    for name, arm in SMALL_STUDIES["controls"].items()
    if arm["train"]["optimizer"] == "controls"
]


def of_arms(found: list[str]) -> list[str]:
    return [name for name in found if name.startswith(("arms/", "own/"))]


def append(project: Project, path: str, text: str = "\n# An edit.\n") -> None:
    file = project.folder / path
    file.write_text(file.read_text() + text)


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.ran("repro", STUDIES) == []


def test_a_forced_run_computes_an_arm_again(project: Project) -> None:
    before = results(project)
    path = project.folder / "metrics/studies/arms/adam.json"
    time = path.stat().st_mtime_ns

    project.dvc("repro", "-f", "-s", f"{TRAINING}:rank_sweep@adam")

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
    for name in ("rank_1", "digits", "noise_0", "flipped_permuted"):
        content = json.loads((studied.folder / f"metrics/studies/arms/{name}.json").read_text())
        given = {**SMALL_STUDIES["defaults"], **SMALL_STUDIES[STUDY[name]][name]["train"]}
        assert content["lr"] in given["lrs"]
        tuning = {(row["lr"], row["replicate"]) for row in content["tuning"]}
        assert tuning == {(lr, i) for lr in given["lrs"] for i in range(2)}
        replicates = [row["replicate"] for row in content["replicates"]]
        assert replicates == list(range(given["replicates"]))
        assert content["train"] == {
            "tuning_replicates": 2,
            "replicates": given["replicates"],
            "group": 4,
            "optimizer": given["optimizer"],
            "hyperparameters": given.get("hyperparameters", {}),
            "model": given["model"],
            "data": given.get("data", {}),
            "noise": given.get("noise", 1),
        }


def test_full_rank_is_adam_to_the_last_bit(studied: Project) -> None:
    full, adam = (
        json.loads((studied.folder / f"metrics/studies/arms/{name}.json").read_text())
        for name in ("rank_21", "adam")
    )
    for key in ("lr", "tuning", "replicates"):
        assert full[key] == adam[key]


def test_a_full_rank_that_differs_from_adam_is_refused(project: Project) -> None:
    path = project.folder / "metrics/studies/arms/rank_21.json"
    content = json.loads(path.read_text())
    content["replicates"][0]["test_loss_nats"] += 1e-9
    path.write_text(json.dumps(content))
    failed = project.run("python", "stages", "studies.report.rank_sweep", check=False)
    assert failed.returncode != 0
    assert "rank_21 keeps the whole gradient and yet differs from Adam" in failed.stderr


def test_the_conclusion_names_the_first_broken_link(studied: Project) -> None:
    conclusion = json.loads((studied.folder / "metrics/conclusion.json").read_text())
    links = conclusion["links"]
    assert list(links) == [
        "noise hurts",
        "the top subspace is cleaner",
        "cleaner survives Adam",
        "it pays",
    ]
    assert {link["state"] for link in links.values()} <= {"holds", "not shown", "refuted"}
    broken = [name for name, link in links.items() if link["state"] != "holds"]
    assert conclusion["first_broken_link"] == (broken[0] if broken else None)


# What runs again


def test_a_change_of_one_arm_trains_that_arm_alone(project: Project) -> None:
    edit_arm(project, "random_subspace", train={"hyperparameters": {"keep": "random", "rank": 2}})
    assert trained(project, STUDIES) == ["arms/random_subspace"]


def test_a_grid_of_its_own_trains_that_arm_alone(project: Project) -> None:
    edit_arm(project, "certified", train={"lrs": [0.003, 0.01]})
    assert trained(project, STUDIES) == ["arms/certified"]
    content = json.loads((project.folder / "metrics/studies/arms/certified.json").read_text())
    assert {row["lr"] for row in content["tuning"]} == {0.003, 0.01}


def test_a_grid_that_no_arm_has_trains_nothing(project: Project) -> None:
    content = read_yaml(project, ARMS)
    content["grids"]["long"] = [0.1, 0.2]
    write_yaml(project, ARMS, content)
    before = results(project)
    assert trained(project, STUDIES) == []
    assert results(project) == before


def test_a_change_of_a_label_trains_nothing(project: Project) -> None:
    edit_arm(project, "rank_1", label="one direction")
    assert trained(project, STUDIES) == []
    table = pd.read_csv(project.folder / "metrics/studies/rank_sweep.csv").set_index("arm")
    assert set(table.loc["rank_1", "label"]) == {"one direction"}


def test_another_comparison_trains_nothing(project: Project) -> None:
    edit_arm(project, "permuted", against=["adam", "rank_1"])
    assert trained(project, STUDIES) == []
    table = pd.read_csv(project.folder / "metrics/studies/controls.csv").set_index("arm")
    assert set(table.loc["permuted", "against"]) == {"adam", "rank_1"}


@pytest.mark.parametrize("module", ["statistics", "figures", "measures"])
def test_an_edit_of_a_report_trains_no_arm(project: Project, module: str) -> None:
    append(project, f"stages/experiment/report/{module}.py")
    before = results(project)
    assert of_arms(trained(project, STUDIES)) == []
    assert results(project) == before


def test_an_edit_of_a_report_of_the_studies_trains_nothing(project: Project) -> None:
    append(project, "stages/studies/report/tables.py")
    before = results(project)
    assert trained(project, STUDIES) == []
    assert results(project) == before


def test_an_optimizer_more_trains_no_published_arm(project: Project) -> None:
    (project.folder / "stages/experiment/optimizers/sign.py").write_text(SIGN)
    assert trained(project, STUDIES) == []


def test_a_network_or_a_data_set_more_trains_no_published_arm(project: Project) -> None:
    for room in ("networks", "datasets"):
        (project.folder / f"stages/experiment/{room}/mine.py").write_text('"""Mine."""\n')
    assert trained(project, STUDIES) == []


def test_an_edit_of_the_controls_trains_their_studies_alone(project: Project) -> None:
    append(project, "stages/experiment/optimizers/controls.py")
    found = set(trained(project, STUDIES))
    # A study is a stage with the inputs of all of its arms: the other arms of these train too.
    studies = (SMALL_STUDIES["controls"], SMALL_STUDIES["flipped_labels"])
    arms = {f"arms/{name}" for study in studies for name in study}
    assert set(CONTROLS) <= found
    assert {name for name in found if name.startswith("arms/")} <= arms


def test_another_trajectory_is_looked_at_alone(project: Project) -> None:
    content = read_yaml(project, ARMS)
    content["gradients"]["trajectories"]["rank_21"] = {}
    write_yaml(project, ARMS, content)
    assert trained(project, STUDIES) == ["gradients/rank_21"]


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        (
            "gradients",
            {"look": {"batches": 6}},
            {f"gradients/{name}" for name in SMALL_STUDIES["gradients"]["trajectories"]},
        ),
        ("search_budget", {"samplers": 3}, {"search_budget"}),
        ("published", {"samplers": 3}, {"published"}),
    ],
)
def test_another_setting_of_what_is_no_arm_trains_no_arm(
    project: Project, section: str, change: dict[str, Any], expected: set[str]
) -> None:
    content = read_yaml(project, ARMS)
    for key, value in change.items():
        if isinstance(value, dict):
            content[section][key] |= value
        else:
            content[section][key] = value
    write_yaml(project, ARMS, content)
    assert set(trained(project, STUDIES)) == expected


def test_the_margin_trains_nothing(project: Project) -> None:
    set_params(project.folder / "params.yaml", {"compare.margin": 0.5})
    assert trained(project, STUDIES) == []
    table = pd.read_csv(project.folder / "metrics/studies/controls.csv")
    assert list(table["margin"]) == pytest.approx(list(0.5 * table["mean_against"]))


# No study of one's own


def test_an_empty_own_yaml_adds_no_stage(project: Project) -> None:
    empty = (ROOT / OWN).read_text()
    assert yaml.safe_load(empty) == {"own_studies": [], "own": {}}
    (project.folder / OWN).write_text(empty)
    listed = project.dvc("stage", "list", "--name-only", STUDIES).stdout.split()
    assert listed
    assert not [name for name in listed if "own" in name]
    assert trained(project, STUDIES) == []
    assert not (project.folder / "metrics/own/arms").exists()


# Mistakes


def mistaken(project: Project, path: str, **changes: Any) -> None:  # noqa: ANN401
    """Change dotted keys, dots as two underscores, of a YAML file; with None, delete them."""
    content = read_yaml(project, path)
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = content
        for part in sections:
            section = section[part]
        if value is None:
            del section[name]
        else:
            section[name] = value
    write_yaml(project, path, content)


ONE = {"study": "mine", "label": "one", "against": ["adam"], "train": {"optimizer": "adam"}}


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        (
            ARMS,
            {"rank_sweep__rank_1__agianst": []},
            "stages/studies/arms.yaml: unknown key rank_sweep.rank_1.agianst",
        ),
        (
            ARMS,
            {"rank_sweep__rank_1__against": ["nobody"]},
            "stages/studies/arms.yaml: rank_sweep.rank_1.against = ['nobody']; allowed: names of",
        ),
        (
            ARMS,
            {"controls__energy__train__noise": "much"},
            "noise = 'much'; allowed: a number from 0 to 100",
        ),
        (
            OWN,
            {"own_studies": ["mine"], "own": {"adam": ONE}},
            "stages/studies/own.yaml: own.adam; allowed: a name that arms.yaml does not have",
        ),
        (
            OWN,
            {"own_studies": ["mine"], "own": {"one": {**ONE, "against": ["nobody"]}}},
            "own.one.against = ['nobody']; allowed: names of arms, which nobody is not",
        ),
        (
            OWN,
            {"own": {"one": ONE}},
            "own.one.study = 'mine'; allowed: one of own_studies, []",
        ),
        (
            OWN,
            {"own_studies": ["mine"], "own": {"one": {**ONE, "agianst": []}}},
            "stages/studies/own.yaml: unknown key own.one.agianst",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_every_output(
    project: Project, path: str, changes: dict[str, Any], message: str
) -> None:
    mistaken(project, path, **changes)
    before = {name: one for name, one in results(project).items() if name.count("own") == 0}

    failed = project.dvc("repro", STUDIES, check=False)

    assert failed.returncode != 0
    errors = re.findall(r"^error: .*$", failed.stderr, re.MULTILINE)
    assert len(errors) == 1, failed.stderr
    assert message in errors[0]
    assert "Traceback" not in failed.stderr
    after = results(project)
    assert {name: after[name] for name in before} == before
    assert of_arms([name for name in after if name not in before]) == []


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        # A second stage with the output of a published one.
        (OWN, {"own_studies": ["controls"]}),
        # What DVC itself needs to make stages of.
        (OWN, {"own": None}),
        (OWN, {"own_studies": ["mine"], "own": {"one": {"study": "mine"}}}),
        (ARMS, {"controls__energy__train": None}),
        (ARMS, {"gradients__trajectories__nobody": {}}),
    ],
)
def test_what_dvc_cannot_make_stages_of_leaves_every_output(
    project: Project, path: str, changes: dict[str, Any]
) -> None:
    before = results(project)
    mistaken(project, path, **changes)
    failed = project.dvc("repro", STUDIES, check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    after = {name: project.folder / name for name in before}
    assert {name: file.read_bytes() for name, file in after.items()} == before


WORDS = "--lrs 0.1 --tuning_replicates 1 --replicates 2 --group 1 --model mlp"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optimizer nonexistent", "arm adam: train.optimizer = 'nonexistent'; allowed: a module"),
        (
            "--optimizer lrg_adam --hyperparameters.rank 22",
            "arm adam: train.hyperparameters.rank = 22; allowed: a whole number from 1 to 21",
        ),
        ("--optimiser adam --optimizer adam", "arm adam: unknown key optimiser = 'adam'; allowed"),
        ("--optimizer adam --lrs 1e6", "arm adam: lrs = 1000000.0; allowed: an ascending list"),
    ],
)
def test_a_mistake_in_a_command_leaves_every_output(
    project: Project, words: str, message: str
) -> None:
    before = results(project)
    command = f"studies.training.arm metrics/studies/arms/adam.json {WORDS} {words}"
    refused(project, command, message)
    assert results(project) == before


LOOK = "--ranks 1 5 --epochs 1 2 --replicates 3 --group 2 --batches 5 --fresh_samples 300"


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        ("nobody", "metrics/own/arms/nobody.json: No such file or directory"),
        ("noise_0", "trajectories: noise_0; allowed: arms of adam or lrg_adam that train the mlp"),
        ("logistic_rank_1", "trajectories: logistic_rank_1; allowed: arms of adam or lrg_adam"),
        ("random_subspace", "trajectories: random_subspace; allowed: arms of adam or lrg_adam"),
        ("cnn", "trajectories: cnn; allowed: arms of adam or lrg_adam that train the mlp"),
        ("digits", "data.name = 'digits'; the look at gradients generates fresh samples; allowed"),
    ],
)
def test_a_trajectory_that_cannot_be_looked_at_is_named(
    project: Project, trajectory: str, message: str
) -> None:
    before = results(project)
    refused(project, f"studies.gradients.trajectory {trajectory} {LOOK}", message)
    assert results(project) == before


def test_on_other_data_an_arm_on_mnist1d_is_what_it_was_and_a_look_ends_in_one_line(
    project: Project,
) -> None:
    set_params(project.folder / "params.yaml", {"data.name": "digits"})
    before = results(project)

    project.dvc("repro", f"{TRAINING}:elsewhere@logistic_rank_1")
    failed = project.dvc("repro", f"{STUDIES}:gradients@adam", check=False)

    assert failed.returncode != 0
    errors = re.findall(r"^error: .*$", failed.stderr, re.MULTILINE)
    assert len(errors) == 1, failed.stderr
    assert "mnist1d" in errors[0]
    for output in ("arms/logistic_rank_1.json", "gradients/adam.csv"):
        path = f"metrics/studies/{output}"
        assert (project.folder / path).read_bytes() == before[path]
    # The arm that is looked along is trained on them.
    adam = json.loads((project.folder / "metrics/studies/arms/adam.json").read_text())
    assert adam["matrix_side"] == 25  # of 610 weights


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
@pytest.mark.parametrize("optimizer", ["adam", "lrg_adam", "torch.optim.RMSprop"])
def test_the_check_of_an_arm_leaves_the_process_with_one_thread(
    studied: Project, optimizer: str
) -> None:
    given = {"rank": 1} if optimizer == "lrg_adam" else {}
    code = f"""
import os
from experiment.training import optimizer
from studies.training import arm, shared
from studies.training.arms import ArmTraining
params = shared.read()
one = ArmTraining(
    lrs=[0.1], tuning_replicates=1, replicates=2, group=1, optimizer={optimizer!r}, model="mlp",
    hyperparameters={given},
)
setting = arm.settings(params, one)[0]
network = setting.network(arm.read_data(params, one.data, "").train)
optimizer.check(one.optimizer, setting.hyperparameters, network, "arm")
print(len(os.listdir("/proc/self/task")))
"""
    path = Path(studied.folder, "stages")
    assert studied.run("python", "-c", code, PYTHONPATH=str(path)).stdout == "1\n"
