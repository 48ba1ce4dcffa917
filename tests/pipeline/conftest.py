from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from project import SAID, Project

from experiment.stage import run

# What a shell puts in the background ignores Ctrl-C, and so does all that starts from there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def once(root: Path, name: str, make: Callable[[Path], Project]) -> Project:
    """A project that the workers of pytest-xdist share, made by the first that asks for it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    project = Project(root / name)
    with FileLock(root / f"{name}.lock"):
        if not project.folder.exists():
            make(root / f"building_{name}").folder.rename(project.folder)
    return project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run; not to be changed."""

    def make(folder: Path) -> Project:
        project = Project.fresh(folder)
        project.dvc("repro")
        project.commit("Results")
        return project

    return once(tmp_path_factory.getbasetemp(), "finished", make)


@pytest.fixture(scope="session")
def at_10(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same after the experiment rank-10, in which the rank is 10; not to be changed."""

    def make(folder: Path) -> Project:
        project = finished.copy(folder)
        done = project.dvc("exp", "run", "-n", "rank-10", "-S", "rank=10")
        (folder / SAID).write_text(done.stdout)
        return project

    return once(tmp_path_factory.getbasetemp(), "at_10", make)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Project, str], None]:
    """Run the command of a stage in this process: loading torch takes seconds, and many are run."""
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")

    def run_stage(project: Project, command: str) -> None:
        monkeypatch.chdir(project.folder)
        python, stages, *arguments = command.split()
        assert (python, stages) == ("python", "stages")
        run(*arguments)

    return run_stage


@pytest.fixture(autouse=True)
def figures_closed() -> Iterator[None]:
    """Close what stages have drawn that ran in this process; Matplotlib warns at twenty."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
