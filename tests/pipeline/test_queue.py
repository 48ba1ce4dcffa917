"""A queue of experiments: a sweep on two workers, each experiment in one process."""

from __future__ import annotations

import csv
import io
import time

import psutil
import pytest
from processes import left_behind
from project import Project


def training(project: Project) -> int:
    """Processes of stages that run in the folders of queued experiments."""
    count = 0
    for process in psutil.process_iter(["cwd", "cmdline"]):
        folder, command = process.info["cwd"] or "", " ".join(process.info["cmdline"] or [])
        if folder.startswith(f"{project.folder}/.dvc/tmp/exps"):
            count += command.startswith("python stages/") or "spawn_main" in command
    return count


@pytest.mark.slow
def test_a_sweep_over_ranks_and_seeds_keeps_to_the_cores_and_gives_what_single_runs_give(
    project: Project,
) -> None:
    project.dvc("exp", "run", "--queue", "-S", "rank=3,7", "-S", "seed=0,5")
    project.dvc("queue", "start", "-j", "2", EXPERIMENT_WORKERS="1")

    deadline = time.monotonic() + 500
    most = 0
    while "Queued" in (state := project.dvc("queue", "status").stdout) or "Running" in state:
        assert time.monotonic() < deadline, state
        most = max(most, training(project))
        time.sleep(0.2)

    assert state.count("Success") == 4, state
    assert most == 2
    assert left_behind(project) == []
    table = project.dvc("exp", "show", "--csv").stdout
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["rev"] != "workspace"]
    shown = {(row["rank"], row["seed"]): row for row in rows if row["rank"]}
    assert shown.keys() == {("3", "0"), ("3", "5"), ("7", "0"), ("7", "5")}
    name = shown["3", "5"]["Experiment"]

    project.dvc("exp", "apply", name)
    queued = project.read()
    project.dvc("repro", "-f", EXPERIMENT_WORKERS="2")
    assert project.read() == queued
