"""Run independent tasks of a stage in parallel processes; keep each result as soon as it is ready.

The number and location of the processes change no bit of a result: what is computed together is one
task, and one process with one thread computes it.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from experiment.stage import code, files
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.training import progress

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import RLock

SCRATCH = Path(".scratch")
SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
PATIENCE = 10  # seconds to wait for a scheduler
MOST_ON_WINDOWS = 61  # processes; Windows cannot wait for more

Data = TypeVar("Data", bound=Iterable[Split])
Task = TypeVar("Task")
Result = dict[str, Tensor]

# The data that the tasks of this worker process read.
_data: Any = None


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Divide `total` into groups of `size`, the last maybe smaller: pairs of first and size."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def merged(results: Sequence[Result]) -> Result:
    """Concatenate the results of groups along the first axis."""
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


class Work(Generic[Data]):
    """The tasks of one stage.

    The result of a task is kept under `.scratch/<stage>`, named by everything that determines it:
    the function, the task, the data, the code and the package versions. A stage that was stopped
    finds its finished tasks there; one with other parameters finds nothing. The results are deleted
    when the block ends without an error.

    Args:
        stage: name of the folder.
        data: parts that every task reads; they are sent to each process once.
        device: cpu, or cuda, which only this process uses.
        total: number of tasks to come, for the progress bar.
        unit: what the progress bar calls a task.

    """

    def __init__(self, stage: str, data: Data, *, device: str, total: int, unit: str) -> None:
        self._data = data
        self._device = device
        self._total = total
        self._folder = SCRATCH / stage
        self._modules = code.loaded()
        self._code = code.digest(self._modules)
        self._identity = f"{self._code} {_digest(data)}"
        self._executor: Executor | None = None
        # The data sent with a task: a reference on a cluster, None if processes already have it.
        self._sent: Any = None
        # What a task raises if its process is lost.
        self._lost: tuple[type[Exception], ...] = (BrokenProcessPool,)
        self._bar = progress.bar(total=total, unit=unit, desc=stage)

    def __enter__(self) -> Self:
        if SCHEDULER in os.environ:
            self._executor, self._sent, self._lost = cluster(os.environ[SCHEDULER], self._data)
        elif self._device == "cuda":
            if not torch.cuda.is_available():
                raise UserError("params.yaml: device = cuda; allowed: cpu (torch sees no GPU here)")
        elif (count := min(workers(), self._total)) > 1:
            self._executor = _processes(count, self._data)
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
            shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, function: Callable[[Data, Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Results of `function(data, task)` in the order of the tasks.

        Args:
            function: importable by name from another process.
            tasks: values with distinct `repr`s, such as frozen dataclasses.

        Raises:
            UserError: a process was killed from outside, for example for lack of memory.

        """
        kept = [self._kept(function, task) for task in tasks]
        results = {i: found for i, path in enumerate(kept) if (found := _read(path)) is not None}
        self._bar.update(len(results))
        missing = {i: task for i, task in enumerate(tasks) if i not in results}
        for i, result in self._computed(function, missing):
            files.write_tensors(kept[i], result)
            results[i] = result
            self._bar.update()
        return [results[i] for i in range(len(tasks))]

    def _computed(
        self, function: Callable[[Data, Task], Result], tasks: Mapping[int, Task]
    ) -> Iterator[tuple[int, Result]]:
        """Results with the positions of their tasks, in the order in which they finish."""
        if self._executor is None:
            for position, task in tasks.items():
                yield position, function(self._data, task)
            return
        running = {
            self._executor.submit(
                _elsewhere, self._modules, self._code, function, self._sent, task
            ): position
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
    modules: tuple[str, ...],
    expected: str,
    function: Callable[[Data, Task], Result],
    data: Data | None,
    task: Task,
) -> Result:
    """Compute a task in another process, which must run the same code as this one."""
    if code.digest(modules) != expected:
        raise UserError(
            "a worker runs other code or other versions than this stage; "
            "start the workers again, from the same commit and constraints.txt"
        )
    return function(_data if data is None else data, task)


def _digest(data: Iterable[Split]) -> str:
    digest = hashlib.sha256()
    for split in data:
        for array in split:
            digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Result | None:
    """The result kept at `path`; None if it is missing or damaged."""
    try:
        kept: Result = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    except Exception:
        return None
    return kept


def workers() -> int:
    """Number of processes: EXPERIMENT_WORKERS, or one per core; at most what Windows allows."""
    asked = os.environ.get("EXPERIMENT_WORKERS")
    if asked is None:
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    elif not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"EXPERIMENT_WORKERS = {asked!r}; allowed: a whole number of at least 1")
    else:
        count = int(asked)
    return min(count, MOST_ON_WINDOWS) if sys.platform == "win32" else count


def cluster(address: str, data: Data) -> tuple[Executor, Any, tuple[type[Exception], ...]]:
    """Connect to the workers of a Dask scheduler; Dask reruns the tasks of a lost worker.

    Returns:
        An executor, a reference to the data on every worker, and what a lost task raises.

    """
    try:
        from distributed import Client, KilledWorker
    except ModuleNotFoundError:
        raise UserError(
            f"{SCHEDULER} = {address!r}, but Dask is not installed: "
            'pip install -c constraints.txt -e ".[pipeline,cluster]"'
        ) from None
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # the last two: no certificate
        raise UserError(
            f"{SCHEDULER} = {address!r}; allowed: where a Dask scheduler answers, such as "
            "tcp://127.0.0.1:8786, to this machine's certificate if it asks for one; unset, the "
            f"work stays on this machine ({' '.join(str(error).split())})"
        ) from None
    sent = client.scatter(data, broadcast=True, hash=False)
    return client.get_executor(pure=False), sent, (KilledWorker, CancelledError)


def _processes(count: int, data: Iterable[Split]) -> ProcessPoolExecutor:
    # A forked worker starts with all modules loaded, which saves seconds. Forking is safe because
    # this process has a single thread; outside Linux, system libraries may start more.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    lock, lines = context.RLock(), context.SimpleQueue()
    tqdm.set_lock(lock)
    for line in range(1, count + 1):
        lines.put(line)
    return ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(lock, lines, data)
    )


def _start_worker(lock: RLock, lines: SimpleQueue[int], data: Iterable[Split]) -> None:
    global _data
    _data = data
    tqdm.set_lock(lock)
    progress.line = lines.get()
    # Ctrl-C reaches the whole process group: the parent reports it, a worker just exits.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    # Otherwise workers would wait forever after their parent is killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
