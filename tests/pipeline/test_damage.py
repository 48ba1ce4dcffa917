"""Damage ends in the right result or in one line that names the file; earlier results stay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from processes import Run, forget_tasks, kept, mend, needs_posix, same_results
from project import Project, set_params


def one_line(done: subprocess.CompletedProcess[str], name: str) -> None:
    """The command failed with a line that names a file, and no traceback."""
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert name in line
    assert "Traceback" not in done.stderr


TABLES = {"trials", "replicates"}
DAMAGES = {
    "missing": lambda _: None,
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "edited": lambda content: content.replace(b"0", b"7", 1) + b"\n",
    "garbage": lambda _: b"\x80\x04K\x01. no such format \xff",
    "numbers": lambda content: _with_tables(content, 5),
    "rows": lambda content: _with_tables(content, [{"n": 1}]),
}


def _with_tables(content: bytes, table: object) -> bytes:
    former = json.loads(content)
    return json.dumps(former | dict.fromkeys(former.keys() & TABLES, table)).encode()


def damage(path: Path, kind: str) -> None:
    content = DAMAGES[kind](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("metrics/tune_adam.json", "edited"),
        pytest.param("models/lrg_adam.pt", "missing", marks=pytest.mark.slow),
        pytest.param("data/mnist1d.npz", "truncated", marks=pytest.mark.slow),
    ],
)
def test_a_run_mends_a_damaged_result(
    project: Project, finished: Project, name: str, kind: str
) -> None:
    damage(project.folder / name, kind)

    project.dvc("repro")

    assert same_results(project, finished)


# DVC writes these over their old content: what it is killed at is empty, or ends anywhere.
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("dvc.lock", ""),
        pytest.param("dvc.lock", "schema: '2.0'\nstages:\n  compare:", marks=pytest.mark.slow),
        pytest.param(".dvc/tmp/rwlock", '{"write": {"', marks=pytest.mark.slow),
    ],
)
def test_one_command_mends_what_dvc_was_killed_at_writing(
    project: Project, finished: Project, name: str, left: str
) -> None:
    lock = project.folder / "dvc.lock"
    record = yaml.safe_load(lock.read_text())
    del record["stages"]["final_train@adam"]
    lock.write_text(yaml.safe_dump(record, sort_keys=False))
    project.commit("A record that lacks a stage")
    (project.folder / name).write_text(left)

    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    mend(project, failed.stderr)
    # What the record lacks is known from the run itself.
    assert project.ran("repro") == []
    assert same_results(project, finished)


READERS = {
    "data/mnist1d.npz": ["tune_adam", "plot"],
    "metrics/tune_adam.json": ["final_train@adam"],
    "metrics/tune_lrg_adam.json": ["plot"],
    "metrics/adam.json": ["compare"],
}
HAVE_TABLES = {"metrics/tune_lrg_adam.json", "metrics/adam.json"}  # which their readers read


@pytest.mark.parametrize(
    ("name", "stage", "kind"),
    [
        (name, stage, kind)
        for name, stages in READERS.items()
        for stage in stages
        for kind in DAMAGES
        if kind in ("missing", "truncated", "empty", "garbage")
        or (kind in ("numbers", "rows") and name in HAVE_TABLES)
    ],
)
def test_a_stage_names_an_input_that_is_damaged(
    project: Project, name: str, stage: str, kind: str, run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    damage(project.folder / name, kind)

    with pytest.raises(SystemExit) as ended:
        run_here(project, project.stages()[stage]["cmd"])

    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"error: {name}: ")
    assert {**project.read(), name: b""} == {**before, name: b""}


@pytest.mark.parametrize("best", ['{"lr": "high"}', '{"lr": 0.1, "rank": 3}', '{"lr": -1}', "[]"])
def test_a_hand_edited_best_is_refused(
    project: Project, best: str, run_here: Callable[[Project, str], None]
) -> None:
    (project.folder / "metrics/tune_adam.json").write_text(f'{{"best": {best}}}')

    with pytest.raises(SystemExit, match=r"^error: metrics/tune_adam.json: best = .*$"):
        run_here(project, project.stages()["final_train@adam"]["cmd"])


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("fetch_data", marks=pytest.mark.slow),
        "final_train@lrg_adam",
        pytest.param("plot", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_reported(project: Project, stage: str) -> None:
    needs_posix()
    forget_tasks(project)
    before = project.read()
    # No file may grow beyond a block or two: to a program that is a full disk.
    command = f"ulimit -f 2; {project.stages()[stage]['cmd']}"

    failed = project.shell(command, check=False)

    one_line(failed, {"fetch_data": "data/", "plot": "plots/"}.get(stage, "models/"))
    assert project.read() == before
    assert list(project.folder.rglob("*.part")) == []


def test_a_folder_that_takes_no_file_is_reported(
    project: Project, run_here: Callable[[Project, str], None]
) -> None:
    needs_posix()
    forget_tasks(project)
    folder = project.folder / "models"
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(SystemExit, match=r"^error: models/.*Read-only.*$"):
            run_here(project, project.stages()["final_train@adam"]["cmd"])
    finally:
        subprocess.run(["umount", folder], check=True)

    # What was computed is kept for the next run.
    assert kept(project)


@pytest.mark.slow
@pytest.mark.parametrize("edited", ["params.yaml", "stages/experiment/stage/randomness.py"])
def test_an_input_edited_while_a_stage_runs_is_not_taken_for_the_one_it_read(
    project: Project, edited: str
) -> None:
    forget_tasks(project)
    # Trials enough for the edit to come before the last of them.
    set_params(project.folder / "params.yaml", {"seed": 1, "tune.trials": 30})
    run = Run.dvc(project, "repro", "tune_adam")
    run.until(lambda: kept(project))
    if edited == "params.yaml":
        set_params(project.folder / edited, {"seed": 2})
    else:
        source = project.folder / edited
        source.write_text(source.read_text() + "# an edit\n")

    assert run.wait() != 0
    assert f"{edited}: changed while the stage ran; run `dvc repro` again" in run.output
    assert "Traceback" not in run.output
    assert project.ran("repro", "tune_adam")[-1] == "tune_adam"


@pytest.mark.slow
def test_two_stages_at_once_share_the_finished_tasks(project: Project, finished: Project) -> None:
    forget_tasks(project)
    runs = [Run(project, "python", "stages", "final_train", "adam") for _ in range(2)]

    assert [run.wait() for run in runs] == [0, 0], [run.output for run in runs]

    assert project.read() == finished.read()
    there = set(project.folder.glob(".scratch/tasks/*"))
    assert there == set(kept(project))
    assert len(there) == 2  # groups
