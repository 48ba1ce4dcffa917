"""Finished tasks, kept in a folder that may be deleted at any time.

A file is named by what determines its content: the function, the task and the data, then the code
that computed it. It lists the modules of that code, so whoever has the same sources reads it again.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from experiment.stage import code
from experiment.stage.data import Split

Result = dict[str, Tensor]

FOLDER = Path(".scratch/tasks")
LIMIT = 2**30  # bytes; what was used least recently is dropped first


def packed(result: Result) -> tuple[str, bytes]:
    """The digest of the code that computed a result, and the result as bytes."""
    modules = code.loaded()
    buffer = io.BytesIO()
    torch.save((modules, result), buffer)
    content = buffer.getvalue()
    return code.digest(modules), hashlib.sha256(content).digest() + content


def unpacked(content: bytes) -> tuple[tuple[str, ...], Result]:
    """The modules that computed a result, and the result; damage raises ValueError."""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("damaged")
    found: tuple[tuple[str, ...], Result] = torch.load(io.BytesIO(content[32:]), weights_only=True)
    return found


class Kept:
    """The kept tasks on some data."""

    def __init__(self, data: Iterable[Split]) -> None:
        digest = hashlib.sha256()
        for split in data:
            for array in split:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        self._data = digest.hexdigest()
        self._writable = True

    def key(self, function: Callable[..., Result], task: object) -> str:
        """What determines a result, but for the code."""
        identity = f"{self._data} {function.__module__}.{function.__qualname__} {task!r}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def read(self, keys: Sequence[str]) -> dict[int, Result]:
        """The results that the present code computed and that are whole, by positions of keys."""
        found = {}
        for position, key in enumerate(keys):
            for path in FOLDER.glob(f"{key}.*"):
                with suppress(Exception):  # another run may drop it; damage raises many types
                    modules, result = unpacked(path.read_bytes())
                    if path.name == f"{key}.{code.digest(modules)}":
                        found[position] = result
                        os.utime(path)
        return found

    def write(self, key: str, digest: str, content: bytes) -> None:
        """Keep a result; say once if that is impossible."""
        part = FOLDER / f".{key}.{os.getpid()}.part"
        try:
            FOLDER.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(FOLDER / f"{key}.{digest}")
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            if self._writable:
                print(f"{FOLDER}: {error.strerror}; finished tasks are not kept", file=sys.stderr)
            self._writable = False


def drop_oldest() -> None:
    """Drop what was used least recently, until the rest is within the limit."""
    with suppress(OSError):  # another run drops, too
        files = sorted(FOLDER.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        size = 0
        for path in files:
            size += path.stat().st_size
            if size > LIMIT:
                path.unlink(missing_ok=True)
