"""What an editable installation makes importable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from project import Project, copy_repository


@pytest.mark.slow
def test_an_editable_installation_makes_the_optimizer_importable_and_nothing_else(
    tmp_path: Path,
) -> None:
    copy_repository(tmp_path / "repository")
    project = Project(tmp_path / "repository")
    project.run(sys.executable, "-m", "venv", tmp_path / "environment")
    python = tmp_path / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    project.run(python, "-m", "pip", "install", "-q", "editables")
    project.run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", ".")
    modules = sorted(path.stem for path in (project.folder / "stages").glob("[a-z]*"))
    code = f"import importlib.util as u; print([n for n in {modules} if u.find_spec(n)])"

    found = project.run(python, "-P", "-c", code).stdout

    assert found == "['lrg_adam']\n"
