"""The code that determines a result: the modules that this process has loaded, but for installed ones.

dvc.yaml lists the folders and files that a stage may load; a test runs each stage with nothing
else. The loaded modules determine which finished tasks may be reused, and are watched for edits.
Those of a user may lie outside the project.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiment.stage import versions
from experiment.stage.errors import changed

ROOT = Path(__file__).parents[2]
# The project's sources, read before most of them are loaded: this process does not run later edits.
_SOURCES = {path: path.read_bytes() for path in ROOT.rglob("*.py")}


def loaded() -> tuple[str, ...]:
    """The modules that this process has loaded, as paths below `stages` or absolute ones, sorted.

    `__main__` is left out: it only starts the stage.
    """
    modules = {name: module for name, module in sys.modules.copy().items() if name != "__main__"}
    files = {getattr(module, "__file__", None) or "" for module in modules.values()}
    paths = {
        path for file in files if (path := Path(file)).suffix == ".py" and not _installed(path)
    }
    for path in paths:
        _source(path)
    return tuple(
        sorted(
            path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
            for path in paths
        )
    )


def _installed(path: Path) -> bool:
    library = path.is_relative_to(sysconfig.get_path("stdlib"))
    return library or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


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
    for name in loaded():
        path = ROOT / name
        if not path.exists() or path.read_bytes() != _SOURCES[path]:
            raise changed(path)
