"""What is killed or interrupted goes on to the same bytes, and computes nothing twice."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from processes import (
    Run,
    forget,
    forget_runs,
    forget_tasks,
    go_back,
    goes_on,
    kept,
    left_behind,
    mend,
    same_results,
)
from project import Project, set_params

SEARCHES_AND_TRAININGS = (
    "tune_lrg_adam",
    "final_train@lrg_adam",
    "tune_adam",
    "final_train@adam",
)
# Work that lasts longer than a test waits.
LONG = {"training.epochs": 5000}
# Seconds that a slow machine may need to end it; far fewer than the work would last.
AT_ONCE = 30


def test_a_killed_run_goes_on_where_it_was(project: Project, finished: Project) -> None:
    forget(project, "final_train@lrg_adam")
    run = Run.dvc(project, "repro", "final_train@lrg_adam", EXPERIMENT_WORKERS="2")
    run.until(lambda: kept(project))
    run.signal(signal.SIGKILL)
    run.wait()
    assert left_behind(project) == []
    done = kept(project)
    assert done

    goes_on(project, "final_train@lrg_adam", done)

    assert same_results(project, finished)


@pytest.mark.slow
def test_the_way_back_computes_nothing_again(
    at_10: Project, finished: Project, tmp_path: Path
) -> None:
    project = at_10.copy(tmp_path / "project")
    forget_runs(project)
    done = kept(project)

    ran = project.ran("exp", "run", "-S", "rank=tuned")

    # The stages run, as DVC knows nothing of their former runs, and find every task.
    assert {"tune_lrg_adam", "final_train@lrg_adam"} <= set(ran)
    assert kept(project) == done
    assert same_results(project, finished)


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("tune_lrg_adam", {"tune.trials": 4}),
        ("final_train@adam", {"final_train.replicates": 9}),
    ],
)
def test_more_of_the_same_computes_the_rest_alone(
    project: Project,
    stage: str,
    more: dict[str, object],
    run_here: Callable[[Project, str], None],
) -> None:
    forget_tasks(project)
    params, command = project.folder / "params.yaml", project.stages()[stage]["cmd"]
    before = params.read_text()
    run_here(project, command)
    first, done = project.read(), kept(project)

    set_params(params, more)
    run_here(project, command)
    second = project.read()

    assert done.items() < kept(project).items()
    assert len(kept(project)) == len(done) + 1
    params.write_text(before)
    run_here(project, command)
    assert project.read() == first
    assert len(kept(project)) == len(done) + 1
    # The same as from nothing.
    forget_tasks(project)
    set_params(params, more)
    run_here(project, command)
    assert project.read() == second


@pytest.mark.slow
def test_workers_end_with_their_stage(project: Project) -> None:
    set_params(project.folder / "params.yaml", LONG)
    run = Run.dvc(project, "repro", "final_train@adam", "-s", EXPERIMENT_WORKERS="2")

    run.until(lambda: "> python stages final_train" in run.output)
    time.sleep(2)
    run.until(lambda: len(run.stage().children()) == 2)
    time.sleep(2)  # until they train

    run.stage().kill()

    assert run.wait() != 0
    assert left_behind(project) == []


@pytest.mark.parametrize(
    ("workers", "moment"),
    [
        pytest.param("1", "loading", marks=pytest.mark.slow),
        pytest.param("2", "loading", marks=pytest.mark.slow),
        ("2", "working"),
    ],
)
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(
    project: Project, workers: str, moment: str
) -> None:
    before = project.read()
    lost = {"metrics/tune_adam.json"}
    set_params(project.folder / "params.yaml", LONG)
    run = Run.dvc(project, "repro", "tune_adam", EXPERIMENT_WORKERS=workers)
    run.until(lambda: "> python stages tune" in run.output)
    time.sleep({"loading": 0.5, "working": 7}[moment])

    started = time.monotonic()
    run.signal(signal.SIGINT)

    assert run.wait(AT_ONCE) != 0
    assert left_behind(project, patience=started + AT_ONCE - time.monotonic()) == []
    assert "interrupted: `dvc repro` goes on from the finished tasks" in run.output
    assert "Traceback" not in run.output
    # DVC deletes what a stage is to write anew. What it deleted comes back.
    assert project.read().items() == {n: c for n, c in before.items() if n not in lost}.items()
    go_back(project)
    assert project.read() == before


@pytest.mark.slow
def test_any_moment_is_a_good_one_to_be_killed(finished: Project, tmp_path: Path) -> None:
    project = Project.fresh(tmp_path / "killed")
    # From here on dvc.lock is in Git, and knows of none of the work that is to be killed.
    project.dvc("repro", "fetch_data")
    project.commit("Data")
    whole = finished.read()
    rng = random.Random(20)
    done: dict[Path, int] = {}
    kills = 0
    while kills < 12:
        run = Run.dvc(project, "repro", EXPERIMENT_WORKERS=rng.choice("12"))
        with suppress(subprocess.TimeoutExpired):
            if run.wait(rng.uniform(1, 9)) != 0:
                mend(project, run.output)
                continue
            # All is done: begin again, with what was finished forgotten.
            assert same_results(project, finished), run.output
            forget(project, *rng.sample(SEARCHES_AND_TRAININGS, 2))
            done = kept(project)
            continue
        run.signal(signal.SIGKILL)
        run.wait()
        kills += 1
        # What is there under an output's name is whole, and what was finished is still there.
        there = project.read()
        assert there.items() <= whole.items(), run.output
        assert done.items() <= kept(project).items()
        done = kept(project)

    last = project.dvc("repro", check=False)
    if last.returncode != 0:
        mend(project, last.stdout + last.stderr)
        project.dvc("repro")

    assert same_results(project, finished)
    assert left_behind(project) == []
