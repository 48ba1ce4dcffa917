"""Time the final training, many models at once, against a plain loop that trains one model."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from experiment.stage import code, files
from experiment.stage.data import Dataset, data_file
from experiment.stage.environment import INSTRUCTIONS
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from experiment.training.loop import Group, RunConfig, train_group
from experiment.training.search import read_best
from experiment.training.work import Work, workers


def plain_loop(file: Path, setting: RunConfig) -> float:
    """Steps per second of `plain_loop`, in a process that may use any instructions."""
    options: dict[str, Sequence[object]] = {
        "--file": [file],
        "--hidden": setting.options["hidden"],
        "--batch-size": [setting.batch_size],
        "--epochs": [setting.epochs],
    }
    if "rank" in setting.hyperparameters:
        options["--rank"] = [setting.hyperparameters["rank"]]
    words = [str(word) for name, values in options.items() for word in (name, *values)]
    free = {name: text for name, text in os.environ.items() if name not in INSTRUCTIONS}
    finished = subprocess.run(
        [sys.executable, "-m", "benchmark.measure.plain_loop", *words],
        env=free | {"PYTHONPATH": str(code.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(finished.stdout)


def main(*arguments: str) -> None:
    """Write metrics/throughput.json."""
    parser = argparse.ArgumentParser("python stages benchmark.throughput", description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each timed training")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    params = read_params()
    if params.model.name != "mlp":
        raise UserError(
            f"params.yaml: model.name = {params.model.name}; allowed: mlp, "
            "the only network that the plain loop builds"
        )
    data = Dataset.read(params.data.name)
    size, processes = params.final_train.group, workers()
    steps = options.epochs * -(-len(data.train.y) // params.training.batch_size)
    rounds = options.rounds + 1  # one more, not counted, which starts the processes
    stacked, loop = defaultdict(list), defaultdict(list)
    with Work("throughput", data, device="cpu", total=2 * rounds * processes, unit="group") as work:
        for number in range(rounds):
            for optimizer in ("adam", "lrg_adam"):
                best = read_best(params, optimizer)
                # Each round has its own purpose: a repeated group would be read, not trained.
                setting = replace(
                    RunConfig.of(params, optimizer, best, purpose=f"throughput {number}"),
                    epochs=options.epochs,
                    device="cpu",
                )
                groups = [Group(setting, size * i, size) for i in range(processes)]
                begin = time.perf_counter()
                work.run(train_group, groups)
                seconds = time.perf_counter() - begin
                if number > 0:
                    stacked[optimizer].append(size * processes * steps / seconds)
                    loop[optimizer].append(plain_loop(data_file(params.data.name), setting))
    summary: dict[str, Any] = {"processes": processes, "models_a_process": size}
    for optimizer, rates in stacked.items():
        plain = loop[optimizer]
        summary[optimizer] = {
            "replicate_steps_per_second": median(rates),
            "loop_steps_per_second": median(plain),
            "ratio": median(a / b for a, b in zip(rates, plain, strict=True)),
        }
    files.write_json(Path("metrics/throughput.json"), summary)
