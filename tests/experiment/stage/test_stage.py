"""How a stage begins and ends: errors of the user's in lines, and all others as they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT

from experiment.stage import code, files, run, versions
from experiment.stage.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    listed = {"versions": versions.pinned()}
    monkeypatch.chdir(tmp_path)
    for path in (versions.LISTED_FILE, versions.LISTED_FILE_OF_STUDIES):
        files.write_json(path, listed)
    monkeypatch.setattr(code, "_SOURCES", {})  # whoever edits them while the tests run


def ran(main: Callable[..., None], *arguments: str) -> object:
    """What the process of a stage with this `main` would exit with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "brought", SimpleNamespace(main=main))
        try:
            run("brought", *arguments)
        except SystemExit as ended:
            return ended.code
    return 0


def test_a_stage_gets_its_arguments() -> None:
    seen: list[str] = []
    assert ran(lambda *given: seen.extend(given), "adam", "1") == 0
    assert seen == ["adam", "1"]


def test_every_mistake_is_a_line() -> None:
    def main() -> None:
        raise UserError("params.yaml: one\nparams.yaml: two")

    assert ran(main) == "error: params.yaml: one\nerror: params.yaml: two"


def test_a_missing_file_is_a_line() -> None:
    def main() -> None:
        files.read(Path("data/nothing.npz"))

    assert ran(main) == "error: data/nothing.npz: No such file or directory"


def test_another_version_is_a_line() -> None:
    path = versions.LISTED_FILE
    path.write_text(path.read_text().replace('"numpy": "', '"numpy": "9.'))

    def main() -> None:
        raise AssertionError("the stage began")

    ended = ran(main)
    assert isinstance(ended, str)
    assert ended.startswith("error: data/versions.json: numpy==9.")


def test_an_input_that_is_edited_while_the_stage_runs_is_a_line() -> None:
    path = Path("params.yaml")
    path.write_text("seed: 0\n")

    def main(edit: str) -> None:
        assert files.read(path) == b"seed: 0\n"
        if edit:
            path.write_text(edit)

    assert ran(main, "") == 0
    assert ran(main, "seed: 1\n") == (
        "error: params.yaml: changed while the stage ran; run `dvc repro` again"
    )


def test_code_that_is_edited_while_the_stage_runs_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = code.ROOT / "experiment/stage/files.py"
    monkeypatch.setattr(code, "_SOURCES", {path: b"as it was loaded"})
    assert ran(lambda: None) == (
        f"error: {path}: changed while the stage ran; run `dvc repro` again"
    )


def test_any_other_error_is_not_hidden() -> None:
    def main() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        ran(main)


@pytest.mark.parametrize("name", ["nobody", "studies.nobody", "nobody.arm"])
def test_an_unknown_stage_is_a_line(name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name)
    assert str(ended.value) == f"error: no stage {name}: there is no such module in stages"
