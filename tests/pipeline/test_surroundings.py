"""Where a user runs the pipeline: from a notebook, from an archive without Git, when installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from project import SMALL, Project, copy_repository, set_params


@pytest.mark.parametrize("command", ["check_params", "plot"])
def test_the_backend_of_a_notebook_is_not_used(project: Project, command: str) -> None:
    before = project.read()

    project.shell(f"python stages {command}", MPLBACKEND="module://of_a_notebook")

    assert project.read() == before


@pytest.mark.slow
def test_an_archive_without_git_computes_the_same(finished: Project, tmp_path: Path) -> None:
    copy_repository(tmp_path)
    project = Project(tmp_path)
    set_params(tmp_path / "params.yaml", SMALL)

    project.dvc("config", "--local", "core.no_scm", "true")
    project.dvc("repro")

    results = finished.read()
    assert {path: project.read()[path] for path in results} == results


@pytest.mark.slow
def test_an_editable_installation_makes_the_optimizer_importable_and_nothing_else(
    tmp_path: Path,
) -> None:
    copy_repository(tmp_path / "repository")
    project = Project(tmp_path / "repository")
    project.run(sys.executable, "-m", "venv", tmp_path / "environment")
    python = next(tmp_path.glob("environment/*/python*"))
    project.run(python, "-m", "pip", "install", "-q", "editables")
    project.run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", ".")
    modules = sorted(path.stem for path in (project.folder / "stages").iterdir())
    code = f"import importlib.util as u; print([n for n in {modules} if u.find_spec(n)])"

    found = project.run(python, "-P", "-c", code).stdout

    assert found == "['lrg_adam']\n"
