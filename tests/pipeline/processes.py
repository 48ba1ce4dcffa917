"""Runs of DVC that a test can disturb while they last."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import yaml
from project import ENVIRONMENT, Project, stage_outputs

# Back to the committed parameters and results; every other file stays as the user left it.
WAY_BACK = (
    "git reset -q && git checkout -- params.yaml dvc.lock metrics 'plots/*.png' && "
    "dvc checkout --allow-missing"
)
# First after `kill -9`, which may leave Git's index locked and HEAD on no branch.
AFTER_KILL = (
    'rm -f "$(git rev-parse --git-dir)"/index* .dvc/tmp/rwlock; '
    "git symbolic-ref HEAD refs/heads/main"
)
# And then, if DVC was killed while it had put the user's changes aside.
PUT_ASIDE = "git reset -q --hard && git stash pop"

# DVC's error about a file of its own that it was killed while writing, and what mends the file.
MENDED = {
    r"'\./dvc\.lock' (is invalid|validation failed)": "git checkout dvc.lock",
    r"Unable to read RWLock-file '\.dvc/tmp/rwlock'": "rm .dvc/tmp/rwlock",
}


class Run:
    """A command in a project's folder, in a process group of its own, as on a terminal."""

    def __init__(self, project: Project, *command: str, **environment: str) -> None:
        self.project = project
        self.log = project.folder.with_name(f"{project.folder.name}.{time.time_ns()}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=project.folder,
                env=ENVIRONMENT | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @classmethod
    def dvc(cls, project: Project, *arguments: str, **environment: str) -> Run:
        return cls(project, sys.executable, "-m", "dvc", *arguments, **environment)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait(self, timeout: float = 120) -> int:
        return self.process.wait(timeout)

    def until(self, condition: Callable[[], object], timeout: float = 60) -> None:
        """Wait until a condition holds while the command runs."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.output}"
            assert time.monotonic() < end, f"still not so:\n{self.output}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group; Ctrl-C is SIGINT."""
        needs_posix()
        os.killpg(self.process.pid, number)

    def stage(self) -> psutil.Process:
        """The process of the stage that is running."""
        found = [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if process.cmdline()[1:2] == ["stages"]
        ]
        # Its workers, which are forked, look like the stage.
        return min(found, key=lambda process: process.create_time())


def needs_posix() -> None:
    """Skip the test on systems with other signals and shells."""
    if os.name != "posix":
        pytest.skip("needs the signals and the shell of POSIX")


def left_behind(project: Project, patience: float = 30) -> list[psutil.Process]:
    """Processes that still run in a project's folder after some seconds."""
    end = time.monotonic() + patience
    while (found := _running_in(project.folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _running_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def kept(project: Project) -> dict[Path, int]:
    """The finished tasks that are kept, each with a number that another writing would change."""
    paths = project.folder.glob(".scratch/tasks/[!.]*")
    return {path: path.stat().st_ino for path in paths}


def goes_on(project: Project, stage: str, done: Mapping[Path, int]) -> None:
    """Run a stage to its end, and check that it computes nothing twice."""
    run = Run.dvc(project, "repro", stage)
    assert run.wait() == 0, run.output
    assert f"Running stage '{stage}'" in run.output
    assert done.items() <= kept(project).items()


def forget(project: Project, *stages: str) -> None:
    """Undo some stages: their outputs and what DVC knows of them; and every finished task."""
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())
    for name in stages:
        del lock["stages"][name]
        for output in stage_outputs(project.stages()[name]):
            (project.folder / output).unlink()
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    forget_runs(project)
    forget_tasks(project)


def forget_tasks(project: Project) -> None:
    """Delete the finished tasks, so that every stage that runs computes."""
    shutil.rmtree(project.folder / ".scratch", ignore_errors=True)


def forget_runs(project: Project) -> None:
    """Delete DVC's record of all runs but those in dvc.lock, so that it restores none."""
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)


def mend(project: Project, output: str) -> None:
    """Do what the pages say about the file that a run of DVC could not read."""
    commands = [command for error, command in MENDED.items() if re.search(error, output)]
    assert len(commands) == 1, output
    project.run(*commands[0].split())


def go_back(project: Project, written: str = "") -> None:
    """Take the way back; then nothing differs but what the user wrote, as Git lists it."""
    needs_posix()
    project.shell(f"{AFTER_KILL}; {WAY_BACK}")
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    found = project.run("git", "status", "--porcelain").stdout
    assert found == written, found


def same_results(project: Project, finished: Project) -> bool:
    """Whether every output, and DVC's record of them, is that of the finished project."""
    # The order of stages in dvc.lock is that in which they first ran.
    locks = [yaml.safe_load((p.folder / "dvc.lock").read_text()) for p in (project, finished)]
    return project.read() == finished.read() and locks[0] == locks[1]
