"""Finished tasks are kept, found again, and never mistaken for others."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ENVIRONMENT, ROOT

from experiment.stage import code
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError
from experiment.training import kept, places
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
    monkeypatch.delenv(places.SCHEDULER, raising=False)
    calls.clear()
    return tmp_path / kept.FOLDER


def open_work(total: int = 1, data: Dataset = DATA, device: str = "cpu") -> Work[Dataset]:
    return Work("stage", data, device=device, total=total, unit="task")


def run(*tasks: Task, data: Dataset = DATA) -> list[int]:
    with open_work(len(tasks), data) as opened:
        return [int(result["double"]) for result in opened.run(double, tasks)]


def test_spans_cover_every_replicate_once() -> None:
    assert spans(10, 4) == [(0, 4), (4, 4), (8, 2)]
    assert spans(4, 4) == [(0, 4)]
    assert spans(3, 8) == [(0, 3)]


def test_results_are_merged_in_their_order() -> None:
    found = merged([{"loss": torch.tensor([1, 2])}, {"loss": torch.tensor([3])}])
    assert found["loss"].tolist() == [1, 2, 3]


def test_what_was_finished_is_not_computed_again() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Task(1), Task(2), Task(13))

    assert run(Task(3), Task(2), Task(1)) == [6, 4, 2]
    assert run(Task(1), Task(2), Task(3)) == [2, 4, 6]
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("end", [0, 2, 40, -1])
def test_a_truncated_or_changed_file_is_computed_again(folder: Path, end: int) -> None:
    run(Task(1))
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content[:end], content):
        file.write_bytes(damaged)
        assert run(Task(1)) == [2]
    assert calls == [1, 1, 1]


def triple(data: Dataset, task: Task) -> Result:
    return {"double": double(data, task)["double"] // 2 * 3}


def test_another_task_other_data_or_another_function_finds_nothing() -> None:
    run(Task(1))

    run(replace(Task(1), other=np.nextafter(0.5, 1)))
    other = DATA._replace(train=DATA.train._replace(y=np.array([0, 1])))
    assert run(Task(1), data=other) == [3]
    # The same bytes in another shape.
    turned = DATA._replace(train=DATA.train._replace(x=DATA.train.x.reshape(40, 2)))
    run(Task(1), data=turned)
    with open_work() as opened:
        (result,) = opened.run(triple, [Task(1)])

    assert int(result["double"]) == 3
    assert calls == [1, 1, 1, 1, 1]


def test_an_edit_of_the_code_finds_nothing_and_the_way_back_finds_all(tmp_path: Path) -> None:
    module = tmp_path / "of_my_own.py"  # outside the project, and loaded by the task itself
    script = (
        "import experiment, sys\n"
        "from test_work import DATA, Work, Task\n"
        "import by_name\n"
        "with Work('stage', DATA, device='cpu', total=1, unit='task') as work:\n"
        "    print(*(int(r['n']) for r in work.run(by_name.number, [Task(1)])))\n"
    )
    (tmp_path / "by_name.py").write_text(
        "import torch\n"
        "def number(data, task):\n"
        "    import of_my_own\n"
        "    print('computed', end=' ')\n"
        "    return {'n': torch.tensor(of_my_own.NUMBER)}\n"
    )
    path = [tmp_path, ROOT / "stages", Path(__file__).parent, ROOT / "tests/pipeline"]
    said = []
    for number in (1, 2, 1):
        module.write_text(f"NUMBER = {number}\n")
        done = subprocess.run(
            [sys.executable, "-B", "-c", script],
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, path))},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(done.stdout.strip())
    assert said == ["computed 1", "computed 2", "1"]


def test_other_versions_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run(Task(1))
    monkeypatch.setattr(code, "digest", lambda _: "of other versions")

    assert run(Task(1)) == [2]
    assert calls == [1, 1]


def test_what_was_used_least_recently_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        run(Task(number))
        for file in folder.iterdir():  # as if it had been long ago
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**12))
    (folder / ".of a killed writer.7.part").write_bytes(b"0" * 10)
    os.utime(folder / ".of a killed writer.7.part", (0, 0))
    size = max(file.stat().st_size for file in folder.iterdir())
    monkeypatch.setattr(kept, "LIMIT", 2 * size)

    run(Task(1))

    assert len(list(folder.iterdir())) == 2
    calls.clear()
    run(Task(1), Task(3))
    assert calls == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_folder_that_cannot_be_written_is_told_once(
    folder: Path, workers: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", workers)
    folder.parent.mkdir()
    folder.write_text("a file is in the way")

    assert run(Task(1), Task(2), Task(3)) == [2, 4, 6]

    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"{kept.FOLDER}: File exists; finished tasks are not kept"


def test_processes_give_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", "2")
    tasks = [Task(number) for number in range(5)]

    assert run(*tasks) == [0, 2, 4, 6, 8]
    assert calls == []  # those of other processes are not seen here
    assert multiprocessing.active_children() == []


def many(data: Dataset, task: Task) -> Result:
    rows = torch.from_numpy(data.train.y).sum() + torch.full((1000,), float(task.number))
    return {str(i): rows for i in range(11)}


LIMITED = """
import os
from test_work import DATA, Task, Work, many
os.environ["EXPERIMENT_WORKERS"] = "2"
with Work("stage", DATA, device="cpu", total=100, unit="task") as work:
    results = work.run(many, [Task(number) for number in range(100)])
