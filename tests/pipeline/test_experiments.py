"""Variants of the parameters: what an experiment changes and runs, and the way back from it."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from processes import AFTER_KILL, PUT_ASIDE, WAY_BACK, Run, go_back, left_behind
from project import Project, set_params, stage_outputs, stages_run

# The stages that read the rank, or what follows from it.
READERS = {"check_params", "tune_lrg_adam", "final_train@lrg_adam", "compare", "plot"}


def experiment(project: Project, *changes: str, **environment: str) -> tuple[set[str], set[str]]:
    """The stages that an experiment ran, and those whose former results DVC restored."""
    options = [option for change in changes for option in ("-S", change)]
    output = project.dvc("exp", "run", *options, **environment).stdout
    return (
        set(stages_run(output)),
        set(re.findall(r"^Stage '([^']+)' is cached - skipping run", output, re.MULTILINE)),
    )


def changed_lines(project: Project) -> tuple[int, int]:
    """The lines of params.yaml that are not the committed ones: added, and deleted."""
    numbers = project.run("git", "diff", "--numstat", "params.yaml").stdout.split()[:2]
    added, deleted = map(int, numbers or (0, 0))
    return added, deleted


def cloned(source: Path, folder: Path) -> Project:
    """A clone of a repository, with no cache of its own."""
    subprocess.run(["git", "clone", "-q", source, folder], check=True)
    return Project(folder)


@pytest.fixture
def variant(at_10: Project, tmp_path: Path) -> Project:
    """A copy of the project after an experiment with rank 10, to be changed."""
    return at_10.copy(tmp_path / "variant")


def test_an_experiment_changes_the_lines_of_its_parameters_alone(
    variant: Project, finished: Project
) -> None:
    params = variant.folder / "params.yaml"
    before = (finished.folder / "params.yaml").read_text()
    assert changed_lines(variant) == (1, 1)
    assert params.read_text() == before.replace("\nrank: tuned\n", "\nrank: 10\n")

    experiment(variant, "compare.margin=0.5", "tune.rank.low=2")

    assert changed_lines(variant) == (3, 3)
    for old, new in (("rank: tuned", "rank: 10"), ("low: 1\n", "low: 2\n"), ("0.01\n", "0.5\n")):
        assert before.count(old) == 1
        before = before.replace(old, new)
    assert params.read_text() == before


def test_a_variant_that_was_computed_is_restored(variant: Project, finished: Project) -> None:
    at_10 = variant.read()

    assert experiment(variant, "rank=tuned") == (set(), READERS)
    assert variant.read() == finished.read()
    assert variant.run("git", "status", "--porcelain").stdout == ""

    assert experiment(variant, "rank=10") == (set(), READERS)
    assert variant.read() == at_10


@pytest.mark.slow
def test_a_hyperparameter_is_searched_and_set_back_by_one_option(
    project: Project, finished: Project
) -> None:
    interval = "lrg_adam.weight_decay={low: 1e-4, high: 1, log: true}"

    assert experiment(project, interval) == (READERS, set())

    tuned = json.loads(project.read()["metrics/tune_lrg_adam.json"])
    decays = [trial["weight_decay"] for trial in tuned["trials"]]
    assert all(1e-4 <= decay <= 1 for decay in decays)
    assert tuned["best"]["weight_decay"] in decays
    assert changed_lines(project) == (4, 1)
    assert experiment(project, "lrg_adam.weight_decay=0") == (set(), READERS)
    assert project.read() == finished.read()
    assert changed_lines(project) == (0, 0)


@pytest.mark.slow
def test_a_fresh_clone_computes_the_committed_results_once_more_before_it_restores_them(
    finished: Project, tmp_path: Path
) -> None:
    clone = cloned(finished.folder, tmp_path / "clone")
    # What is in Git is not made again.
    trainings = {"final_train@adam", "final_train@lrg_adam"}
    assert set(clone.ran("repro")) == {"check_params", "fetch_data"} | trainings
    assert clone.read() == finished.read()
    assert clone.run("git", "status", "--porcelain").stdout == ""

    experiment(clone, "rank=10")
    ran, restored = experiment(clone, "rank=tuned")

    assert ran == {"tune_lrg_adam", "compare", "plot"}
    assert restored == READERS - ran
    assert clone.read() == finished.read()
    assert experiment(clone, "rank=10") == (set(), READERS)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("rank=ten", r"params\.yaml: rank = 'ten'; allowed: tuned, or a whole number from 1 "),
        pytest.param(
            "data.name=nothing",
            r"params\.yaml: data\.name = 'nothing'; allowed: .*: digits, mnist",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_ends_an_experiment_before_any_result_is_touched(
    project: Project, change: str, line: str
) -> None:
    before = project.read()

    failed = project.dvc("exp", "run", "-S", change, check=False)

    assert failed.returncode != 0
    assert stages_run(failed.stdout) == ["check_params"]
    (error,) = [text for text in failed.stderr.splitlines() if text.startswith("error: ")]
    assert re.match(line, error.removeprefix("error: "))
    assert "Traceback" not in failed.stderr
    assert {path: (project.folder / path).read_bytes() for path in before} == before
    # Git tells a change of as many characters by its time, which may be that of its index.
    (project.folder / "params.yaml").touch()
    assert project.run("git", "status", "--porcelain").stdout == " M params.yaml\n"
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    go_back(project)
    assert project.ran("repro") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "not_run"),
    [
        (["model.name=logistic", "rank=5"], {"fetch_data"}),
        (["data.shuffle=true", "data.flipped=0.2", "model.hidden=[64,32]"], set()),
        (["data.name=digits", "model.name=cnn"], set()),
    ],
)
def test_another_network_or_data_set_needs_a_change_of_its_name_alone(
    project: Project, finished: Project, changes: list[str], not_run: set[str]
) -> None:
    ran, _ = experiment(project, *changes)

    assert ran == finished.stages().keys() - not_run
    for stage in project.stages().values():
        assert all((project.folder / path).exists() for path in stage_outputs(stage))
    assert project.ran("repro") == []
    go_back(project)
    assert project.read() == finished.read()
    assert project.ran("repro") == []


WRITTEN = " M stages/studies/own.yaml\n?? stages/experiment/optimizers/of_my_own.py\n"


def write_something(project: Project) -> dict[str, str]:
    """What a user has written and not committed, by its path."""
    own = project.folder / "stages/studies/own.yaml"
    texts = {
        "stages/studies/own.yaml": f"{own.read_text()}# my own\n",
        "stages/experiment/optimizers/of_my_own.py": "STACKED = True\n",
    }
    for path, text in texts.items():
        (project.folder / path).write_text(text)
    return texts


def test_the_way_back_keeps_what_the_user_wrote_and_the_branch(
    variant: Project, finished: Project
) -> None:
    variant.run("git", "switch", "-q", "-c", "mine")
    texts = write_something(variant)

    variant.shell(WAY_BACK)

    assert variant.read() == finished.read()
    assert all((variant.folder / path).read_text() == text for path, text in texts.items())
    assert variant.run("git", "branch", "--show-current").stdout == "mine\n"
    assert variant.run("git", "status", "--porcelain").stdout == WRITTEN


def test_the_way_back_in_a_worktree_that_never_ran_the_pipeline(
    finished: Project, tmp_path: Path
) -> None:
    clone = cloned(finished.folder, tmp_path / "clone")
    worktree = Project(tmp_path / "worktree")
    clone.run("git", "worktree", "add", "-q", worktree.folder)
    texts = write_something(worktree)
    set_params(worktree.folder / "params.yaml", {"rank": 10})
    (worktree.folder / "metrics/adam.json").unlink()

    worktree.shell(WAY_BACK)

    assert all((worktree.folder / path).read_text() == text for path, text in texts.items())
    assert worktree.run("git", "status", "--porcelain").stdout == WRITTEN


# Longer than a test waits.
LONG = "training.epochs=5000"


def end(project: Project, way: str, *changes: str) -> None:
    """Run an experiment, in another process group, to one of four ends."""
    long = [] if way == "success" else [LONG]
    options = [option for change in [*changes, *long] for option in ("-S", change)]
    run = Run.dvc(project, "exp", "run", *options)
    if long:
        run.until(lambda: re.search(r"> python stages tune", run.output))
        time.sleep(2)
        if way == "failure":
            run.stage().kill()
        else:
            run.signal(signal.SIGINT if way == "interrupt" else signal.SIGKILL)
    code = run.wait()
    assert (code == 0) == (way == "success"), run.output
    assert left_behind(project) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["success", "failure", "interrupt", "kill"])
def test_one_line_leads_back_from_wherever_an_experiment_has_ended(
    project: Project, finished: Project, way: str
) -> None:
    end(project, way, "seed=1")
    there = project.read()
    if way == "success":
        assert there.keys() == finished.read().keys()
        assert there != finished.read()
    else:
        # DVC had deleted what it was about to make anew.
        (lost,) = finished.read().keys() - there.keys()
        assert lost in {"metrics/tune_adam.json", "metrics/tune_lrg_adam.json"}

    go_back(project)

    assert project.read() == finished.read()
    committed = (finished.folder / "params.yaml").read_bytes()
    assert (project.folder / "params.yaml").read_bytes() == committed
    assert project.ran("repro") == []
    if way == "kill":  # and on from there
        ran, _ = experiment(project, "rank=10")
        assert ran == READERS
        assert json.loads(project.read()["metrics/tune_lrg_adam.json"])["best"]["rank"] == 10
        assert changed_lines(project) == (1, 1)


@pytest.mark.slow
def test_one_line_leads_back_from_any_moment_at_which_dvc_works_on_git(
    finished: Project, tmp_path: Path
) -> None:
    rng = random.Random(7)
    committed = (finished.folder / "params.yaml").read_bytes()
    moved = 0
    for number in range(30):
        if number >= 12 and moved:
            break
        project = finished.copy(tmp_path / f"project_{number}")
        written = write_something(project)
        project.run("git", "status")
        # As many characters as before: Git may tell by nothing but the time of the change.
        run = Run.dvc(project, "exp", "run", "-S", "seed=1")
        with suppress(subprocess.TimeoutExpired):
            run.wait(rng.uniform(0.7, 3))
        run.signal(signal.SIGKILL)
        run.wait()
        moved += project.run("git", "branch", "--show-current").stdout == ""
        there = {path: project.folder / path for path in written}
        if any(not file.exists() or file.read_text() != written[p] for p, file in there.items()):
            project.shell(f"{AFTER_KILL}; {PUT_ASIDE}")

        go_back(project, WRITTEN)

        assert all((project.folder / path).read_text() == text for path, text in written.items())
        assert (project.folder / "params.yaml").read_bytes() == committed
        assert project.read() == finished.read()
    assert moved > 0


@pytest.mark.slow
def test_the_former_parameters_bring_back_the_former_results(
    project: Project, finished: Project
) -> None:
    params = project.folder / "params.yaml"
    before = params.read_text()
    set_params(params, {"rank": 10, "training.epochs": 5000})
    run = Run.dvc(project, "repro")
    run.until(lambda: "> python stages tune" in run.output)
    time.sleep(2)
    run.stage().kill()
    assert run.wait() != 0
    assert left_behind(project) == []
    assert len(finished.read()) - len(project.read()) == 1
    params.write_text(before)

    assert project.ran("repro") == []

    assert project.read() == finished.read()
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_an_experiment_is_shared_with_its_results(finished: Project, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", finished.folder, bare], check=True)

    mine = cloned(bare, tmp_path / "mine")
    mine.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    mine.commit("A remote")
    mine.run("git", "push", "-q")
    mine.dvc("repro")
    mine.dvc("push")
    mine.dvc("exp", "run", "-n", "rank-10", "-S", "rank=10")
    mine.dvc("exp", "push", "origin", "rank-10")

    yours = cloned(bare, tmp_path / "yours")
    yours.dvc("pull")
    assert yours.ran("repro") == []
    assert yours.read() == finished.read()
    yours.dvc("exp", "pull", "origin", "rank-10")
    yours.dvc("exp", "apply", "rank-10")
    assert yours.read() == mine.read()
    assert yours.ran("repro") == []
    go_back(yours)
    assert yours.read() == finished.read()


@pytest.mark.slow
def test_a_cache_in_common_restores_what_another_clone_has_computed(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path / "project")
    project.dvc("config", "cache.dir", str(tmp_path / "cache"))
    project.commit("A cache in common")
    mine, yours = (cloned(project.folder, tmp_path / name) for name in ("mine", "yours"))
    mine.dvc("repro")
    mine.dvc("commit", "-f", "dvc.yaml")
    experiment(mine, "rank=10")

    assert yours.ran("repro") == []
    assert experiment(yours, "rank=10") == (set(), READERS)
    assert yours.read() == mine.read()
    assert experiment(yours, "rank=tuned") == (set(), READERS)
    assert yours.read() == finished.read()
