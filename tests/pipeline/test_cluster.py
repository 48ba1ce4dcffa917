"""A Dask cluster computes the same bytes, and loses nothing when it loses a worker."""

from __future__ import annotations

import gc
import os
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
from processes import Run, forget, forget_tasks, kept, same_results
from project import ENVIRONMENT, Project, set_params

from experiment.stage.environment import ARITHMETIC
from experiment.stage.errors import UserError
from experiment.training import places

from ..pages.pages import DETAIL


class Cluster:
    """A scheduler and two workers, started by the commands of the page on one machine."""

    def __init__(self, project: Project, folder: Path, **environment: str) -> None:
        self.project = project
        self.folder = folder
        # As in a shell: without the settings of the arithmetic that this process has.
        free = {name: text for name, text in ENVIRONMENT.items() if name not in ARITHMETIC}
        self.environment = free | {"DASK_TEMPORARY_DIRECTORY": str(folder)} | environment
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def begin(self, *changes: tuple[str, str]) -> None:
        """Start all, with changes of the worker's command."""
        file = self.folder / "scheduler.json"
        self.start("dask scheduler", ("8787", "0"), more=f"--port 0 --scheduler-file {file}")
        self.until(file.exists)
        self.address = re.search('"address": "([^"]+)"', file.read_text())[1]
        self.changes = (("tcp://127.0.0.1:8786", self.address), *changes)
        self.workers = [self.start("dask worker", *self.changes) for _ in range(2)]
        logs = [self.folder / f"{number}.log" for number in (1, 2)]
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

    def start(
        self, command: str, *changes: tuple[str, str], more: str = ""
    ) -> subprocess.Popen[bytes]:
        lines = [line for block in DETAIL.blocks("sh") for line in block.splitlines()]
        (line,) = (line for line in lines if command in line)
        for old, new in (("10.0.0.5", "127.0.0.1"), ("10.0.0.6", "127.0.0.1"), *changes):
            line = line.replace(old, new)
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                f"{line} {more}",
                shell=True,
                cwd=self.project.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def replace(self, number: int) -> None:
        """Kill a worker with all its processes, and start another."""
        kill_tree(self.workers[number].pid)
        self.workers[number] = self.start("dask worker", *self.changes)


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
    with Cluster(project, tmp_path) as cluster:
        cluster.begin()
        yield cluster


def test_a_cluster_gives_the_same_bytes_although_a_worker_dies(
    project: Project, finished: Project, cluster: Cluster
) -> None:
    forget(project, "tune_lrg_adam", "final_train@lrg_adam")
    run = Run.dvc(project, "repro", "final_train@lrg_adam", DASK_SCHEDULER_ADDRESS=cluster.address)
    run.until(lambda: kept(project))
    kill_tree(cluster.workers[0].pid)

    assert run.wait() == 0, run.output
    assert same_results(project, finished)


@pytest.mark.slow
def test_five_workers_may_die_in_a_row(project: Project, cluster: Cluster) -> None:
    set_params(
        project.folder / "params.yaml",
        {"training.epochs": 30, "final_train.replicates": 30, "final_train.group": 1},
    )
    command = ["python", "stages", "final_train", "adam"]
    project.run(*command)
    alone = project.read()
    forget_tasks(project)
    run = Run(project, *command, DASK_SCHEDULER_ADDRESS=cluster.address)
    for number in range(5):
        done = len(kept(project))
        run.until(lambda done=done: len(kept(project)) > done)
        cluster.replace(number % 2)

    assert run.wait() == 0, run.output
    assert project.read() == alone


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="this machine has one thread anyhow")
def test_a_worker_with_other_arithmetic_is_refused(project: Project, tmp_path: Path) -> None:
    forget_tasks(project)
    with Cluster(project, tmp_path) as cluster:
        cluster.begin(("--preload-nanny experiment", "--no-nanny"))
        failed = project.shell(
            "python stages tune adam", check=False, DASK_SCHEDULER_ADDRESS=cluster.address
        )

    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: this process computes with ")
    assert "a Dask worker started with --preload-nanny experiment" in line


def refused(address: str) -> None:
    """Check that no client gets an answer at an address."""
    # A former client that failed needs, when it is deleted, a lock that a new one holds.
    gc.collect()
    with pytest.raises(UserError, match=rf"^DASK_SCHEDULER_ADDRESS = '{address}'; allowed: "):
        places.Cluster(address, ())


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
    with Cluster(project, tmp_path, DASK_CONFIG=configuration) as cluster:
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

    # Merged before the first client, whose threads change the configuration; distributed adds
    # its defaults when it is imported.
    import distributed  # noqa: F401

    own = yaml.safe_load(certificate(tmp_path / "own").read_text())
    without, foreign = (dask.config.merge(dask.config.config, changes) for changes in ({}, own))
    plain = encrypted.address.replace("tls://", "tcp://")
    for address, configuration in (
        (encrypted.address, without),
        (plain, without),
        (encrypted.address, foreign),
    ):
        with dask.config.set(configuration):
            refused(address)


@pytest.mark.slow
def test_workers_with_other_code_are_refused(project: Project, cluster: Cluster) -> None:
    own = project.copy(project.folder.with_name("other"))
    forget_tasks(own)
    source = own.folder / "stages/experiment/stage/randomness.py"
    source.write_text(source.read_text() + "# an edit\n")

    failed = own.shell(
        "python stages tune adam", check=False, DASK_SCHEDULER_ADDRESS=cluster.address
    )

    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: a worker runs other code or other versions than this stage")
    assert own.read() == project.read()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "tcp://127.0.0.1:9", "nowhere", ""])
def test_a_scheduler_that_is_not_there_is_reported(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PATIENCE", 1)

    refused(address)


def test_a_missing_dask_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(UserError, match=r"Dask is not installed: pip install -c constraints.txt"):
        places.Cluster("tcp://127.0.0.1:8786", ())
