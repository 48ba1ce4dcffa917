"""The package as its users get it: installed beside torch alone, and its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from project import ROOT, copy_repository

SOURCES = ROOT / "stages/lrg_adam"
TRAINING = """
import importlib.util
import torch
import lrg_adam
from lrg_adam import LRGAdam, truncate_grad_rank_

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
        truncate_grad_rank_(model.parameters(), rank=3, method=method)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
"""


def run(*command: str | Path, folder: Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


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
def test_it_installs_and_runs_beside_torch_alone(tmp_path: Path) -> None:
    """As the page says, and without another torch: there is no index to take one from."""
    checkout = tmp_path / "a checkout"
    copy_repository(checkout)
    python = environment(tmp_path / "environment", "torch", "hatchling")
    install = ("install", "--no-index", "--no-build-isolation", ".")

    run(python, "-m", "pip", *install, folder=checkout)

    # The one warning is of torch's own.
    strict = ("-W", "error", "-W", "ignore:Failed to initialize NumPy")
    run(python, *strict, "-c", TRAINING, folder=tmp_path)
    (installed,) = (tmp_path / "environment").glob("lib/*/site-packages/lrg_adam")
    for path in SOURCES.glob("*.*"):
        assert (installed / path.name).read_bytes() == path.read_bytes()


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
