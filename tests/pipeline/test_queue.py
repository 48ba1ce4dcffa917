"""A queue of experiments: a sweep on two workers, each experiment in one process."""

from __future__ import annotations

import csv
import io
import re
import time
from collections import Counter

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


def sweep(project: Project, *, jobs: int, ranks: str, seeds: str) -> int:
    """Queue four experiments and run them all; the most processes that trained at once."""
    project.dvc("exp", "run", "--queue", "-S", f"rank={ranks}", "-S", f"seed={seeds}")
    # Its workers keep its output open: whoever waits for the end of that waits for theirs.
    start = Run.dvc(project, "queue", "start", "-j", str(jobs), EXPERIMENT_WORKERS="1")

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
    assert left_behind(project) == []
    return most


@pytest.mark.slow
def test_one_after_another_experiments_share_the_stages_of_adam(project: Project) -> None:
    assert sweep(project, jobs=1, ranks="3,7", seeds="5,6") == 1

    names = re.findall(
        r"^\w+ +(\S+) .*Success", project.dvc("queue", "status").stdout, re.MULTILINE
    )
    logs = [project.dvc("queue", "logs", name).stdout for name in names]
    assert len(logs) == 4
    ran = Counter(re.findall(r"Running stage '([^']+)'", "\n".join(logs)))
    assert (ran["tune_adam"], ran["final_train@adam"]) == (2, 2)  # for each seed
    assert (ran["tune_lrg_adam"], ran["final_train@lrg_adam"]) == (4, 4)


@pytest.mark.slow
def test_a_sweep_over_ranks_and_seeds_keeps_to_the_cores_and_gives_what_single_runs_give(
    project: Project,
) -> None:
    assert sweep(project, jobs=2, ranks="3,7", seeds="0,5") == 2
    table = project.dvc("exp", "show", "--csv").stdout
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["rev"] != "workspace"]
    shown = {(row["rank"], row["seed"]): row for row in rows if row["Experiment"]}
    assert shown.keys() == {("3", "0"), ("3", "5"), ("7", "0"), ("7", "5")}
    name = shown["3", "5"]["Experiment"]

    project.dvc("exp", "apply", name)
    queued = project.read()
    project.dvc("repro", "-f", EXPERIMENT_WORKERS="2")
    assert project.read() == queued
