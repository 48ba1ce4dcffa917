"""Finished tasks are kept, found again, and never mistaken for others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ENVIRONMENT, ROOT

from experiment.data import Dataset, Split
from experiment.errors import UserError
from experiment.work import Result, Work, merged, spans

DATA = Dataset(*(Split(np.ones((2, 40), np.float32), np.zeros(2, np.int64)) for _ in range(3)))
calls: list[int] = []


@dataclass(frozen=True)
class Task:
    number: int
    other: float = 0.5


def double(data: Dataset, task: Task) -> Result:
    if task.number == 13:
        raise KeyboardInterrupt
    calls.append(task.number)
    return {"double": torch.tensor(2 * task.number) + int(data.train.y.sum())}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    monkeypatch.setenv("DVC_STAGE", "stage")
    calls.clear()
    return tmp_path


def run(*tasks: Task, data: Dataset = DATA) -> list[int]:
    with Work("stage", data, device="cpu", total=len(tasks), unit="task") as work:
        return [int(result["double"]) for result in work.run(double, tasks)]


def interrupted(*tasks: Task) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(*tasks, Task(13))


def test_spans_cover_every_replicate_once() -> None:
    assert spans(10, 4) == [(0, 4), (4, 4), (8, 2)]
    assert spans(4, 4) == [(0, 4)]
    assert spans(3, 8) == [(0, 3)]


def test_results_are_merged_in_their_order() -> None:
    found = merged([{"loss": torch.tensor([1, 2])}, {"loss": torch.tensor([3])}])
    assert found["loss"].tolist() == [1, 2, 3]


def test_what_was_finished_is_not_computed_again() -> None:
    interrupted(Task(1), Task(2))

    assert run(Task(1), Task(2), Task(3)) == [2, 4, 6]
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("damage", [b"", b"PK", b"not an archive at all"])
def test_a_damaged_result_is_computed_again(folder: Path, damage: bytes) -> None:
    interrupted(Task(1))
    (kept,) = folder.glob(".scratch/stage/*.pt")
    kept.write_bytes(damage)

    assert run(Task(1)) == [2]
    assert calls == [1, 1]


def test_another_task_or_other_data_finds_nothing() -> None:
    interrupted(Task(1))

    run(replace(Task(1), other=np.nextafter(0.5, 1)))
    y = np.array([0, 1])
    other = DATA._replace(train=DATA.train._replace(y=y))

    assert run(Task(1), data=other) == [3]
    assert calls == [1, 1, 1]


def test_what_a_killed_writer_left_is_cleared(folder: Path) -> None:
    interrupted(Task(1))
    (kept,) = folder.glob(".scratch/stage/*.pt")
    kept.rename(kept.with_name(f".{kept.name}.123.part"))

    run(Task(1))

    assert list(folder.glob(".scratch/stage/.*.part")) == []


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_reported(
    workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", workers)

    with pytest.raises(UserError, match=r"EXPERIMENT_WORKERS = .*; allowed: a whole number"):
        run(Task(1))


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(UserError, match=r"params.yaml: device = cuda; allowed: cpu"):
        Work("stage", DATA, device="cuda", total=1, unit="task")


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
def test_a_process_that_forks_workers_has_one_thread() -> None:
    code = """
import os
from experiment import progress
import studies.arm, studies.gradients, studies.published
progress.bar(total=3).update()
print(len(os.listdir("/proc/self/task")))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "stages")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "1\n"
