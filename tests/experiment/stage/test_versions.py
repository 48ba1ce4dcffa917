"""Results come from the versions that constraints.txt pins, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import ROOT

from experiment.stage import versions
from experiment.stage.errors import UserError

CONSTRAINTS = ROOT / "constraints.txt"


def test_what_is_installed_is_what_is_pinned() -> None:
    versions.check(CONSTRAINTS)


@pytest.mark.parametrize("name", versions.DECISIVE)
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    found = versions.installed(name)
    other = tmp_path / "constraints.txt"
    other.write_text(CONSTRAINTS.read_text().replace(f"{name}=={found}", f"{name}==0.1"))

    with pytest.raises(UserError) as refused:
        versions.check(other)

    (line,) = str(refused.value).splitlines()
    assert f"{other}: {name}==0.1, but {found} is installed; allowed: " in line


def test_a_version_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "constraints.txt"
    other.write_text(CONSTRAINTS.read_text().replace("torch==", "# torch=="))

    with pytest.raises(UserError, match=r"no line torch==<version>"):
        versions.check(other)


def test_a_build_of_the_pinned_version_is_the_pinned_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "version", lambda _: "2.13.0+cu130")

    assert versions.installed("torch") == "2.13.0"
