"""Time the pipeline over processes and over Dask workers, and its restart after a kill."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from ruamel.yaml import YAML

from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.training import progress

PROCESSES = 2
TUNE, TRAIN = "tune_lrg_adam", "final_train@lrg_adam"
READS = ("seed", "rank", "data", "model", "training", "tune", "final_train")
# DVC's configuration: no Git repository around it, and no search for a newer DVC.
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def copy(folder: Path) -> None:
    """Make another project in a folder, with what the pipeline needs and no results."""
    shutil.copytree("stages", folder / "stages", ignore=shutil.ignore_patterns("dvc.*"))
    for name in ("dvc.yaml", ".dvcignore", "constraints.txt", "params.yaml"):
        shutil.copy2(name, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(CONFIG)


def change(folder: Path, **changes: object) -> dict[str, Any]:
    """Change parameters of the project, and return all of them."""
    safe = YAML(typ="safe")
    params = safe.load(folder / "params.yaml") | changes
    safe.dump(params, folder / "params.yaml")
    return params


@contextmanager
def running(folder: Path, *command: str, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python package; kill it and every process it started at the end of the block."""
    # Leave out the settings of the DVC that runs this stage, and of any other cluster.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "DASK_"))}
    # The command of a stage starts with `python`, which must be this one.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["DASK_TEMPORARY_DIRECTORY"] = str(folder)
    with (folder / f"{command[0]}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment | extra,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid)
            for one in (started, *started.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()


def failed(log: Path) -> UserError:
    """The last lines that a command wrote, as an error."""
    return UserError("\n".join(log.read_text().splitlines()[-5:]))


def until(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], object]) -> None:
    """Wait until a condition holds; raise UserError if the process ends first."""
    while not condition():
        if process.poll() is not None:
            raise failed(log)
        time.sleep(0.01)


def seconds(folder: Path, *arguments: str, **environment: str) -> float:
    """Seconds that `dvc repro` takes, without tasks kept from another run."""
    shutil.rmtree(folder / ".scratch", ignore_errors=True)
    begin = time.perf_counter()
    with running(folder, "dvc", "repro", *arguments, **environment) as process:
        if process.wait() != 0:
            raise failed(folder / "dvc.log")
        return time.perf_counter() - begin


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Start a Dask scheduler and workers as on separate machines; yield its address."""
    from distributed import Client

    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    quiet = ("--no-dashboard", "--scheduler-file", str(file))
    local = ("--host", "127.0.0.1", "--port", "0")
    stages = str(folder / "stages")
    with ExitStack() as stack:
        scheduler = stack.enter_context(running(folder, "dask", "scheduler", *local, *quiet))
        until(scheduler, folder / "dask.log", file.exists)
        for _ in range(PROCESSES):
            stack.enter_context(
                running(folder, "dask", "worker", "--nthreads", "1", *quiet, PYTHONPATH=stages)
            )
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(PROCESSES, timeout=60)
            address = client.scheduler.address
        yield address


def first_piece(folder: Path) -> float:
    """Seconds until a run has finished a piece of work; it is killed then."""

    def kept() -> set[Path]:
        return set((folder / ".scratch/tasks").glob("*.*"))

    before = kept()
    begin = time.perf_counter()
    with running(folder, "dvc", "repro", "-s", TRAIN, EXPERIMENT_WORKERS=str(PROCESSES)) as run:
        until(run, folder / "dvc.log", lambda: kept() - before)
        return time.perf_counter() - begin


def main(*arguments: str) -> None:
    """Write metrics/benchmark_pipeline.json."""
    parser = argparse.ArgumentParser("python stages benchmark.pipeline", description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("distributed") is None:
        raise UserError(
            'Dask is not installed: pip install -c constraints.txt -e ".[pipeline,cluster]"'
        )
    one, two, dask, fresh, after_kill = ([] for _ in range(5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder)
        training = change(folder)["training"] | {"epochs": options.epochs}
        params = change(folder, training=training, device="cpu")
        seconds(folder, "fetch_data")
        again = ("-f", "-s", TUNE, TRAIN)
        for _ in progress.bar(range(options.rounds), desc="scaling"):
            one.append(seconds(folder, *again, EXPERIMENT_WORKERS="1"))
            two.append(seconds(folder, *again, EXPERIMENT_WORKERS=str(PROCESSES)))
            with cluster(folder) as address:
                dask.append(seconds(folder, *again, DASK_SCHEDULER_ADDRESS=address))
        for number in progress.bar(range(options.rounds), desc="recovery"):
            # A new seed, so that there is work to do and none of it is finished.
            change(folder, seed=params["seed"] + 1 + number)
            fresh.append(first_piece(folder))
            after_kill.append(first_piece(folder))
    files.write_json(
        Path("metrics/benchmark_pipeline.json"),
        {
            "rounds": options.rounds,
            "cores": os.cpu_count(),
            "stages": [TUNE, TRAIN],
            "parameters": {name: params[name] for name in READS},
            "one_process_seconds": median(one),
            "two_processes_seconds": median(two),
            "two_processes_speed_up_ratio": median(a / b for a, b in zip(one, two, strict=True)),
            "two_dask_workers_seconds": median(dask),
            "dask_to_processes_time_ratio": median(a / b for a, b in zip(dask, two, strict=True)),
            "first_piece_of_a_fresh_run_seconds": median(fresh),
            "first_piece_after_kill_seconds": median(after_kill),
        },
    )
