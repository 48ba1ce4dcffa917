from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from project import SAID, STUDIES, Project, set_params

from experiment.stage import run

from .small import TRAINING, add_own_study, fresh


def shared(root: Path) -> Path:
    """A folder that the workers of pytest-xdist have in common."""
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose studies have run; not to be changed."""
    root = shared(tmp_path_factory.getbasetemp())
    project = Project(root / "studied")
    with FileLock(root / "studied.lock"):
        if not project.folder.exists():
            building = fresh(root / "building_studied")
            building.dvc("repro", f"{STUDIES}:check_arms")
            # In this process, and then as if DVC had run them: loading torch takes seconds.
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(building.folder)
                patch.setenv("EXPERIMENT_WORKERS", "1")
                for stage in building.stages(TRAINING).values():
                    run(*stage["cmd"].split()[2:])
            building.dvc("commit", "-f", TRAINING)
            building.dvc("repro", STUDIES)
            building.commit("Results")
            building.folder.rename(project.folder)
    return project


@pytest.fixture(scope="session")
def with_own(studied: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with a study of one's own; not to be changed."""
    root = shared(tmp_path_factory.getbasetemp())
    project = Project(root / "with_own")
    with FileLock(root / "with_own.lock"):
        if not project.folder.exists():
            building = studied.copy(root / "building_own")
            add_own_study(building)
            # Another network in the main pipeline is no concern of the published arms.
            changes = {"model.name": "logistic", "device": "cuda"}
            set_params(building.folder / "params.yaml", changes)
            done = building.dvc("repro", f"{STUDIES}:compare_own@mine")
            (building.folder / SAID).write_text(done.stdout)
            building.commit("A study of one's own")
            building.folder.rename(project.folder)
    return project


@pytest.fixture
def project(studied: Project, tmp_path: Path) -> Project:
    """A copy of the project whose studies have run, to be changed."""
    return studied.copy(tmp_path / "project")
