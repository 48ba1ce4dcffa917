"""Progress of long work on a terminal: how far, and the time left. Quiet anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# No thread that watches over the bars: a process that forks workers is to have one thread.
tqdm.monitor_interval = 0

# The line of the terminal that this process writes to; a worker is given one of its own.
line = 0


def bar(steps: Iterable[T] | None = None, **options: Any) -> tqdm[T]:  # noqa: ANN401 - tqdm's own
    """A progress bar over `steps`, or one moved by hand; it shows only where stderr is a terminal.

    `options` are those of tqdm (`total`, `desc`, `unit`).
    """
    return tqdm(steps, position=line, leave=False, dynamic_ncols=True, disable=None, **options)
