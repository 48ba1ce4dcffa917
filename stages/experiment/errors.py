"""Mistakes a user can mend, and how a stage reports them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class UserError(Exception):
    """Something the user can mend; its text says what was found, where, and what is allowed."""


@contextmanager
def reported() -> Iterator[None]:
    """Run a stage: end with one line and exit status 1, no traceback, where the user can help."""
    try:
        yield
    except UserError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(
            "\ninterrupted: `dvc repro` goes on from the last finished piece of work",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, traceback)


# Ctrl-C may come while a stage still loads its libraries, so no `try` would see it.
sys.excepthook = _uncaught
