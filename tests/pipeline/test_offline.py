"""No stage unpickles anything, uses a network, or extracts an archive."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from project import Project, set_params

# What Python announces of itself (docs.python.org/3/library/audit_events.html), for every process
# that is started with this file on its path.
AUDIT = """
import os, sys

FORBIDDEN = (
    "pickle.find_class", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.sendto", "urllib.Request", "http.client.connect", "ftplib.connect",
    "shutil.unpack_archive", "tarfile.extract", "tarfile.extractall", "zipfile.extract",
)

def hook(event, arguments):
    if event in FORBIDDEN:
        with open(os.environ["AUDIT_LOG"], "a") as log:
            log.write(f"{event} {arguments!r}\\n")

sys.addaudithook(hook)
"""


def run_audited(project: Project, command: str, folder: Path, **environment: str) -> None:
    """Run a command, and fail where it does what is forbidden."""
    (folder / "sitecustomize.py").write_text(AUDIT)
    log = folder / "audit.log"

    project.shell(command, PYTHONPATH=str(folder), AUDIT_LOG=str(log), **environment)

    assert not log.exists(), log.read_text()


@pytest.mark.slow
def test_other_data_and_networks_neither_unpickle_nor_connect(
    project: Project, tmp_path: Path
) -> None:
    set_params(project.folder / "params.yaml", {"data.name": "digits", "model.name": "cnn"})

    for command in ("check_params", "fetch_data", "tune adam"):
        run_audited(project, f"python stages {command}", tmp_path)


def test_the_audit_sees_what_it_forbids(project: Project, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    log = tmp_path / "audit.log"
    code = "import pickle, decimal; pickle.loads(pickle.dumps(decimal.Decimal(1)))"

    project.run("python", "-c", code, PYTHONPATH=str(tmp_path), AUDIT_LOG=str(log))

    assert "pickle.find_class" in log.read_text()


@pytest.mark.slow
def test_a_run_needs_no_network(project: Project, finished: Project) -> None:
    denied = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    if denied.returncode:
        pytest.skip("network namespaces are not allowed here")

    project.run(
        "unshare",
        "-rn",
        "sh",
        "-c",
        "python -m dvc repro -f -s fetch_data && python -m dvc repro -f -s tune_adam",
        EXPERIMENT_WORKERS="2",
    )

    assert project.read() == finished.read()
