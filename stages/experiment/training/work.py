"""Run independent tasks of a stage in parallel; keep each result as soon as it is ready.

The number and location of the processes change no bit of a result: what is computed together is one
task, and one process with one thread computes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar

import torch

from experiment.stage import code, environment
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.training import kept, progress
from experiment.training.kept import Kept, Result
from experiment.training.places import SCHEDULER, Cluster, Processes, workers

__all__ = ["Result", "Work", "merged", "spans"]

Data = TypeVar("Data", bound=Iterable[Split])
Task = TypeVar("Task")


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Divide `total` into groups of `size`, the last maybe smaller: pairs of first and size."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def merged(results: Sequence[Result]) -> Result:
    """Concatenate the results of groups along the first axis."""
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def _compute(
    function: Callable[[Any, Any], Result],
    modules: tuple[str, ...],
    digest: str,
    data: object,
    task: object,
) -> tuple[str, bytes]:
    """Compute a task in a process that has the code and the arithmetic of the stage."""
    if code.digest(modules) != digest:
        raise UserError(
            "a worker runs other code or other versions than this stage; "
            "start the workers again, from the same commit and constraints.txt"
        )
    environment.prove()
    result = function(data, task)
    environment.prove()  # a module of the user's may have changed the threads
    return kept.packed(result)


class Work(Generic[Data]):
    """The tasks of one stage, each computed only if its result is not kept.

    Args:
        stage: its name, for the progress bar.
        data: parts that every task reads.
        device: cpu, or cuda, which only this process uses.
        total: number of tasks to come, for the progress bar.
        unit: what the progress bar calls a task.

    """

    def __init__(self, stage: str, data: Data, *, device: str, total: int, unit: str) -> None:
        self._data = data
        self._device = device
        self._total = total
        self._kept = Kept(data)
        self._others: Processes | Cluster | None = None  # processes that compute
        self._bar = progress.bar(total=total, unit=unit, desc=stage)

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
        kept.drop_oldest()

    def run(self, function: Callable[[Data, Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Results of `function(data, task)` in the order of the tasks.

        Args:
            function: importable by name from another process.
            tasks: values with distinct `repr`s, such as frozen dataclasses.

        Raises:
            UserError: a process was killed from outside, for example for lack of memory; or it has
                other code or other arithmetic.

        """
        keys = [self._kept.key(function, task) for task in tasks]
        results = self._kept.read(keys)
        self._bar.update(len(results))
        missing = {i: task for i, task in enumerate(tasks) if i not in results}
        modules = code.loaded()
        compute = partial(_compute, function, modules, code.digest(modules))
        found = (
            self._others.results(compute, missing)
            if self._others is not None
            else ((i, compute(self._data, task)) for i, task in missing.items())
        )
        for i, (digest, content) in found:
            self._kept.write(keys[i], digest, content)
            _, results[i] = kept.unpacked(content)
            self._bar.update()
        return [results[i] for i in range(len(tasks))]
