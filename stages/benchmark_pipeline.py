"""How the pipeline scales over processes and Dask workers, and how soon it goes on after a kill."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from experiment import errors, files, progress
from experiment.errors import UserError

PROCESSES = 2
TUNE, TRAIN = "tune_lrg_adam", "final_train@lrg_adam"
READS = ("seed", "rank", "data", "model", "training", "tune", "final_train")
# Without a Git repository around it, and without a look for a newer DVC.
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def copy(folder: Path) -> None:
    """Make a project of its own, with what the pipeline needs and no results."""
    shutil.copytree("stages", folder / "stages", ignore=shutil.ignore_patterns("dvc.*"))
    for name in ("dvc.yaml", ".dvcignore", "constraints.txt", "params.yaml"):
        shutil.copy2(name, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(CONFIG)


def change(folder: Path, **changes: object) -> dict[str, Any]:
    """Change parameters of the project; return all of them."""
    safe = YAML(typ="safe")
    params = safe.load(folder / "params.yaml") | changes
    safe.dump(params, folder / "params.yaml")
    return params


@contextmanager
def running(folder: Path, *command: str, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of a Python package; at the end of the block it and all it started is killed."""
    # Nothing of the DVC that runs this stage, and no cluster but the one that is measured.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "DASK_"))}
    # The stages run as `python`.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["DASK_TEMPORARY_DIRECTORY"] = str(folder)
    with (folder / f"{command[0]}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment | extra,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def failed(log: Path) -> UserError:
    """What a command wrote at its end."""
    return UserError("\n".join(log.read_text().splitlines()[-5:]))


def until(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], object]) -> None:
    """Wait until a condition holds, as it must before the process ends."""
    while not condition():
        if process.poll() is not None:
            raise failed(log)
        time.sleep(0.01)


def seconds(folder: Path, *arguments: str, **environment: str) -> float:
    """Seconds that a dvc repro takes."""
    begin = time.perf_counter()
    with running(folder, "dvc", "repro", *arguments, **environment) as process:
        if process.wait() != 0:
            raise failed(folder / "dvc.log")
        return time.perf_counter() - begin


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """The address of a Dask scheduler with fresh workers, started as on separate machines."""
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
    """Seconds until a run has finished a piece of work, at which it is killed with SIGKILL."""

    def kept() -> set[Path]:
        return set((folder / ".scratch" / TRAIN.replace("@", "_")).glob("*.pt"))

    before = kept()
    begin = time.perf_counter()
    with running(folder, "dvc", "repro", "-s", TRAIN, EXPERIMENT_WORKERS=str(PROCESSES)) as run:
        until(run, folder / "dvc.log", lambda: kept() - before)
        return time.perf_counter() - begin


def main(epochs: int, rounds: int) -> None:
    """Write metrics/benchmark_pipeline.json."""
    if importlib.util.find_spec("distributed") is None:
        raise UserError(
            'Dask is not installed: pip install -c constraints.txt -e ".[pipeline,cluster]"'
        )
    times: dict[str, list[float]] = {
        name: [] for name in ("one", "two", "dask", "fresh", "after_kill")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder)
        training = change(folder)["training"] | {"epochs": epochs}
        params = change(folder, training=training, device="cpu")
        seconds(folder, "fetch_data")
        again = ("-f", "-s", TUNE, TRAIN)
        for _ in progress.bar(range(rounds), desc="scaling"):
            times["one"].append(seconds(folder, *again, EXPERIMENT_WORKERS="1"))
            times["two"].append(seconds(folder, *again, EXPERIMENT_WORKERS=str(PROCESSES)))
            with cluster(folder) as address:
                times["dask"].append(seconds(folder, *again, DASK_SCHEDULER_ADDRESS=address))
        for number in progress.bar(range(rounds), desc="recovery"):
            # Another seed: there is work to do, and none of it is kept.
            change(folder, seed=params["seed"] + 1 + number)
            times["fresh"].append(first_piece(folder))
            times["after_kill"].append(first_piece(folder))
    one, two, dask = times["one"], times["two"], times["dask"]
    files.write_json(
        Path("metrics/benchmark_pipeline.json"),
        {
            "rounds": rounds,
            "cores": os.cpu_count(),
            "stages": [TUNE, TRAIN],
            "parameters": {name: params[name] for name in READS},
            "one_process_seconds": median(one),
            "two_processes_seconds": median(two),
            "two_processes_speed_up_ratio": median(a / b for a, b in zip(one, two, strict=True)),
            "two_dask_workers_seconds": median(dask),
            "dask_to_processes_time_ratio": median(a / b for a, b in zip(dask, two, strict=True)),
            "first_piece_of_a_fresh_run_seconds": median(times["fresh"]),
            "first_piece_after_kill_seconds": median(times["after_kill"]),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with errors.reported():
        main(options.epochs, options.rounds)
