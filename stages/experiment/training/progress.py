"""Progress bars for long work on a terminal; silent anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# No monitor thread: a process that forks workers must have a single thread.
tqdm.monitor_interval = 0

# The line of the terminal that this process writes to; each worker gets its own.
line = 0


def bar(steps: Iterable[T] | None = None, **options: Any) -> tqdm[T]:  # noqa: ANN401 - tqdm's own
    """A progress bar over `steps`, or one updated by hand; shown only if stderr is a terminal.

    `options` are those of tqdm (`total`, `desc`, `unit`).
    """
    return tqdm(steps, position=line, leave=False, dynamic_ncols=True, disable=None, **options)