print(int(sum(tensor.sum() for result in results for tensor in result.values())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of Linux")
@pytest.mark.parametrize(
    "limit",
    [
        "ulimit -n 64",
        "export TMPDIR=$PWD/{long}; mkdir $TMPDIR",
        "mount -t tmpfs -o ro none /dev/shm",
        "mount -t tmpfs -o size=64k none /dev/shm",
    ],
)
def test_processes_need_no_descriptors_and_no_shared_memory(limit: str) -> None:
    alone = ["unshare", "--mount"] if limit.startswith("mount") else []
    if alone and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    path = [ROOT / "stages", Path(__file__).parent, ROOT / "tests/pipeline"]
    command = f'{limit.format(long="t" * 100)} && exec "$0" -c "$1"'

    done = subprocess.run(
        [*alone, "sh", "-c", command, sys.executable, f"import experiment\n{LIMITED}"],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"{sum(range(100)) * 11 * 1000}\n", done.stderr


def fail(data: Dataset, task: Task) -> Result:
    match task.number:
        case 1:
            os._exit(1)
        case 2:
            raise UserError("a line")
        case 3:
            raise type("Local", (Exception,), {})("cannot be sent")
        case 4:
            torch.set_num_threads(2)
    return double(data, task)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (1, UserError, "a worker process was killed"),
        (2, UserError, "^a line$"),
        (3, RuntimeError, "cannot be sent"),
        (4, UserError, "^this process computes with 2 threads of "),
    ],
)
def test_a_process_that_fails_is_told_from_one_that_is_lost(
    number: int,
    error: type[Exception],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", "2")

    def stage() -> None:
        with open_work(2) as opened:
            opened.run(double, [Task(0)])
            opened.run(fail, [Task(0), Task(number)])

    with pytest.raises(error, match=message):
        stage()

    assert list(folder.iterdir())
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_reported(
    workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", workers)

    with pytest.raises(UserError, match=r"EXPERIMENT_WORKERS = .*; allowed: a whole number"):
        run(Task(1))


@pytest.mark.parametrize("asked", [None, "100"])
def test_windows_has_61_workers_at_most(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERIMENT_WORKERS")
    if asked is not None:
        monkeypatch.setenv("EXPERIMENT_WORKERS", asked)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 100)
    assert places.workers() == 100
    monkeypatch.setattr(sys, "platform", "win32")
    assert places.workers() == 61


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    opened = open_work(device="cuda")

    with pytest.raises(UserError, match=r"params.yaml: device = cuda; allowed: cpu"), opened:
        pass


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "stages")},
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
@pytest.mark.parametrize(
    "modules",
    [
        "tune, final_train",
        "studies.training.arm, studies.gradients.trajectory, studies.published.repeat",
    ],
)
def test_a_process_that_forks_workers_has_one_thread(modules: str) -> None:
    program = f"""
import os
from experiment.training import progress
import {modules}
progress.bar(total=3).update()
print(len(os.listdir("/proc/self/task")))
"""
    assert python(program).stdout == "1\n"


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    program = """
import time
from experiment.training import progress
progress.INTERVAL = 0.2
for _ in progress.bar(range(10), desc="arm", unit="group"):
    time.sleep(0.1)
"""
    lines = python(program).stderr.splitlines()
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("arm: ") and "/10 [" in line for line in lines)
