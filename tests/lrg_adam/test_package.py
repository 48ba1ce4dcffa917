"""The package as its users get it: built, installed beside torch alone, and checked by mypy."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from project import ROOT, copy_repository

SOURCES = ROOT / "stages/lrg_adam"
TRAINING = """
import importlib.util
import torch
import lrg_adam
from lrg_adam import LRGAdam

assert importlib.util.find_spec("numpy") is None
assert "site-packages" in lrg_adam.__file__, lrg_adam.__file__
for method in ("gram", "svd", "randomized"):
    model = torch.nn.Linear(5, 4)
    optimizer = LRGAdam(model.parameters(), lr=0.1, rank=2, method=method)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 5)).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    optimizer.load_state_dict(optimizer.state_dict())
"""


def run(*command: str | Path, folder: Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository, all of them committed."""
    folder = tmp_path_factory.mktemp("a") / "checkout"
    copy_repository(folder)
    run("git", "init", "-q", folder=folder)
    run("git", "add", "-A", folder=folder)
    return folder


def left_in(checkout: Path) -> str:
    return run("git", "status", "--porcelain", "--ignored", folder=checkout).replace("A  ", "")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    out = checkout.with_name("built")
    before = left_in(checkout)
    run(*(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, "."), folder=checkout)
    assert left_in(checkout) == before
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_a_wheel_holds_the_optimizer_alone_and_describes_it(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {f"lrg_adam/{path.name}" for path in SOURCES.iterdir() if path.is_file()}
    assert {"lrg_adam/py.typed", "lrg_adam/__init__.py"} <= held
    page = (SOURCES / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode() == page
    needed = [one for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    assert needed == project["dependencies"] == ["torch>=2.8"]
    assert metadata.get_all("Classifier") == project["classifiers"]
    assert "Typing :: Typed" in project["classifiers"]


def test_private_names_of_torch_are_in_one_module() -> None:
    private = re.compile(
        r"from torch.* import .*\b_\w|\btorch\.(\w+\.)*_\w|self\._(init_group|acc)"
    )
    found = {path.name for path in SOURCES.glob("*.py") if private.search(path.read_text())}
    assert found == {"private.py"}


def needed_by(name: str) -> set[str]:
    """A package and all that it needs; of these, what is installed."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return set()
    names = {name}
    for one in found.requires or []:
        if "extra ==" not in one:
            names |= needed_by(re.match(r"[\w.-]+", one)[0])
    return names


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with packages of this one, and what these need; its Python."""
    venv.create(folder, symlinks=True, with_pip=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in set().union(*map(needed_by, packages)):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(found.locate_file(part))
    return folder / "bin/python"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")
@pytest.mark.parametrize("source", ["wheel", "checkout"])
def test_it_installs_and_runs_beside_torch_alone(
    wheel: Path, checkout: Path, source: str, tmp_path: Path
) -> None:
    before = left_in(checkout)
    packages = ["torch"] if source == "wheel" else ["torch", "hatchling"]
    python = environment(tmp_path / "environment", *packages)
    install = (python, "-m", "pip", "install", "--no-index", "--no-build-isolation")

    run(*install, wheel if source == "wheel" else checkout, folder=tmp_path)

    # The one warning is of torch's own.
    strict = ("-W", "error", "-W", "ignore:Failed to initialize NumPy")
    run(python, *strict, "-c", TRAINING, folder=tmp_path)
    assert left_in(checkout) == before


USE = """
import torch
from lrg_adam import LRGAdam, truncate_grad_rank_

model = torch.nn.Linear(5, 4)
optimizer = LRGAdam(model.parameters(), lr=0.1, rank=2)
kept: torch.Tensor = truncate_grad_rank_(model.parameters(), rank=0.5, nonfinite="raise")
loss: float = optimizer.step(lambda: 0.5)
wrong: str = optimizer.skipped_steps
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")
def test_a_user_s_code_is_checked_against_its_types(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", "torch")
    run(python, "-m", "pip", "install", "--no-index", wheel, folder=tmp_path)
    (tmp_path / "use.py").write_text(USE)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    (error, _) = checked.splitlines()
    assert error.startswith("use.py:9: error: Incompatible types in assignment"), checked


def test_the_page_runs() -> None:
    page = (SOURCES / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        env=os.environ | {"PYTHONPATH": str(SOURCES.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
