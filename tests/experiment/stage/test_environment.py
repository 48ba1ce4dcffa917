"""The arithmetic is fixed for each architecture, and no library complains about it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys

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


def loaded(machine: str) -> tuple[dict[str, str], str]:
    """The environment in which the libraries are loaded, and what they say on stderr."""
    free = {name: text for name, text in ENVIRONMENT.items() if name not in environment.ARITHMETIC}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADED.format(machine=machine)],
        env=free | {"PYTHONPATH": str(ROOT / "stages")},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr


def test_this_process_has_the_settings() -> None:
    assert environment.ARITHMETIC.items() <= os.environ.items()


def test_this_machine_takes_its_settings_without_a_warning() -> None:
    environment, said = loaded(platform.machine())
    assert environment.ARITHMETIC.items() <= environment.items()
    assert not re.search("warn|invalid|unknown", said, re.IGNORECASE), said


@pytest.mark.parametrize("names", [("x86_64", "AMD64"), ("aarch64", "arm64", "ARM64")])
def test_an_architecture_has_one_setting_by_any_name(names: tuple[str, ...]) -> None:
    assert len({json.dumps(environment.instructions(name)) for name in names}) == 1


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_another_architecture_is_not_told_instructions_of_x86(machine: str) -> None:
    environment, _ = loaded(machine)
    told = environment.instructions(machine)
    assert (environment.THREADS | told).items() <= environment.items()
    assert not (environment.instructions("x86_64").keys() - told.keys()) & environment.keys()
    assert not {"avx2", "haswell"} & {text.lower() for text in told.values()}
