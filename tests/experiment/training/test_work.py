"""Finished tasks are kept, found again, and never mistaken for others."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ENVIRONMENT, ROOT

from experiment.stage import code
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError
from experiment.training import work
from experiment.training.work import Result, Work, merged, spans

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
    monkeypatch.delenv(work.SCHEDULER, raising=False)
    calls.clear()
    return tmp_path


def open_work(total: int = 1, data: Dataset = DATA, device: str = "cpu") -> Work[Dataset]:
    return Work("stage", data, device=device, total=total, unit="task")


def run(*tasks: Task, data: Dataset = DATA) -> list[int]:
    with open_work(len(tasks), data) as opened:
        return [int(result["double"]) for result in opened.run(double, tasks)]


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


def test_finished_tasks_are_deleted_when_the_block_ends_well(folder: Path) -> None:
    interrupted(Task(1))
    assert len(list(folder.glob(".scratch/stage/*.pt"))) == 1

    with open_work(2) as opened:
        opened.run(double, [Task(1), Task(2)])
        assert len(list(folder.glob(".scratch/stage/*.pt"))) == 2

    assert not (folder / ".scratch/stage").exists()
    assert run(Task(1)) == [2]
    assert calls == [1, 2, 1]


def test_a_block_that_fails_keeps_them(folder: Path) -> None:
    def stage() -> None:
        with open_work() as opened:
            opened.run(double, [Task(1)])
            raise UserError("the stage finds a mistake in what came out")

    with pytest.raises(UserError, match="finds a mistake"):
        stage()

    assert len(list(folder.glob(".scratch/stage/*.pt"))) == 1
    assert run(Task(1)) == [2]
    assert calls == [1]


def test_another_stage_finds_nothing_and_deletes_nothing(folder: Path) -> None:
    interrupted(Task(1))

    with Work("other", DATA, device="cpu", total=1, unit="task") as opened:
        opened.run(double, [Task(1)])

    assert calls == [1, 1]
    assert len(list(folder.glob(".scratch/stage/*.pt"))) == 1


def test_other_code_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(Task(1))
    monkeypatch.setattr(code, "digest", lambda _: "edited")

    assert run(Task(1)) == [2]
    assert calls == [1, 1]


def triple(data: Dataset, task: Task) -> Result:
    return {"double": double(data, task)["double"] // 2 * 3}


def test_another_function_finds_nothing() -> None:
    interrupted(Task(1))

    with open_work() as opened:
        (result,) = opened.run(triple, [Task(1)])

    assert int(result["double"]) == 3


class Unsent(Dataset):
    """Data that cannot be sent with a task."""

    def __reduce__(self) -> str:
        raise AssertionError("sent with a task")


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
def test_processes_have_the_data_and_give_the_same_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="sent with a task"):
        pickle.dumps(Unsent(*DATA))
    tasks = [Task(number) for number in range(5)]
    alone = run(*tasks)
    assert calls == [0, 1, 2, 3, 4]
    monkeypatch.setenv("EXPERIMENT_WORKERS", "2")

    assert run(*tasks, data=Unsent(*DATA)) == alone
    assert calls == [0, 1, 2, 3, 4]  # those of other processes are not seen here
    assert not (folder / ".scratch/stage").exists()


def die(data: Dataset, task: Task) -> Result:
    if task.number:
        os._exit(1)
    return double(data, task)


def test_a_worker_that_is_killed_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", "2")

    def stage() -> None:
        with open_work(2) as opened:
            opened.run(double, [Task(0)])
            opened.run(die, [Task(0), Task(1)])

    with pytest.raises(UserError, match="a worker process was killed"):
        stage()

    assert list(folder.glob(".scratch/stage/*.pt"))


def test_making_it_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(Task(1))
    before = sorted(folder.rglob("*"))
    monkeypatch.setenv("EXPERIMENT_WORKERS", "none at all")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    open_work()
    open_work(device="cuda")
    monkeypatch.setenv(work.SCHEDULER, "nowhere")
    open_work()

    assert sorted(folder.rglob("*")) == before
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_reported(
    workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", workers)
    opened = open_work()

    with (
        pytest.raises(UserError, match=r"EXPERIMENT_WORKERS = .*; allowed: a whole number"),
        opened,
    ):
        pass


@pytest.mark.parametrize("asked", [None, "100"])
def test_windows_has_61_workers_at_most(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERIMENT_WORKERS")
    if asked is not None:
        monkeypatch.setenv("EXPERIMENT_WORKERS", asked)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 100)
    assert work.workers() == 100
    monkeypatch.setattr(sys, "platform", "win32")
    assert work.workers() == 61


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    opened = open_work(device="cuda")

    with pytest.raises(UserError, match=r"params.yaml: device = cuda; allowed: cpu"), opened:
        pass


def test_a_cluster_is_sent_the_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cluster(address: str, data: Dataset) -> tuple[Executor, Dataset, tuple[type[Exception]]]:
        asked.append(address)
        assert data is DATA
        return ThreadPoolExecutor(1), sent, (BrokenProcessPool,)

    sent = DATA._replace(train=DATA.train._replace(y=np.array([0, 1])))
    monkeypatch.setenv(work.SCHEDULER, "tcp://somewhere:8786")
    monkeypatch.setattr(work, "cluster", cluster)
    opened = open_work(2)
    assert asked == []

    with opened:
        results = opened.run(double, [Task(1), Task(2)])

    assert [int(result["double"]) for result in results] == [3, 5]  # of what was sent
    assert asked == ["tcp://somewhere:8786"]


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
@pytest.mark.parametrize(
    "modules",
    [
        "tune, final_train",
        "studies.training.arm, studies.gradients.trajectory, studies.published.repeat",
    ],
)
def test_a_process_that_forks_workers_has_one_thread(modules: str) -> None:
    code = f"""
import os
from experiment.training import progress
import {modules}
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
