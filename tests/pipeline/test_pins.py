"""Other versions than those of constraints.txt end a run before it costs a result."""

from __future__ import annotations

from project import Project


def test_another_version_costs_no_result(project: Project) -> None:
    # No result, and the first to be made anew: DVC deletes it before check_params begins.
    checked = "data/params_checked.txt"
    before = project.read()
    del before[checked]
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text().replace("optuna==", "optuna==9."))

    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "error: constraints.txt: optuna==9.5.0.0, but 5.0.0 is installed" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert {name: what for name, what in project.read().items() if name != checked} == before


def test_an_edit_of_the_constraints_runs_every_stage_that_computes(project: Project) -> None:
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text() + "# an upgrade\n")

    planned = project.dvc("repro", "--dry").stdout

    for stage in project.stages():
        if stage.partition("@")[0] in {"check_params", "fetch_data", "tune_adam", "tune_lrg_adam"}:
            assert f"Running stage '{stage}'" in planned
    assert all("constraints.txt" in stage["deps"] for stage in project.stages().values())
