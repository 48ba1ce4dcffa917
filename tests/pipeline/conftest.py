from __future__ import annotations

from pathlib import Path

import pytest
from project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run; not to be changed."""
    project = Project.fresh(tmp_path_factory.mktemp("finished"))
    project.dvc("repro")
    project.commit("Results")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return finished.copy(tmp_path / "project")
