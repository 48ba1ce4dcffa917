"""The arithmetic is fixed for each architecture, and no library complains about it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ENVIRONMENT, ROOT

from experiment.stage import environment

# A machine that says it is another one.
TOLD = """
import json, os, platform
platform.machine = lambda: {machine!r}
import experiment
print(json.dumps(dict(os.environ)))
"""
# The libraries that read the settings.
LOADED = """
import numpy, scipy.linalg, torch
numpy.linalg.eigh(numpy.eye(3)), scipy.linalg.eigh(numpy.eye(3)), torch.linalg.eigh(torch.eye(3))
"""


def python(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python here as a user does, without the settings that this process has."""
    free = {name: text for name, text in ENVIRONMENT.items() if name not in environment.ARITHMETIC}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=free | {"PYTHONPATH": os.pathsep.join([path, str(ROOT / "stages")])},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("machine", [platform.machine(), "aarch64", "riscv64"])
def test_an_architecture_is_told_its_own_settings_and_none_of_another(machine: str) -> None:
    program = TOLD.format(machine=machine) + LOADED * (machine == platform.machine())
    done = python("-W", "error", "-c", program)

    assert done.returncode == 0, done.stderr
    found, told = json.loads(done.stdout), environment.instructions(machine)
    assert (environment.THREADS | told).items() <= found.items()
    assert not (environment.instructions("x86_64").keys() - told.keys()) & found.keys()
    if machine == platform.machine():
        assert not re.search("warn|invalid|unknown", done.stderr, re.IGNORECASE), done.stderr


OTHER_THREADS = "import os, torch; os.environ['OMP_NUM_THREADS'] = '2'; torch.set_num_threads(2)"


@pytest.mark.parametrize("first", ["import numpy", "import scipy.linalg", OTHER_THREADS])
def test_a_stage_with_other_arithmetic_is_refused_in_one_line(first: str, tmp_path: Path) -> None:
    if (os.cpu_count() or 1) == 1:
        pytest.skip("this machine has one thread anyhow")
    (tmp_path / "sitecustomize.py").write_text(first)

    done = python("stages", "compare", path=str(tmp_path))

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this process computes with ")


@pytest.mark.parametrize(
    "begin",
    [
        "import numpy",
        "import scipy.linalg",
        "import torch; torch.ones(3).exp()",
        "import experiment, torch; torch.set_num_threads(2)",
    ],
)
def test_a_notebook_with_other_arithmetic_is_refused(begin: str) -> None:
    if (os.cpu_count() or 1) == 1 and "torch" in begin:
        pytest.skip("this machine has one thread anyhow")

    done = python("-c", f"{begin}\nimport experiment.training.loop")

    assert done.returncode != 0
    assert "UserError: this process computes with " in done.stderr.splitlines()[-1]
