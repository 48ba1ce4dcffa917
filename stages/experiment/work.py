"""Independent tasks of a stage, spread over processes, each result kept as soon as it is there.

How many processes there are, and where they run, changes no bit of a result: what is computed
together is one task, and a task is computed by one process with one thread.
"""

from __future__ import annotations

import functools
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from experiment import files, progress, versions
from experiment.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from threading import RLock

    from experiment.data import Dataset

SCRATCH = Path(".scratch")
SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
PATIENCE = 10  # seconds for it to answer

Task = TypeVar("Task")
Result = dict[str, Tensor]


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Groups of `size` out of `total`, fewer in the last: the first of each, and its size."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def merged(results: Sequence[Result]) -> Result:
    """The results of groups as those of one, along the first axis."""
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


class Work:
    """The tasks of one stage.

    A finished task is kept under `.scratch/<stage>`, named by all that decides its result: the
    function, the task, the data, the code and the versions of packages. A stage that was stopped
    finds its finished tasks there; one with other parameters finds nothing. They go when the
    block has ended well, so that the stage has written its outputs, and DVC has recorded those.

    Args:
        stage: name of the folder.
        data: handed to every task.
        device: cpu, or cuda, which this process keeps to itself.
        total: number of tasks to come, for the progress bar.
        unit: what a task is called there.

    """

    def __init__(self, stage: str, data: Dataset, *, device: str, total: int, unit: str) -> None:
        self._data = data
        self._folder = SCRATCH / stage
        self._finished = self._folder / "finished"
        self._identity = f"{code()} {_digest(data)}"
        if self._finished.exists() and _recorded():
            shutil.rmtree(self._folder)
        self._finished.unlink(missing_ok=True)
        self._executor: Executor | None = None
        # What a task raises whose process is gone.
        self._lost: tuple[type[Exception], ...] = (BrokenProcessPool,)
        if SCHEDULER in os.environ:
            self._executor, self._lost = cluster(os.environ[SCHEDULER])
        elif device == "cuda":
            if not torch.cuda.is_available():
                raise UserError("params.yaml: device = cuda; allowed: cpu (torch sees no GPU here)")
        elif (count := min(workers(), total)) > 1:
            self._executor = _processes(count)
        self._bar = progress.bar(total=total, unit=unit, desc=stage)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._executor is not None:
            self._executor.shutdown(wait=error_type is None)
        for worker in multiprocessing.active_children():
            worker.kill()
        if error_type is None:
            if "DVC_STAGE" in os.environ:
                self._finished.touch()
            else:
                shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self, function: Callable[[Dataset, Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """Results of `function(data, task)` in the order of the tasks.

        Args:
            function: importable by name from another process.
            tasks: values whose `repr` tells them apart, such as frozen dataclasses.

        Raises:
            UserError: a process was killed from outside, as for want of memory.

        """
        kept = [self._kept(function, task) for task in tasks]
        results = [_read(path) for path in kept]
        missing = [position for position, result in enumerate(results) if result is None]
        self._bar.update(len(tasks) - len(missing))
        for position, result in self._computed(function, {p: tasks[p] for p in missing}):
            files.write_tensors(kept[position], result)
            results[position] = result
            self._bar.update()
        return results

    def _computed(
        self, function: Callable[[Dataset, Task], Result], tasks: Mapping[int, Task]
    ) -> Iterator[tuple[int, Result]]:
        """Results with the positions of their tasks, in the order in which they finish."""
        if self._executor is None:
            for position, task in tasks.items():
                yield position, function(self._data, task)
            return
        running = {
            self._executor.submit(_elsewhere, code(), function, self._data, task): position
            for position, task in tasks.items()
        }
        for future in as_completed(running):
            try:
                yield running[future], future.result()
            except self._lost:
                raise UserError(
                    "a worker process was killed; `dvc repro` goes on from the finished tasks"
                ) from None

    def _kept(self, function: Callable[..., Result], task: object) -> Path:
        identity = f"{self._identity} {function.__module__}.{function.__qualname__} {task!r}"
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.pt"


def _elsewhere(
    expected: str, function: Callable[[Dataset, Task], Result], data: Dataset, task: Task
) -> Result:
    """Compute a task in another process, which must not run other code than this one."""
    if code() != expected:
        raise UserError(
            "a worker runs other code or other versions than this stage; "
            "start the workers again, from the same commit and constraints.txt"
        )
    return function(data, task)


@functools.cache
def code() -> str:
    """What, apart from the data, decides the result of a task: sources, packages, arithmetic."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    for name in versions.DECISIVE:
        digest.update(f"{name}=={versions.installed(name)}\n".encode())
    digest.update(f"{torch.get_num_threads()} {torch.backends.cpu.get_cpu_capability()}".encode())
    return digest.hexdigest()


def _digest(data: Dataset) -> str:
    digest = hashlib.sha256()
    for split in data:
        for array in split:
            digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Result | None:
    """What is kept at `path`; a damaged file counts as none, and is computed again."""
    try:
        return torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:
        return None


def _recorded() -> bool:
    """Whether the outputs of this stage are those that DVC has on record.

    If not, the stage was stopped after its last output and before DVC had seen it end.
    """
    # Imported here: worker processes do without.
    from ruamel.yaml import YAML, YAMLError

    try:
        # Of a pipeline in another folder, DVC's name of a stage begins with the path of its file.
        folder, _, name = os.environ["DVC_STAGE"].rpartition("dvc.yaml:")
        lock = YAML(typ="safe").load(Path(folder, "dvc.lock"))
        outputs = lock["stages"][name]["outs"]
        return all(
            hashlib.md5(Path(output["path"]).read_bytes()).hexdigest() == output["md5"]
            for output in outputs
        )
    except (OSError, KeyError, TypeError, YAMLError):  # DVC may have been killed at writing it
        return False


def workers() -> int:
    """Processes to use: as many as EXPERIMENT_WORKERS says, or else one for each core."""
    asked = os.environ.get("EXPERIMENT_WORKERS")
    if asked is None:
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"EXPERIMENT_WORKERS = {asked!r}; allowed: a whole number of at least 1")
    return int(asked)


def cluster(address: str) -> tuple[Executor, tuple[type[Exception], ...]]:
    """The workers of a Dask scheduler, wherever they run; Dask repeats what a lost one was at."""
    try:
        from distributed import Client, KilledWorker
    except ModuleNotFoundError:
        raise UserError(
            f"{SCHEDULER} = {address!r}, but Dask is not installed: "
            'pip install -c constraints.txt -e ".[pipeline,cluster]"'
        ) from None
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError):
        raise UserError(
            f"{SCHEDULER} = {address!r}; allowed: where a Dask scheduler answers, "
            "such as tcp://127.0.0.1:8786; unset, the work stays on this machine"
        ) from None
    return client.get_executor(pure=False), (KilledWorker, CancelledError)


def _processes(count: int) -> ProcessPoolExecutor:
    # A forked worker has loaded what this process has, which takes others seconds. No lock is lost
    # by it, as this process has a single thread; elsewhere than on Linux, libraries of the system
    # may have more.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    lock, lines = context.RLock(), context.SimpleQueue()
    tqdm.set_lock(lock)
    for line in range(1, count + 1):
        lines.put(line)
    return ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(lock, lines)
    )


def _start_worker(lock: RLock, lines: SimpleQueue[int]) -> None:
    tqdm.set_lock(lock)
    progress.line = lines.get()
    # Ctrl-C reaches the whole process group: the parent reports it, a worker just goes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    # Where the parent is killed, its workers would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
