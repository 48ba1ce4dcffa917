"""Results come from the versions that constraints.txt pins, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import ROOT, Project

from experiment import versions
from experiment.errors import UserError

CONSTRAINTS = ROOT / "constraints.txt"


def test_what_is_installed_is_what_is_pinned() -> None:
    versions.check(CONSTRAINTS)


@pytest.mark.parametrize("name", versions.DECISIVE)
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    found = versions.installed(name)
    other = tmp_path / "constraints.txt"
    other.write_text(CONSTRAINTS.read_text().replace(f"{name}=={found}", f"{name}==0.1"))

    with pytest.raises(UserError) as refused:
        versions.check(other)

    (line,) = str(refused.value).splitlines()
    assert f"{other}: {name}==0.1, but {found} is installed; allowed: " in line


def test_a_version_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "constraints.txt"
    other.write_text(CONSTRAINTS.read_text().replace("torch==", "# torch=="))

    with pytest.raises(UserError, match=r"no line torch==<version>"):
        versions.check(other)


def test_a_build_of_the_pinned_version_is_the_pinned_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "version", lambda _: "2.13.0+cu130")

    assert versions.installed("torch") == "2.13.0"


def test_another_version_costs_no_result(project: Project) -> None:
    before = project.read()
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text().replace("optuna==", "optuna==9."))

    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "error: constraints.txt: optuna==9.5.0.0, but 5.0.0 is installed" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert project.read() == before


def test_an_edit_of_the_constraints_runs_every_stage_that_computes(project: Project) -> None:
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text() + "# an upgrade\n")

    planned = project.dvc("repro", "--dry").stdout

    for stage in project.stages():
        if stage.partition("@")[0] in {"fetch_data", "tune_adam", "tune_lrg_adam"}:
            assert f"Running stage '{stage}'" in planned
    assert all("constraints.txt" in stage["deps"] for stage in project.stages().values())
