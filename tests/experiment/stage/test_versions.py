"""Results come from the versions that constraints.txt pins, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import ROOT, Project

from experiment.stage import versions
from experiment.stage.errors import UserError

CONSTRAINTS = (ROOT / "constraints.txt").read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("constraints.txt").write_text(CONSTRAINTS)
    Path("data").mkdir()


def listed(path: str, **changed: str) -> None:
    """Write what a check lists, with other versions of some packages."""
    Path(path).write_text(json.dumps({"versions": {**versions.pinned(), **changed}}))


def test_the_other_stages_ask_for_what_their_check_has_listed() -> None:
    listed("data/versions.json")
    listed("data/studies.json", torch="0.1")

    versions.check("tune")
    versions.check("benchmark.plot")
    with pytest.raises(UserError, match=r"data/studies\.json: torch==0\.1, but "):
        versions.check("studies.training.arm")


@pytest.mark.parametrize("name", versions.DECISIVE)
@pytest.mark.parametrize("stage", ["check_params", "tune"])
def test_another_version_is_refused(name: str, stage: str) -> None:
    found = versions.installed(name)
    listed("data/versions.json", **{name: "0.1"})
    Path("constraints.txt").write_text(CONSTRAINTS.replace(f"{name}=={found}", f"{name}==0.1"))

    with pytest.raises(UserError) as refused:
        versions.check(stage)

    (line,) = str(refused.value).splitlines()
    path = {"check_params": "constraints.txt", "tune": "data/versions.json"}[stage]
    assert line.startswith(f"{path}: {name}==0.1, but {found} is installed; allowed: ")


def test_a_version_that_is_not_pinned_is_refused() -> None:
    Path("constraints.txt").write_text(CONSTRAINTS.replace("torch==", "# torch=="))

    with pytest.raises(UserError, match=r"^constraints\.txt: no line torch==<version>$"):
        versions.check("check_params")


def test_a_build_of_the_pinned_version_is_the_pinned_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = versions.distribution("torch")
    monkeypatch.setattr(type(found), "version", "2.13.0+cu130")

    assert versions.installed("torch") == "2.13.0"


def test_the_copy_that_would_be_imported_is_what_counts(tmp_path: Path) -> None:
    (tmp_path / "optuna").mkdir()
    (tmp_path / "optuna/__init__.py").touch()

    done = Project(ROOT).shell("python stages check_params", False, PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert f"optuna==5.0.0, but another in {tmp_path}/optuna is installed" in done.stderr
