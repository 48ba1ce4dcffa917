"""Other versions than those of constraints.txt end a run before it costs a result."""

from __future__ import annotations

from project import Project


def test_another_version_costs_no_result(project: Project) -> None:
    # No result, and the first to be made anew: DVC deletes it before check_params begins.
    listed = "data/versions.json"
    before = project.read()
    del before[listed]
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text().replace("optuna==", "optuna==9."))

    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "error: constraints.txt: optuna==9.5.0.0, but 5.0.0 is installed" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert {name: what for name, what in project.read().items() if name != listed} == before


def test_a_pin_that_decides_no_result_makes_none_out_of_date(project: Project) -> None:
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text().replace("mypy==", "mypy==9."))

    assert project.ran("repro") == ["check_params"]
