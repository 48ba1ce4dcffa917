"""Damage ends in the right result or in one line that names the file; earlier results stay."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml
from processes import Run, forget, forget_tasks, kept, mend, needs_posix, same_results
from project import Project, set_params


def one_line(done: subprocess.CompletedProcess[str], name: str) -> None:
    """The command failed with a line that names a file, and no traceback."""
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert name in line
    assert "Traceback" not in done.stderr


DAMAGES = {
    "missing": lambda _: None,
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "edited": lambda content: content.replace(b"0", b"7", 1) + b"\n",
    "garbage": lambda _: b"\x80\x04K\x01. no such format \xff",
}


def damage(path: Path, kind: str) -> None:
    content = DAMAGES[kind](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data/mnist1d.npz", "truncated"),
        ("metrics/tune_adam.json", "edited"),
        pytest.param("models/lrg_adam.pt", "missing", marks=pytest.mark.slow),
        pytest.param("metrics/adam.json", "garbage", marks=pytest.mark.slow),
        pytest.param("metrics/comparison_details.json", "empty", marks=pytest.mark.slow),
        pytest.param("data/versions.json", "missing", marks=pytest.mark.slow),
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
        pytest.param(
            "dvc.lock",
            "schema: '2.0'\nstages:\n  fetch_data:\n    cmd: python\n    deps:\n    - path:",
            marks=pytest.mark.slow,
        ),
        pytest.param(".dvc/tmp/rwlock", "", marks=pytest.mark.slow),
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


INPUTS = [
    ("data/mnist1d.npz", "tune_adam"),
    ("data/mnist1d.npz", "plot"),
    ("metrics/tune_adam.json", "final_train@adam"),
    ("metrics/tune_lrg_adam.json", "plot"),
    ("metrics/adam.json", "compare"),
]


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "garbage"])
@pytest.mark.parametrize(("name", "stage"), INPUTS)
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


@pytest.mark.parametrize(
    ("name", "key", "stage"),
    [
        ("metrics/tune_lrg_adam.json", "trials", "plot"),
        ("metrics/adam.json", "replicates", "compare"),
    ],
)
@pytest.mark.parametrize("other", [None, 5, [], [1], {"lr": 1}, [{"number": 1}], "words"], ids=str)
def test_a_stage_names_a_table_that_is_none(
    project: Project,
    name: str,
    key: str,
    stage: str,
    other: object,
    run_here: Callable[[Project, str], None],
) -> None:
    path = project.folder / name
    content = json.loads(path.read_text())
    if other == "words":
        table = content[key]
        rows = pd.DataFrame(table)
        curves = {"validation_losses_nats"}  # no numbers, but lists of them
        other = {c: rows[c].tolist() if c in curves else ["three"] * len(rows) for c in rows}
    path.write_text(json.dumps(content | {key: other}))

    with pytest.raises(SystemExit) as ended:
        run_here(project, project.stages()[stage]["cmd"])

    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"error: {name}: ")


@pytest.mark.parametrize(
    "best", ['{"lr": "high"}', '{"rank": 3}', '{"lr": 0.1, "rank": 3}', "[]", '{"lr": -1}']
)
def test_a_hand_edited_best_is_refused(project: Project, best: str) -> None:
    (project.folder / "metrics/tune_adam.json").write_text(f'{{"best": {best}}}')

    failed = project.shell(project.stages()["final_train@adam"]["cmd"], check=False)

    one_line(failed, "metrics/tune_adam.json: best = ")


@pytest.mark.parametrize("stage", ["fetch_data", "final_train@lrg_adam", "plot"])
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


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """An empty file system of its own over a folder; the test is skipped where that is denied."""
    needs_posix()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("options", "why"), [("ro", "Read-only"), ("size=4k", "No space left")])
def test_a_folder_that_takes_no_file_is_reported(project: Project, options: str, why: str) -> None:
    folder = project.folder / "models"
    command = project.stages()["final_train@adam"]["cmd"]
    forget_tasks(project)
    with mounted(folder, options):
        if options != "ro":
            (folder / "ballast").write_bytes(b"0" * 4096)
        failed = project.shell(command, check=False)

    one_line(failed, "models/")
    assert why in failed.stderr
    # What was computed is kept for the next run.
    assert kept(project)


@pytest.mark.slow
@pytest.mark.parametrize("edited", ["params.yaml", "stages/experiment/stage/randomness.py"])
def test_an_input_edited_while_a_stage_runs_is_not_taken_for_the_one_it_read(
    project: Project, edited: str
) -> None:
    forget_tasks(project)
    # Trials enough for the edit to come before the last of them.
    set_params(project.folder / "params.yaml", {"seed": 1, "tune.trials": 60})
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
def test_two_runs_at_once_end_in_the_right_result(project: Project, finished: Project) -> None:
    forget(project, "tune_adam", "tune_lrg_adam")
    first = Run.dvc(project, "repro")
    with suppress(AssertionError):
        first.until(lambda: "Running stage" in first.output, timeout=20)
    time.sleep(0.2)
    second = Run.dvc(project, "repro")

    codes = [first.wait(), second.wait()]

    for code, run in zip(codes, (first, second), strict=True):
        assert "Traceback" not in run.output
        if code:
            assert "ERROR: " in run.output
    project.dvc("repro")
    assert same_results(project, finished)
