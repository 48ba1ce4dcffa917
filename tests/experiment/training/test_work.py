"""Finished tasks are kept, found again, and never mistaken for others."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from project import ARMS, ENVIRONMENT, ROOT

from experiment.stage import code, versions
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError
from experiment.training import places, progress, work
from experiment.training.work import Result, Work
from studies.training.arm import tune
from studies.training.arms import ArmConfig

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
    return tmp_path / work.FOLDER


def open_work(total: int = 1, data: Dataset = DATA, device: str = "cpu") -> Work[Dataset]:
    return Work("stage", data, device=device, total=total, unit="task")


def run(*tasks: Task, data: Dataset = DATA) -> list[int]:
    with open_work(len(tasks), data) as opened:
        return [int(result["double"]) for result in opened.run(double, tasks)]


def python(program: str, *command: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program that may import this file, as the last argument of a command."""
    found = [path, *map(str, (ROOT / "stages", Path(__file__).parent, ROOT / "tests/pipeline"))]
    return subprocess.run(
        [*command, sys.executable, "-B", "-c", program],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(found)},
        capture_output=True,
        text=True,
        check=False,
    )


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
    said = []
    for number in (1, 2, 1):
        module.write_text(f"NUMBER = {number}\n")
        said.append(python(script, path=str(tmp_path)).stdout.strip())
    assert said == ["computed 1", "computed 2", "1"]


def test_other_versions_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run(Task(1))
    with monkeypatch.context() as patch:
        patch.setattr(versions, "installed", lambda _: "0.1")
        code.digest.cache_clear()
        assert run(Task(1)) == [2]
    code.digest.cache_clear()

    assert run(Task(1)) == [2]
    assert calls == [1, 1]


def test_an_arm_with_two_more_rates_trains_two(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 4), np.float32), rng.integers(0, 3, 24)
    data = Dataset(Split(x, y), Split(x, y), Split(x, y))

    given = yaml.safe_load((ROOT / ARMS).read_text())["defaults"]
    given |= {"optimizer": "adam", "model": "logistic", "options": {}, "finest_ratio": None}
    given |= {"epochs": 2, "batch_size": 8, "tuning_replicates": 3, "group": 3}

    def losses(*lrs: float) -> dict[float, list[float]]:
        arm = ArmConfig(**{**given, "lrs": lrs})
        with open_work(len(lrs), data) as opened:
            found = tune(opened, arm, space={})
        return {point["lr"]: one["validation_loss_nats"].tolist() for point, one in found}

    losses(0.01)
    (first,) = done = set(folder.iterdir())
    before = first.stat().st_ino

    more = losses(0.001, 0.01, 0.1)

    assert first.stat().st_ino == before
    assert len(set(folder.iterdir()) - done) == 2
    shutil.rmtree(folder)
    assert losses(0.001, 0.01, 0.1) == more


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
    monkeypatch.setattr(work, "LIMIT", 2 * size)

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
    progress.note.cache_clear()
    folder.parent.mkdir()
    folder.write_text("a file is in the way")

    assert run(Task(1), Task(2), Task(3)) == [2, 4, 6]

    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"{work.FOLDER}: File exists; finished tasks are not kept"


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
        pytest.param("export TMPDIR=$PWD/{long}; mkdir $TMPDIR", marks=pytest.mark.slow),
        pytest.param("mount -t tmpfs -o size=64k none /dev/shm", marks=pytest.mark.slow),
    ],
)
def test_processes_need_no_descriptors_and_no_shared_memory(limit: str) -> None:
    alone = ["unshare", "--mount"] if limit.startswith("mount") else []
    if alone and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    shell = f'{limit.format(long="t" * 100)} && exec "$0" "$@"'

    done = python(f"import experiment\n{LIMITED}", *alone, "sh", "-c", shell)

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


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    opened = open_work(device="cuda")

    with pytest.raises(UserError, match=r"params.yaml: device = cuda; allowed: cpu"), opened:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="where workers are forked")
def test_a_process_that_forks_workers_has_one_thread() -> None:
    program = """
import os
from experiment.training import progress
import tune, final_train
import studies.training.arm, studies.gradients.trajectory, studies.published.repeat
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
