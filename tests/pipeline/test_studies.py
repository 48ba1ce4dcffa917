"""The studies: what they read and write, what they run again, and an optimizer more."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from processes import kept
from project import ARMS, ROOT, SMALL_STUDIES, STUDIES, Project, set_params, stage_outputs
from test_hermetic import files_below, isolated

pytestmark = pytest.mark.slow  # two minutes on two cores: there are many stages

STEPS = [
    *(f"arm@{name}" for name in SMALL_STUDIES["studies.arms"]),
    *(name for name in Project(ROOT).stages(STUDIES) if not name.startswith("gradients@")),
    *(f"gradients@{name}" for name in SMALL_STUDIES["studies.gradients"]["trajectories"]),
]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose studies have run; not to be changed."""
    project = Project.fresh(tmp_path_factory.mktemp("studied"), SMALL_STUDIES)
    project.dvc("repro", STUDIES)
    project.commit("Results")
    return project


@pytest.fixture
def project(studied: Project, tmp_path: Path) -> Project:
    return studied.copy(tmp_path / "project")


def studies_run(project: Project, *arguments: str) -> list[str]:
    """The stages of the studies that `dvc <arguments>` ran, without the names of their files."""
    return [name.rpartition(":")[2] for name in project.ran(*arguments)]


def refused(project: Project, step: str, message: str) -> None:
    """Expect that a step of the studies ends in one line, with `message` in it."""
    failed = project.run("python", "stages/study.py", *step.split(), check=False)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert re.fullmatch(r"error: .*\n", failed.stderr)


@pytest.mark.parametrize("name", STEPS)
def test_a_study_needs_its_declared_inputs_alone(
    studied: Project, name: str, tmp_path: Path
) -> None:
    stage = studied.studies()[name]
    sandbox = isolated(studied, stage, tmp_path)
    before = files_below(tmp_path)

    sandbox.run("sh", "-c", stage["cmd"])

    after = files_below(tmp_path)
    assert set(after) - set(before) == set(stage_outputs(stage))
    assert {path: after[path] for path in before} == before
    # The same bytes again: nothing depends on time, on place or on what ran before.
    assert all(after[path] == (studied.folder / path).read_bytes() for path in stage_outputs(stage))


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert studies_run(project, "repro", STUDIES) == []


def test_a_forced_run_computes_a_study_again(project: Project) -> None:
    before, done = project.read(), kept(project, "studies_adam")

    project.dvc("repro", "-f", "-s", f"{ARMS}:arm@adam")

    assert project.read() == before
    again = kept(project, "studies_adam")
    assert again.keys() == done.keys() != set()
    assert not again.items() & done.items()


def test_the_main_pipeline_needs_no_study(studied: Project) -> None:
    outputs = {path for s in studied.studies().values() for path in stage_outputs(s)}
    inputs = {path for stage in studied.stages().values() for path in stage["deps"]}
    assert not outputs & inputs


def test_full_rank_is_adam_to_the_last_bit(studied: Project) -> None:
    replicates = studied.folder / "metrics/studies/replicates"
    assert (replicates / "rank_21.csv").read_bytes() == (replicates / "adam.csv").read_bytes()


def test_a_full_rank_that_differs_from_adam_is_refused(project: Project) -> None:
    path = project.folder / "metrics/studies/replicates/rank_21.csv"
    table = pd.read_csv(path)
    table.loc[0, "test_loss_nats"] += 1e-9
    table.to_csv(path, index=False)
    failed = project.run("python", "stages/study.py", "rank_sweep", check=False)
    assert failed.returncode != 0
    assert "rank_21 keeps the whole gradient and yet differs from Adam" in failed.stderr


def test_a_change_of_one_arm_trains_that_arm_alone(project: Project) -> None:
    rank = "studies.arms.random_subspace.train.hyperparameters.rank"
    set_params(project.folder / "params.yaml", {rank: 2})

    ran = studies_run(project, "repro", STUDIES)

    trained = [name for name in ran if name.startswith(("arm@", "gradients@", "published"))]
    assert trained == ["arm@random_subspace"]


def test_a_change_of_a_label_trains_nothing(project: Project) -> None:
    label = "studies.arms.rank_1.label"
    set_params(project.folder / "params.yaml", {label: "one direction"})

    ran = studies_run(project, "repro", STUDIES)

    assert not [name for name in ran if name.startswith(("arm@", "gradients@", "published"))]
    table = pd.read_csv(project.folder / "metrics/studies/rank_sweep.csv").set_index("arm")
    assert set(table.loc["rank_1", "label"]) == {"one direction"}


def test_another_trajectory_is_looked_at_alone(project: Project) -> None:
    trajectories = ["adam", "rank_1", "rank_21"]
    params = project.folder / "params.yaml"
    set_params(params, {"studies.gradients.trajectories": trajectories})

    ran = studies_run(project, "repro", STUDIES)

    looked_at = [name for name in ran if name.startswith("gradients@")]
    assert looked_at == ["gradients@rank_21"]


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


