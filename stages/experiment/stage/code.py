"""The code that determines a result: the loaded modules, except those of installed packages.

dvc.yaml lists the folders and files that a stage may load; a test runs each stage with nothing
else. The loaded modules determine which finished tasks may be reused, and are watched for edits.
Those of a user may lie outside the project.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiment.stage import versions
from experiment.stage.errors import changed

ROOT = Path(__file__).parents[2]
_LIBRARY = sysconfig.get_path("stdlib")
# The project's sources, read before most of them are loaded: this process does not run later edits.
_SOURCES = {path: path.read_bytes() for path in ROOT.rglob("*.py")}


def loaded() -> tuple[str, ...]:
    """The modules that this process has loaded, as paths below `stages` or absolute ones, sorted.

    `__main__` is left out: it only starts the stage.
    """
    modules = {name: module for name, module in sys.modules.copy().items() if name != "__main__"}
    files = {getattr(module, "__file__", None) or "" for module in modules.values()}
    own = [file for file in files if file.endswith(".py") and not _installed(file)]
    return tuple(sorted(Path(file.removeprefix(f"{ROOT}{os.sep}")).as_posix() for file in own))


def _installed(file: str) -> bool:
    # Some modules of torch name a file without its folder.
    return file.startswith(_LIBRARY) or "-packages" in file or not Path(file).is_absolute()


def _source(path: Path) -> bytes:
    """The file when this process first saw it."""
    if path not in _SOURCES:
        _SOURCES[path] = path.read_bytes() if path.exists() else b"missing"
    return _SOURCES[path]


@functools.cache
def digest(modules: tuple[str, ...]) -> str:
    """SHA-256 of modules, as `loaded` names them, and of the decisive packages' versions."""
    found = hashlib.sha256()
    for name in modules:
        found.update(f"{name}\n".encode())
        found.update(_source(ROOT / name))
    for package in versions.DECISIVE:
        found.update(f"{package}=={versions.installed(package)}\n".encode())
    return found.hexdigest()


@contextmanager
def unchanged() -> Iterator[None]:
    """Raise UserError at the end of the block if a loaded module has been edited."""
    yield
    for path in map(ROOT.joinpath, loaded()):
        if not path.exists() or path.read_bytes() != _source(path):
            raise changed(path)
