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

# The libraries that read the settings, loaded on a machine that says it is another one.
LOADED = """
import json, os, platform
platform.machine = lambda: {machine!r}
import experiment
import numpy, scipy.linalg, torch
numpy.linalg.eigh(numpy.eye(3)), scipy.linalg.eigh(numpy.eye(3)), torch.linalg.eigh(torch.eye(3))
print(json.dumps(dict(os.environ)))
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
    done = python("-W", "error", "-c", LOADED.format(machine=machine))

    assert done.returncode == 0, done.stderr
    found, told = json.loads(done.stdout), environment.instructions(machine)
    assert (environment.THREADS | told).items() <= found.items()
    assert not (environment.instructions("x86_64").keys() - told.keys()) & found.keys()
    if machine == platform.machine():
        assert not re.search("warn|invalid|unknown", done.stderr, re.IGNORECASE), done.stderr


# A stage that proves its arithmetic and says in which process.
STAGE = """
import os
def main():
    import numpy, torch
    from experiment.stage import environment
    environment.prove()
    print("proved")
"""
OTHER_THREADS = "import os, torch; os.environ['OMP_NUM_THREADS'] = '2'; torch.set_num_threads(2)"


@pytest.mark.skipif(os.name != "posix", reason="a process cannot replace itself")
@pytest.mark.parametrize("first", ["import numpy", "import scipy.linalg", "import torch"])
def test_a_stage_that_begins_with_a_library_loaded_computes_as_any_other(
    first: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(first)
    (tmp_path / "a_stage.py").write_text(STAGE)

    done = python("stages", "a_stage", path=str(tmp_path))

    assert (done.returncode, done.stdout) == (0, "proved\n"), done.stderr


def test_a_stage_that_cannot_be_right_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_THREADS)

    done = python("stages", "tune", path=str(tmp_path))

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this process computes with 2 threads of ")


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
