from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project

# What a shell puts in the background ignores Ctrl-C, and so does all that starts from there.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run; not to be changed. The workers of pytest-xdist share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    project = Project(root / "finished")
    with FileLock(root / "finished.lock"):
        if not project.folder.exists():
            building = Project.fresh(root / "building")
            building.dvc("repro")
            building.commit("Results")
            building.folder.rename(project.folder)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return finished.copy(tmp_path / "project")
