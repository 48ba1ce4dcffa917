"""A stage runs again when something it reads has changed, and only then."""

from __future__ import annotations

import json
from contextlib import chdir

import pytest
from dvc.repo import Repo
from project import SAID, Project, set_params, stages_run

LRG_BRANCH = ["tune_lrg_adam", "final_train@lrg_adam", "compare", "plot"]
TRAINING = ["tune_adam", "tune_lrg_adam", "final_train@adam", "final_train@lrg_adam"]
CHECK, DATA = "check_params", "fetch_data"
REPORTS = ["compare", "plot"]
ALL = [CHECK, DATA, *TRAINING, *REPORTS]


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.ran("repro") == []


def test_pinning_the_rank_reruns_the_branch_of_lrg_adam_alone(
    at_10: Project, finished: Project
) -> None:
    # What does not depend on each other DVC may run in any order, here and below.
    ran = stages_run((at_10.folder / SAID).read_text())
    assert ran[:3] == [CHECK, *LRG_BRANCH[:2]]
    assert sorted(ran[3:]) == REPORTS

    before, after = finished.read(), at_10.read()
    assert json.loads(after["metrics/tune_lrg_adam.json"])["best"]["rank"] == 10
    untouched = ["data/mnist1d.npz", "metrics/tune_adam.json", "metrics/adam.json"]
    untouched += ["models/adam.pt", "data/versions.json"]
    assert all(after[name] == before[name] for name in untouched)


@pytest.fixture(scope="module")
def edited(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project, in which a test undoes its edits."""
    return finished.copy(tmp_path_factory.mktemp("edited") / "project")


def stale(project: Project) -> list[str]:
    """The stages whose own inputs have changed; others follow where an output changes."""
    with chdir(project.folder), Repo() as repo:
        status = repo.status(targets=["dvc.yaml"])
    assert all("changed outs" not in str(found) for found in status.values()), status
    return [name for name in ALL if name in status]


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("stages/tune.py", ["tune_adam", "tune_lrg_adam"]),
        # What reports is no part of what trains.
        ("stages/experiment/report/statistics.py", [CHECK, *REPORTS]),
        ("stages/experiment/training/loop.py", [CHECK, *TRAINING]),
        ("stages/experiment/stage/files.py", ALL),
        # Of the modules that are chosen by name, one that is not in use is checked and no more.
        ("stages/experiment/optimizers/adam.py", [CHECK, "tune_adam", "final_train@adam"]),
        ("stages/experiment/optimizers/of_my_own.py", [CHECK]),
        ("stages/experiment/networks/mlp.py", [CHECK, *TRAINING]),
        ("stages/experiment/networks/of_my_own.py", [CHECK]),
        ("stages/experiment/datasets/mnist1d.py", [CHECK, DATA]),
        # Both final trainings are one matrix of stages, with one list of inputs.
        ("stages/lrg_adam/optimizer.py", [CHECK, *TRAINING[1:]]),
        ("stages/studies/of_my_own.py", []),
        ("README.md", []),
    ],
)
def test_an_edit_makes_stale_what_reads_the_file(
    edited: Project, path: str, stages: list[str]
) -> None:
    file = edited.folder / path
    before = file.read_bytes() if file.exists() else None
    file.write_bytes((before or b"") + b"\n# an edit\n")
    try:
        assert stale(edited) == stages
    finally:
        file.unlink() if before is None else file.write_bytes(before)


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("rank", 3, [CHECK, "tune_lrg_adam"]),
        ("data.flipped", 0.3, [CHECK, DATA]),
        ("training.epochs", 3, [CHECK, *TRAINING]),
        ("adam.weight_decay", 0.1, [CHECK, "tune_adam", "final_train@adam"]),
        ("lrg_adam.method", "svd", [CHECK, "tune_lrg_adam", "final_train@lrg_adam"]),
        ("compare.margin", 0.5, [CHECK, "compare"]),
    ],
)
def test_a_parameter_makes_stale_what_declares_it(
    edited: Project, key: str, value: object, stages: list[str]
) -> None:
    params = edited.folder / "params.yaml"
    before = params.read_text()
    set_params(params, {key: value})
    try:
        assert stale(edited) == stages
    finally:
        params.write_text(before)


def test_a_comment_in_the_parameters_makes_nothing_stale(edited: Project) -> None:
    params = edited.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("\nseed: 0", "\n# a comment\nseed:   0  # another"))
    try:
        assert stale(edited) == []
    finally:
        params.write_text(before)


@pytest.mark.slow
def test_the_same_bytes_again_rerun_nothing_more(project: Project) -> None:
    script = project.folder / "stages/experiment/optimizers/lrg_adam.py"
    script.write_text(script.read_text() + "\n# an edit\n")

    assert sorted(project.ran("repro")) == [CHECK, "final_train@lrg_adam", "tune_lrg_adam"]
