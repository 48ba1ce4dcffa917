"""Progress of long work: a bar on a terminal, a line a minute anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# No monitor thread: a process that forks workers must have a single thread.
tqdm.monitor_interval = 0

# Whether this process shows any; workers do not, since their parent does.
shown = True
INTERVAL = 60  # seconds between two lines


class _Lines(tqdm):  # type: ignore[misc]
    """Progress that a log can hold; `gui` tells tqdm that it writes nothing itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(
            *arguments, gui=True, mininterval=INTERVAL, delay=INTERVAL, miniters=1, **options
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        print(self, file=sys.stderr, flush=True)


def bar(steps: Iterable[T] | None = None, **options: Any) -> tqdm[T]:  # noqa: ANN401 - tqdm's own
    """Progress over `steps`, or updated by hand; `options` are tqdm's `total`, `desc`, `unit`."""
    kind = tqdm if sys.stderr.isatty() else _Lines
    return kind(steps, leave=False, dynamic_ncols=True, disable=not shown, **options)
