"""A queue of experiments: a sweep on two workers, each experiment in one process."""

from __future__ import annotations

import csv
import io
import time

import psutil
import pytest
from processes import Run, left_behind
from project import Project


def training(project: Project) -> int:
    """Processes of stages, workers included, that run in the folders of queued experiments."""
    running = psutil.process_iter(["cwd", "cmdline"])
    return sum(
        (process.info["cwd"] or "").startswith(f"{project.folder}/.dvc/tmp/exps")
        and " ".join(process.info["cmdline"] or []).startswith("python stages ")
        for process in running
    )


@pytest.mark.slow
def test_a_sweep_over_ranks_and_seeds_keeps_to_the_cores_and_gives_what_single_runs_give(
    project: Project,
) -> None:
    project.dvc("exp", "run", "--queue", "-S", "rank=3,7", "-S", "seed=0,5")
    # Its workers keep its output open: whoever waits for the end of that waits for theirs.
    start = Run.dvc(project, "queue", "start", "-j", "2", EXPERIMENT_WORKERS="1")

    deadline = time.monotonic() + 500
    most = 0
    state = "Queued"
    while start.process.poll() is None or "Queued" in state or "Running" in state:
        assert time.monotonic() < deadline, state
        for _ in range(20):
            most = max(most, training(project))
            time.sleep(0.1)
        state = project.dvc("queue", "status").stdout
    assert start.wait() == 0, start.output

    assert state.count("Success") == 4, state
    assert most == 2
    assert left_behind(project) == []
    table = project.dvc("exp", "show", "--csv").stdout
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["rev"] != "workspace"]
    shown = {(row["rank"], row["seed"]): row for row in rows if row["Experiment"]}
    assert shown.keys() == {("3", "0"), ("3", "5"), ("7", "0"), ("7", "5")}
    name = shown["3", "5"]["Experiment"]

    project.dvc("exp", "apply", name)
    queued = project.read()
    project.dvc("repro", "-f", EXPERIMENT_WORKERS="2")
    assert project.read() == queued
