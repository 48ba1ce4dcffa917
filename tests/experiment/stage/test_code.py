"""The code that decides a result: what of it a process has loaded, and an edit of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from project import ENVIRONMENT, ROOT

from experiment.stage import code, versions
from experiment.stage.errors import UserError

LOADED = ("experiment/stage/code.py", "experiment/stage/files.py")


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two modules that are loaded, whoever edits the others while the tests run."""
    known = {code.ROOT / name: (code.ROOT / name).read_bytes() for name in LOADED}
    monkeypatch.setattr(code, "_SOURCES", known)
    modules = {name: SimpleNamespace(__file__=str(code.ROOT / name)) for name in LOADED}
    monkeypatch.setattr(code, "sys", SimpleNamespace(modules=modules))
    code.digest.cache_clear()
    yield
    code.digest.cache_clear()


def test_what_is_loaded_is_the_project_s_own_code() -> None:
    command = "from experiment.stage import code; import compare; print(*code.loaded())"
    found = subprocess.run(
        [sys.executable, "-c", command],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "stages")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert found == sorted(found)
    assert {"compare.py", "experiment/__init__.py", "experiment/stage/code.py"} <= set(found)
    assert {"experiment/report/statistics.py", "experiment/stage/params.py"} <= set(found)
    assert not [name for name in found if name.startswith(("experiment/training", "lrg_adam"))]
    assert all((ROOT / "stages" / name).is_file() for name in found)


def test_an_edit_of_what_is_loaded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code.loaded() == LOADED
    with code.unchanged():
        pass
    monkeypatch.setitem(code._SOURCES, code.ROOT / LOADED[0], b"as it was loaded")
    with pytest.raises(UserError, match=r"experiment/stage/code\.py: changed"), code.unchanged():
        pass


def test_the_digest_is_that_of_the_sources_and_the_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = code.digest(LOADED)
    others = {code.digest(LOADED[:1]), code.digest(LOADED[::-1]), code.digest((*LOADED, "gone.py"))}
    code.digest.cache_clear()
    assert code.digest(LOADED) == first

    with monkeypatch.context() as patch:
        patch.setitem(code._SOURCES, code.ROOT / LOADED[1], b"edited")
        code.digest.cache_clear()
        others.add(code.digest(LOADED))
    with monkeypatch.context() as patch:
        patch.setattr(versions, "installed", lambda _: "0.1")
        code.digest.cache_clear()
        others.add(code.digest(LOADED))

    assert len(others) == 5
    assert first not in others
