"""Mistakes that a user can fix."""

from textwrap import shorten


class UserError(Exception):
    """A mistake that the user can fix; the text says what was found, where, and what is allowed."""


def changed(path: object) -> UserError:
    """The error for an input that has changed since the stage read it."""
    return UserError(f"{path}: changed while the stage ran; run `dvc repro` again")


def reason(error: Exception) -> str:
    """One line that says what a user's code raised."""
    return shorten(f"{type(error).__name__}: {error}", width=300)
