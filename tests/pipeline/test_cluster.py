"""A Dask cluster computes the same bytes, and loses nothing when it loses a worker."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import dask
import psutil
import pytest
import yaml
from processes import Run, forget, go_back, kept, same_results
from project import ENVIRONMENT, Project

from experiment.stage.errors import UserError
from experiment.training import work
from pages.pages import DETAIL

DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler and two workers on loopback, started as on separate machines."""

    def __init__(self, folder: Path, stages: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = ENVIRONMENT | {"PYTHONPATH": str(stages)} | environment
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def begin(self) -> None:
        file = self.folder / "scheduler.json"
        quiet = ("--host", "127.0.0.1", "--no-dashboard")
        self.start("scheduler", *quiet, "--port", "0", "--scheduler-file", str(file))
        self.until(file.exists)
        self.address = re.search('"address": "([^"]+)"', file.read_text())[1]
        local = ("--nthreads", "1", "--local-directory", str(self.folder))
        self.workers = [self.start("worker", self.address, *quiet, *local) for _ in range(2)]
        # Both have the data then, which are sent to the workers that are there.
        logs = [self.folder / f"worker.{number}.log" for number in (1, 2)]
        self.until(lambda: all("Registered to" in log.read_text() for log in logs))

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            kill_tree(process.pid)
            process.wait()

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.1)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [*DASK, *command], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process


def kill_tree(pid: int) -> None:
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        process.kill()


@pytest.fixture
def cluster(project: Project, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, project.folder / "stages") as cluster:
        cluster.begin()
        yield cluster


def test_a_cluster_gives_the_same_bytes_although_a_worker_dies(
    project: Project, finished: Project, cluster: Cluster
) -> None:
    forget(project, "tune_lrg_adam", "final_train@lrg_adam")
    run = Run.dvc(project, "repro", "final_train@lrg_adam", DASK_SCHEDULER_ADDRESS=cluster.address)
    run.until(lambda: kept(project, "tune_lrg_adam"))
    kill_tree(cluster.workers[0].pid)

    if run.wait() != 0:
        # Dask may have left the only copy of the data on that worker.
        assert "error: a worker process was killed; `dvc repro` goes on" in run.output
        assert "Traceback" not in run.output
        address = cluster.address
        project.dvc("repro", "final_train@lrg_adam", DASK_SCHEDULER_ADDRESS=address)
    assert same_results(project, finished)


def certificate(folder: Path) -> Path:
    """Dask's configuration with a key and a certificate, made as the page says."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    lines = [line for block in DETAIL.blocks("sh") for line in block.splitlines()]
    (make,) = (line for line in lines if line.startswith("openssl "))
    (configuration,) = (block for block in DETAIL.blocks("yaml") if "require-encryption" in block)
    folder.mkdir()
    subprocess.run(make.replace("/etc/dask", str(folder)).split(), check=True, capture_output=True)
    (folder / "tls.yaml").write_text(configuration.replace("/etc/dask", str(folder)))
    return folder / "tls.yaml"


@pytest.fixture
def encrypted(project: Project, tmp_path: Path) -> Iterator[Cluster]:
    configuration = str(certificate(tmp_path / "dask"))
    with Cluster(tmp_path, project.folder / "stages", DASK_CONFIG=configuration) as cluster:
        cluster.begin()
        yield cluster


@pytest.mark.slow
def test_a_cluster_over_tls_serves_who_holds_the_key_alone(
    project: Project, finished: Project, encrypted: Cluster, tmp_path: Path
) -> None:
    assert encrypted.address.startswith("tls://127.0.0.1:")
    forget(project, "final_train@lrg_adam")
    project.dvc(
        *("repro", "final_train@lrg_adam"),
        DASK_SCHEDULER_ADDRESS=encrypted.address,
        DASK_CONFIG=encrypted.environment["DASK_CONFIG"],
    )
    assert same_results(project, finished)

    # Without a certificate, with and without encryption; then with one of its own.
    plain = encrypted.address.replace("tls://", "tcp://")
    own = yaml.safe_load(certificate(tmp_path / "own").read_text())
    trusting = copy.deepcopy(own)
    trusting["distributed"]["comm"]["tls"]["ca-file"] = str(tmp_path / "dask/cert.pem")
    # Merged before the first client, whose threads change the configuration; distributed adds
    # its defaults when it is imported.
    import distributed  # noqa: F401

    without, foreign, half = (
        dask.config.merge(dask.config.config, changes) for changes in ({}, own, trusting)
    )
    for address, configuration in (
        (encrypted.address, without),
        (plain, without),
        (encrypted.address, foreign),
        (encrypted.address, half),
    ):
        with (
            dask.config.set(configuration),
            pytest.raises(UserError, match=rf"^DASK_SCHEDULER_ADDRESS = '{address}'; allowed: "),
        ):
            work.cluster(address, ())


@pytest.mark.slow
def test_workers_with_other_code_are_refused(project: Project, cluster: Cluster) -> None:
    before = project.read()
    own = project.copy(project.folder.with_name("other"))
    source = own.folder / "stages/experiment/stage/randomness.py"
    source.write_text(source.read_text() + "# an edit\n")

    failed = own.dvc("repro", "tune_adam", check=False, DASK_SCHEDULER_ADDRESS=cluster.address)

    assert failed.returncode != 0
    assert "error: a worker runs other code or other versions than this stage" in failed.stderr
    assert "Traceback" not in failed.stderr
    go_back(own)
    assert own.read() == before


@pytest.mark.parametrize("address", ["127.0.0.1:9", "tcp://127.0.0.1:9", "nowhere", ""])
def test_a_scheduler_that_is_not_there_is_reported(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PATIENCE", 1)

    with pytest.raises(UserError, match=rf"^DASK_SCHEDULER_ADDRESS = '{address}'; allowed: "):
        work.cluster(address, ())


def test_a_missing_dask_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(UserError, match=r"Dask is not installed: pip install -c constraints.txt"):
        work.cluster("tcp://127.0.0.1:8786", ())
