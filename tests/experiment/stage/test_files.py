"""The bytes of data and models depend on what they hold, not on who writes them."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ENVIRONMENT, ROOT

from experiment.stage import files

# What every Python writes, on every system.
WRITTEN = {
    "data.npz": "2a72f53bd47e3f8c97f4e33bdc97e335",
    "model.pt": "48fa8a4fe83161ecf9102b5bc1d1d2a0",
}
ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "title": np.array("Zahlen, größer")}


def write(folder: Path) -> None:
    files.write_arrays(folder / "data.npz", ARRAYS)
    tensors = {"weights.w0": torch.arange(6.0).reshape(2, 3), "loss": torch.zeros(2).double()}
    files.write_tensors(folder / "model.pt", tensors)


def written(folder: Path) -> dict[str, str]:
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in WRITTEN}


def test_the_bytes_are_these(tmp_path: Path) -> None:
    write(tmp_path)
    assert written(tmp_path) == WRITTEN


def other(*command: str | Path) -> str:
    """What Debian's Python prints, with the packages of this one."""
    paths = [ROOT / "stages", ROOT / "tests/pipeline", Path(np.__file__).parents[1]]
    return subprocess.run(
        ["/usr/bin/python3", *command],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_another_python_writes_the_same_bytes(tmp_path: Path) -> None:
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no Python of the system's own")
    version = other("-c", "import platform; print(platform.python_version())").strip()
    if version.split(".")[:2] != platform.python_version().split(".")[:2]:
        pytest.skip(f"Python {version} cannot load the packages of this one")
    code = "import sys, pathlib, test_files; test_files.write(pathlib.Path(sys.argv[1]))"

    other("-c", code, tmp_path)

    assert written(tmp_path) == WRITTEN