def test_an_optimizer_is_added_by_one_function_and_one_section(project: Project) -> None:
    """The worked example of the README."""
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(
        r"`stages/experiment/optimizers/sgd\.py`.*?```python\n(.*?)```", readme, re.S
    )
    (project.folder / "stages/experiment/optimizers/sgd.py").write_text(code)
    (section,) = re.findall(r"`studies\.arms` in `params\.yaml`.*?```yaml\n(.*?)```", readme, re.S)
    params = project.folder / "params.yaml"
    arms = yaml.safe_load(params.read_text())["studies"]["arms"]
    set_params(params, {"studies.arms": arms | yaml.safe_load(section)})

    ran = studies_run(project, "repro", f"{STUDIES}:compare_arms@controls")

    assert ran == ["arm@sgd", "compare_arms@controls"]
    ran = studies_run(project, "repro", STUDIES)
    assert not [name for name in ran if name.startswith(("arm@", "gradients@", "published"))]
    table = pd.read_csv(project.folder / "metrics/studies/controls.csv")
    assert set(table["arm"]) == {"random_subspace", "sgd"}
    row = table[(table["arm"] == "sgd") & (table["measure"] == "test_loss_nats")].iloc[0]
    assert row["verdict"] in {"better", "worse", "equivalent", "inconclusive"}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimiser": "adam"}, "unknown key studies.arms.adam.train.optimiser"),
        (
            {"noise": "much"},
            "studies.arms.adam.train.noise = 'much'; allowed: a number from 0 to 100",
        ),
        ({"optimizer": "nonexistent"}, "no optimizer nonexistent"),
        *(
            (
                {"optimizer": optimizer, "hyperparameters": given},
                f"params.yaml: studies.arms.adam.train.hyperparameters{message}",
            )
            for optimizer, given, message in (
                ("adam", {"rnak": 1}, " = {'rnak': 1}; allowed: what stages/experiment/optimizers"),
                ("adam", {"lr": 0.1}, " = {'lr': 0.1}; allowed: arguments of the optimizer other"),
                ("lrg_adam", {}, " = {}; allowed: what stages/experiment/optimizers/lrg_adam.py"),
                ("lrg_adam", {"rank": -3}, ".rank = -3; allowed: a whole number from 1 to 21"),
                ("lrg_adam", {"rank": 22}, ".rank = 22; allowed: a whole number from 1 to 21"),
                ("lrg_adam", {"rank": "ten"}, " = {'rank': 'ten'}; allowed: what stages/"),
                ("lrg_adam", {"rank": 1.5}, " = {'rank': 1.5}; allowed: what stages/"),
                ("lrg_adam", {"rank": 1, "method": "qr"}, " = {'rank': 1, 'method': 'qr'}; allow"),
                ("lrg_adam", {"rank": True}, " = {'rank': True}; allowed: arguments of the"),
                ("lrg_adam", {"rank": [1]}, " = {'rank': [1]}; allowed: arguments of the"),
                ("lrg_adam", {"rank": float("nan")}, " = {'rank': nan}; allowed: arguments of"),
                ("adam_complement", {"rank": 22}, ".rank = 22; allowed: a whole number from 1"),
                ("adam_complement", {"rank": 0.5}, " = {'rank': 0.5}; allowed: what stages/"),
                ("adam_complement", {"rank": "ten"}, " = {'rank': 'ten'}; allowed: what stages/"),
                ("adam_complement", {"rank": 21}, " = {'rank': 21}; allowed: what stages/"),
                ("adam_random_subspace", {"rank": 1.5}, " = {'rank': 1.5}; allowed: what stages/"),
                ("lrg_adam_permuted", {"rank": 1.5}, " = {'rank': 1.5}; allowed: what stages/"),
                ("lrg_adam_energy", {"energy": "most"}, " = {'energy': 'most'}; allowed: what"),
                ("lrg_adam_energy", {"energy": 88}, " = {'energy': 88}; allowed: what stages/"),
                ("lrg_adam_per_layer", {"rank_share": 5}, " = {'rank_share': 5}; allowed: what"),
                *(
                    ("lrg_adam", {"rank": 1, name: 1}, f" = {{'rank': 1, '{name}': 1}}; allowed: ")
                    for name in ("amsgrad", "foreach", "differentiable", "betas")
                ),
                ("per_replicate", {}, " = {}; allowed: what stages/experiment/optimizers/per_re"),
                ("per_replicate", {"rank": 1}, " = {'rank': 1}; allowed: what stages/experiment"),
            )
        ),
    ],
)
def test_a_mistake_in_an_arm_is_named(project: Project, training: dict, message: str) -> None:
    params = project.folder / "params.yaml"
    arms = yaml.safe_load(params.read_text())["studies"]["arms"]
    arms["adam"]["train"] |= training
    set_params(params, {"studies.arms": arms})
    before = project.read()
    refused(project, "arm adam", message)
    assert project.read() == before


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
def test_the_check_of_an_arm_leaves_the_process_with_one_thread(studied: Project) -> None:
    code = """
import os
from studies import arm
from experiment.params import read_params
params = read_params((*arm.READS, "studies.arms.rank_1.train"))
arm.check(arm.settings(params, "rank_1")[0], "rank_1")
print(len(os.listdir("/proc/self/task")))
"""
    assert studied.run("python", "-c", code, PYTHONPATH="stages").stdout == "1\n"


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        ("nobody", "params.yaml: nothing is named 'nobody'"),
        ("noise_0", "trajectories: noise_0; allowed: arms of adam or lrg_adam without a noise"),
        ("logistic_rank_1", "trajectories: logistic_rank_1; allowed: arms of adam or lrg_adam"),
        ("random_subspace", "trajectories: random_subspace; allowed: arms of adam or lrg_adam"),
    ],
)
def test_a_trajectory_that_cannot_be_looked_at_is_named(
    project: Project, trajectory: str, message: str
) -> None:
    before = project.read()
    refused(project, f"gradients {trajectory}", message)
    assert project.read() == before


def test_a_trajectory_that_is_no_arm_is_named_by_dvc(project: Project) -> None:
    trajectories = {"studies.gradients.trajectories": ["adam", "nobody"]}
    set_params(project.folder / "params.yaml", trajectories)
    before = project.read()
    failed = project.dvc("repro", STUDIES, check=False)
    assert failed.returncode != 0
    assert re.search("gradients@nobody.*metrics/studies/arms/nobody.json", failed.stderr)
    assert project.read() == before
