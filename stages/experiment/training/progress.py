"""Progress of long work: a bar on a terminal, a line a minute anywhere else.

Only the process that the user started shows any; its worker processes do not.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# No monitor thread: a process that forks workers must have a single thread.
tqdm.monitor_interval = 0

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
    return kind(steps, leave=False, dynamic_ncols=True, disable=_in_worker(), **options)


@cache
def note(line: str) -> None:
    """Print a line, once."""
    if not _in_worker():
        print(line, file=sys.stderr)


def _in_worker() -> bool:
    return multiprocessing.parent_process() is not None
