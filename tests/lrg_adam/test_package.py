"""The package as its users get it: installed with torch alone, and its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from project import ROOT, copy_repository

SOURCES = ROOT / "stages/lrg_adam"
TRAINING = """
import sys
import torch
already = set(sys.modules)
from lrg_adam import LRGAdam, truncate_grad_rank_

new = {name.partition(".")[0] for name in set(sys.modules) - already}
assert new - set(sys.stdlib_module_names) <= {"lrg_adam", "torch"}, new
model = torch.nn.Linear(5, 4)
optimizer = LRGAdam(model.parameters(), lr=0.1, rank=2)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = model(torch.ones(3, 5)).square().sum()
    loss.backward()
    truncate_grad_rank_(model.parameters(), rank=3)
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0]
"""


def run(*command: str | Path, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_it_installs_and_runs_with_torch_alone(tmp_path: Path) -> None:
    checkout, installed = tmp_path / "a checkout", tmp_path / "installed"
    copy_repository(checkout)
    options = ("--no-index", "--no-build-isolation", "--no-deps", "--target", installed)

    run("-m", "pip", "install", *options, ".", folder=checkout)

    (found,) = Distribution.discover(path=[str(installed)])
    needed = [one for one in found.requires if "extra ==" not in one]
    assert needed == ["torch>=2.8"]
    run("-W", "error", "-c", TRAINING, folder=tmp_path, PYTHONPATH=str(installed))
    assert {path.name for path in installed.iterdir()} == {"lrg_adam", found._path.name}
    for path in SOURCES.glob("*.*"):
        assert (installed / "lrg_adam" / path.name).read_bytes() == path.read_bytes()


def test_the_page_runs(tmp_path: Path) -> None:
    page = (SOURCES / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    code = "\n".join(blocks)
    run("-W", "error", "-c", code, folder=tmp_path, PYTHONPATH=str(SOURCES.parent))
