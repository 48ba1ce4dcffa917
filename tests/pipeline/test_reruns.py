"""A stage runs again when something it reads has changed, and only then."""

from __future__ import annotations

import json

import pytest
from project import Project, set_params

LRG_BRANCH = ["tune_lrg_adam", "final_train@lrg_adam", "compare", "plot"]


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.ran("repro") == []


def test_pinning_the_rank_reruns_the_branch_of_lrg_adam_alone(project: Project) -> None:
    before = project.read()

    assert project.ran("exp", "run", "-S", "rank=10") == LRG_BRANCH

    after = project.read()
    assert json.loads(after["metrics/tune_lrg_adam.json"])["best"]["rank"] == 10
    untouched = ["metrics/tune_adam.json", "metrics/adam.json", "models/adam.pt"]
    assert all(after[name] == before[name] for name in untouched)


@pytest.mark.slow
def test_going_back_after_an_experiment_leaves_nothing_to_run(project: Project) -> None:
    before = project.read()
    project.dvc("exp", "run", "-S", "rank=10")

    project.run("git", "checkout", "--", ".")
    project.dvc("checkout")

    assert project.read() == before
    assert project.ran("repro") == []


@pytest.mark.slow
def test_more_final_replicates_retune_nothing(project: Project) -> None:
    set_params(project.folder / "params.yaml", {"final_train.replicates": 8})

    ran = project.ran("repro")
    # The two trainings do not depend on each other: DVC may run either first.
    assert sorted(ran[:2]) == ["final_train@adam", "final_train@lrg_adam"]
    assert ran[2:] == ["compare", "plot"]


def test_an_edit_of_the_plot_script_replots_alone(project: Project) -> None:
    script = project.folder / "stages/plot.py"
    script.write_text(script.read_text() + "\n# an edit\n")

    assert project.ran("repro") == ["plot"]


@pytest.mark.slow
def test_a_new_search_with_the_same_result_retrains_nothing(project: Project) -> None:
    script = project.folder / "stages/tune.py"
    script.write_text(script.read_text() + "\n# an edit\n")

    assert sorted(project.ran("repro")) == ["tune_adam", "tune_lrg_adam"]


@pytest.mark.parametrize("value", ["ten", pytest.param("true", marks=pytest.mark.slow)])
def test_a_mistyped_rank_costs_no_result(project: Project, value: str) -> None:
    before = project.read()

    failed = project.dvc("exp", "run", "-S", f"rank={value}", check=False)

    assert failed.returncode != 0
    message = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert "rank" in message[0]
    assert "Traceback" not in failed.stderr
    assert project.read() == before


@pytest.mark.slow
def test_a_number_that_dvc_writes_as_text_is_that_number(project: Project) -> None:
    project.dvc("exp", "run", "-S", "tune.lr.low=1e-5")

    assert "low: 1e-05" in (project.folder / "params.yaml").read_text()
    assert project.ran("repro") == []
