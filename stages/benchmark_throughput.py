"""Replicate-steps a second of the final training, against a plain loop over one model."""

from __future__ import annotations

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import experiment
from experiment import files
from experiment.data import DATA_FILE, Dataset
from experiment.errors import UserError
from experiment.params import read_params
from experiment.training import Group, Setting, train_group
from experiment.work import Work, workers

READS = (*Setting.READS, "final_train.group")


def plain_loop(setting: Setting) -> float:
    """Steps a second of `benchmark.plain_loop`, in a process with the processor's own settings."""
    options = {
        "--data": [DATA_FILE],
        "--hidden": setting.hidden,
        "--batch-size": [setting.batch_size],
        "--epochs": [setting.epochs],
    }
    if "rank" in setting.hyperparameters:
        options["--rank"] = [setting.hyperparameters["rank"]]
    words = [str(word) for name, values in options.items() for word in (name, *values)]
    free = {name: text for name, text in os.environ.items() if name not in experiment.INSTRUCTIONS}
    finished = subprocess.run(
        [sys.executable, "-m", "benchmark.plain_loop", *words],
        env=free | {"PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(finished.stdout)


def main(epochs: int, rounds: int) -> None:
    """Write metrics/throughput.json."""
    params = read_params(READS)
    if params.model.name != "mlp":  # the only one that the plain loop builds
        raise UserError(f"params.yaml: model.name = {params.model.name}; timed here: mlp")
    data = Dataset.read()
    size, processes = params.final_train.group, workers()
    steps = epochs * -(-len(data.train.y) // params.training.batch_size)
    rates: dict[str, dict[str, list[float]]] = {}
    with Work("throughput", data, device="cpu", total=2 * rounds * processes, unit="group") as work:
        for number in range(rounds + 1):
            for optimizer in ("adam", "lrg_adam"):
                best = files.read_json(Path(f"metrics/tune_{optimizer}.json"))["best"]
                # A purpose for each round: the same group would be read back, not trained.
                purpose = f"throughput {number}"
                setting = replace(Setting.of(params, optimizer, best, purpose), epochs=epochs)
                groups = [Group(setting, size * i, size) for i in range(processes)]
                begin = time.perf_counter()
                work.run(train_group, groups)
                stacked = size * processes * steps / (time.perf_counter() - begin)
                if number > 0:  # the first round starts the processes
                    found = {"stacked": stacked, "loop": plain_loop(setting)}
                    for way, rate in found.items():
                        rates.setdefault(optimizer, {}).setdefault(way, []).append(rate)
    summary: dict[str, Any] = {"processes": processes, "models_a_process": size}
    for optimizer, ways in rates.items():
        ratios = [a / b for a, b in zip(ways["stacked"], ways["loop"], strict=True)]
        summary[optimizer] = {
            "replicate_steps_per_second": median(ways["stacked"]),
            "loop_steps_per_second": median(ways["loop"]),
            "ratio": median(ratios),
        }
    files.write_json(Path("metrics/throughput.json"), summary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each timed training")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with errors.reported():
        main(options.epochs, options.rounds)
