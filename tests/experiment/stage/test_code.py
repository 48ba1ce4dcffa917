"""The code that decides a result: what of it a process has loaded, and an edit of it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from project import ENVIRONMENT, ROOT

from experiment.stage import code
from experiment.stage.errors import UserError

LOADED = ("experiment/stage/code.py", "experiment/stage/files.py")


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


@pytest.mark.parametrize(
    ("name", "reported"), [(LOADED[0], True), ("experiment/networks/nobody.py", False)]
)
def test_an_edit_of_what_is_loaded_alone_is_reported(
    name: str, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two modules are loaded, whoever edits the others while the tests run."""
    known = {code.ROOT / name: (code.ROOT / name).read_bytes() for name in LOADED}
    modules = {name: SimpleNamespace(__file__=str(code.ROOT / name)) for name in LOADED}
    monkeypatch.setattr(code, "sys", SimpleNamespace(modules=modules))
    monkeypatch.setattr(code, "_SOURCES", known | {code.ROOT / name: b"as it was loaded"})

    error = pytest.raises(UserError, match=rf"{re.escape(name)}: changed")
    with error if reported else nullcontext(), code.unchanged():
        assert code.loaded() == LOADED
