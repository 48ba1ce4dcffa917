"""Run independent tasks of a stage in parallel; keep each result as soon as it is ready.

The number and location of the processes change no bit of a result: what is computed together is one
task, and one process with one thread computes it.

Results are kept in a folder that may be deleted at any time. The name of a file consists of two
digests: of the function, the task and the data, and of the code that computed the result. The file
lists the modules of that code, so a process with the same sources finds the result again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from experiment.stage import code, environment, files
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.training import progress
from experiment.training.places import SCHEDULER, Cluster, Processes, workers

Result = dict[str, Tensor]
Data = TypeVar("Data", bound=Iterable[Split])
Task = TypeVar("Task")

FOLDER = Path(".scratch/tasks")
LIMIT = 2**30  # bytes; what was used least recently is dropped first


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Divide `total` into groups of `size`, the last maybe smaller: pairs of first and size."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def merged(results: Sequence[Result]) -> Result:
    """Concatenate the results of groups along the first axis."""
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


class Work(Generic[Data]):
    """The tasks of one stage; each is computed only if its result is not kept.

    Args:
        stage: its name, for the progress bar.
        data: what every task reads.
        device: cpu, or cuda, which only this process uses.
        total: number of tasks to come.
        unit: what the progress bar calls a task.

    """

    def __init__(self, stage: str, data: Data, *, device: str, total: int, unit: str) -> None:
        self._data = data
        self._device = device
        self._total = total
        self._others: Processes | Cluster | None = None  # processes that compute
        self._bar = progress.bar(total=total, unit=unit, desc=stage)
        digest = hashlib.sha256()
        for split in data:
            for array in split:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        self._digest = digest.hexdigest()

    def __enter__(self) -> Self:
        if SCHEDULER in os.environ:
            self._others = Cluster(os.environ[SCHEDULER], self._data)
        elif self._device == "cuda":
            if not torch.cuda.is_available():
                raise UserError("params.yaml: device = cuda; allowed: cpu (torch sees no GPU here)")
        elif (count := min(workers(), self._total)) > 1:
            self._others = Processes(count, self._data)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._others is not None:
            self._others.close()
        _drop_oldest()

    def run(self, function: Callable[[Data, Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Results of `function(data, task)` in the order of the tasks.

        Args:
            function: importable by name from another process.
            tasks: values with distinct `repr`s, such as frozen dataclasses.

        Raises:
            UserError: a process was killed from outside, for example for lack of memory; or it has
                other code or other arithmetic.

        """
        name = f"{self._digest} {function.__module__}.{function.__qualname__}"
        keys = [hashlib.sha256(f"{name} {task!r}".encode()).hexdigest() for task in tasks]
        results = {i: kept for i, key in enumerate(keys) if (kept := _read(key)) is not None}
        self._bar.update(len(results))
        missing = {i: task for i, task in enumerate(tasks) if i not in results}
        modules = code.loaded()
        compute = partial(_compute, function, modules, code.digest(modules))
        found = (
            self._others.results(compute, missing)
            if self._others is not None
            else ((i, compute(self._data, task)) for i, task in missing.items())
        )
        for i, content in found:
            _, digest, results[i] = _unpacked(content)
            _write(f"{keys[i]}.{digest}", content)
            self._bar.update()
        return [results[i] for i in range(len(tasks))]


def _compute(
    function: Callable[[Any, Any], Result],
    modules: tuple[str, ...],
    digest: str,
    data: object,
    task: object,
) -> bytes:
    """Compute a task with the code and the arithmetic of the stage; return what its file holds."""
    if code.digest(modules) != digest:
        raise UserError(
            "a worker runs other code or other versions than this stage; "
            "start the workers again, from the same commit and constraints.txt"
        )
    environment.prove()
    result = function(data, task)
    environment.prove()  # a module of the user's may have changed the threads
    used = code.loaded()
    buffer = io.BytesIO()
    torch.save((used, code.digest(used), result), buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def _unpacked(content: bytes) -> tuple[tuple[str, ...], str, Result]:
    """The modules that computed a result, their digest, and the result."""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("damaged")
    return torch.load(io.BytesIO(content[32:]), weights_only=True)


def _read(key: str) -> Result | None:
    """The result that the present code computed, if it is kept and undamaged."""
    found = None
    for path in FOLDER.glob(f"{key}.*"):
        with suppress(Exception):  # another run may drop it; damage raises many types
            modules, digest, result = _unpacked(path.read_bytes())
            if digest == code.digest(modules):
                found = result
                os.utime(path)
    return found


def _write(name: str, content: bytes) -> None:
    try:
        files.write(FOLDER / name, content)
    except OSError as error:
        progress.note(f"{FOLDER}: {error.strerror}; finished tasks are not kept")


def _drop_oldest() -> None:
    """Drop what was used least recently, until the rest is within the limit."""
    with suppress(OSError):  # another run drops, too
        files = sorted(FOLDER.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        size = 0
        for path in files:
            size += path.stat().st_size
            if size > LIMIT:
                path.unlink(missing_ok=True)
