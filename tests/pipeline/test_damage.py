"""Damage ends in the right result or in one line that names the file; earlier results stay."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from processes import Run, forget, kept, mend, same_results
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
        pytest.param("plots/history/adam.csv", "garbage", marks=pytest.mark.slow),
        pytest.param("metrics/replicates/adam.csv", "empty", marks=pytest.mark.slow),
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
    done = kept(project)
    (project.folder / name).write_text(left)

    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    mend(project, failed.stderr)
    assert project.ran("repro") == ["final_train@adam"]
    assert same_results(project, finished)
    assert kept(project) == done


def test_a_record_that_ends_early_and_still_reads_is_made_whole(
    project: Project, finished: Project
) -> None:
    lock = project.folder / "dvc.lock"
    content = lock.read_text()
    lock.write_text(content[: content.index("  plot:")])

    assert project.ran("repro") == ["plot"]
    assert same_results(project, finished)


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "garbage"])
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/mnist1d.npz", "tune_adam"),
        ("metrics/tune_adam.json", "final_train@adam"),
        ("metrics/tune_lrg_adam.json", "plot"),
        ("metrics/replicates/adam.csv", "compare"),
        ("plots/tuning/adam.csv", "plot"),
    ],
)
def test_a_stage_names_an_input_that_is_damaged(
    project: Project, name: str, stage: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.read()
    if (kind, name[-3:]) == ("truncated", "csv"):
        (project.folder / name).write_text("replicate,lr,rank\n1,2,three\n")
    else:
        damage(project.folder / name, kind)

    # In this process: there are many cases, and loading torch takes seconds.
    _, script, *arguments = project.stages()[stage]["cmd"].split()
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")

    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"error: {name}: ")
    assert {**project.read(), name: b""} == {**before, name: b""}


@pytest.mark.parametrize(
    "best", ['{"lr": "high"}', '{"rank": 3}', '{"lr": 0.1, "rank": 3}', "[]", '{"lr": -1}']
)
def test_a_hand_edited_best_is_refused(project: Project, best: str) -> None:
    (project.folder / "metrics/tune_adam.json").write_text(f'{{"best": {best}}}')

    failed = project.run("sh", "-c", project.stages()["final_train@adam"]["cmd"], check=False)

    one_line(failed, "metrics/tune_adam.json: best = ")


@pytest.mark.parametrize("stage", ["fetch_data", "final_train@lrg_adam", "plot"])
def test_a_full_disk_is_reported(project: Project, stage: str) -> None:
    before = project.read()
    # No file may grow beyond a block or two: to a program that is a full disk.
    command = f"ulimit -f 2; {project.stages()[stage]['cmd']}"

    failed = project.run("sh", "-c", command, check=False)

    one_line(failed, {"fetch_data": "data/", "plot": "plots/"}.get(stage, "models/"))
    assert project.read() == before
    assert list(project.folder.rglob("*.part")) == []


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """An empty file system of its own over a folder; the test is skipped where that is denied."""
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
    folder = project.folder / "plots"
    command = project.stages()["final_train@adam"]["cmd"]
    with mounted(folder, options):
        if options != "ro":
            (folder / "history").mkdir()
            (folder / "history/ballast").write_bytes(b"0" * 4096)
        failed = project.run("sh", "-c", command, check=False)

    one_line(failed, "plots/history")
    assert why in failed.stderr


def test_a_file_in_the_way_of_a_folder_is_reported(project: Project) -> None:
    forget(project, "compare")
    (project.folder / "metrics/replicates").rename(project.folder / "metrics/elsewhere")
    (project.folder / "metrics/replicates").touch()

    failed = project.run("sh", "-c", project.stages()["compare"]["cmd"], check=False)

    one_line(failed, "metrics/replicates")


@pytest.mark.slow
def test_a_dependency_deleted_while_a_stage_runs_is_named(
    project: Project, finished: Project
) -> None:
    forget(project, "tune_adam")
    run = Run.dvc(project, "repro", "tune_adam")
    run.until(lambda: "> python" in run.output)
    (project.folder / "data/mnist1d.npz").unlink()

    if run.wait() != 0:
        assert "data/mnist1d.npz" in run.output
        assert "Traceback" not in run.output

    project.dvc("repro")
    assert same_results(project, finished)


@pytest.mark.parametrize(
    "edited",
    ["params.yaml", pytest.param("stages/experiment/randomness.py", marks=pytest.mark.slow)],
)
def test_an_input_edited_while_a_stage_runs_is_not_taken_for_the_one_it_read(
    project: Project, edited: str
) -> None:
    # Trials enough for the edit to come before the last of them.
    set_params(project.folder / "params.yaml", {"seed": 1, "tune.trials": 60})
    shutil.rmtree(project.folder / ".scratch")
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
    assert project.ran("repro", "tune_adam") == ["tune_adam"]


def test_an_edit_of_what_a_stage_does_not_read_does_not_stop_it(project: Project) -> None:
    set_params(project.folder / "params.yaml", {"seed": 1})
    shutil.rmtree(project.folder / ".scratch")
    run = Run.dvc(project, "repro", "tune_adam")
    run.until(lambda: kept(project))
    set_params(project.folder / "params.yaml", {"compare.margin": 0.5})
    (project.folder / "stages/compare.py").write_text("# an edit\n")

    assert run.wait() == 0, run.output


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
