"""The code that determines a result: the project's modules that this process has loaded.

dvc.yaml lists the folders and files that a stage may load; a test runs each stage with nothing
else. Within a run, the loaded modules determine which finished work may be reused, and are watched
for edits.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiment.stage import versions
from experiment.stage.errors import changed

ROOT = Path(__file__).parents[2]
# All sources, read before most of them are loaded: this process does not run later edits.
_SOURCES = {path: path.read_bytes() for path in ROOT.rglob("*.py")}


def loaded() -> tuple[str, ...]:
    """The project's modules that this process has loaded, as paths below `stages`, sorted.

    `__main__` is left out: it only starts the stage.
    """
    modules = {name: module for name, module in sys.modules.copy().items() if name != "__main__"}
    files = {getattr(module, "__file__", None) for module in modules.values()}
    return tuple(
        sorted(path.relative_to(ROOT).as_posix() for path in _SOURCES if str(path) in files)
    )


@functools.cache
def digest(modules: tuple[str, ...]) -> str:
    """SHA-256 of modules, given as paths below `stages`, and of the decisive packages' versions."""
    found = hashlib.sha256()
    for name in modules:
        found.update(f"{name}\n".encode())
        found.update(_SOURCES.get(ROOT / name, b"missing"))
    for package in versions.DECISIVE:
        found.update(f"{package}=={versions.installed(package)}\n".encode())
    return found.hexdigest()


@contextmanager
def unchanged() -> Iterator[None]:
    """Raise UserError at the end of the block if a loaded module has been edited."""
    yield
    for name in loaded():
        path = ROOT / name
        if not path.exists() or path.read_bytes() != _SOURCES[path]:
            raise changed(path)
