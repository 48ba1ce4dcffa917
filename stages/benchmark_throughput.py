"""Replicate-steps a second of the final training, against a plain loop over one model."""

from __future__ import annotations

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.contenders import Step, adam, published
from experiment import files
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.params import read_params
from experiment.training import Group, Setting, train_group
from experiment.work import Work, workers

READS = (*Setting.READS, "final_train.group")


@dataclass(frozen=True)
class Loop:
    """Training of one model as most programs do it: a module, a loop, the published step."""

    setting: Setting

    def __call__(self, data: Dataset) -> float:
        """Steps a second, evaluation as in the final training included."""
        widths = [data.train.x.shape[1], *self.setting.hidden, 10]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        step = self._step(list(model.parameters()))
        x, y = map(torch.from_numpy, data.train)
        begin, steps = time.perf_counter(), 0
        for _ in range(self.setting.epochs):
            for batch in torch.randperm(len(y)).split(self.setting.batch_size):
                model.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                step([p.grad for p in model.parameters()])
                steps += 1
            with torch.no_grad():
                for part in (data.train, data.validation):
                    logits = model(torch.from_numpy(part.x))
                    nn.functional.cross_entropy(logits, torch.from_numpy(part.y))
        return steps / (time.perf_counter() - begin)

    def _step(self, weights: Sequence[Tensor]) -> Step:
        if self.setting.optimizer == "adam":
            return adam(weights, 0, fused=None)
        return published(weights, self.setting.hyperparameters["rank"])


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
                found = {"stacked": stacked, "loop": Loop(setting)(data)}
                if number > 0:  # the first round starts the processes
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
