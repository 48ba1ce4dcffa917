"""Mistakes a user can mend, and how a stage reports them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
    except KeyboardInterrupt:
        sys.exit("interrupted: `dvc repro` goes on from the last finished piece of work")
