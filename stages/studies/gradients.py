"""Is it noise that truncation removes? A look at gradients along two trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiment import data, files
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.figures import SERIES, line_with_band, panels
from experiment.gradients import Look, look, noise_energy
from experiment.params import Params, read_params
from experiment.randomness import stream
from experiment.statistics import MeanInterval, mean_interval
from experiment.training import Setting
from experiment.work import Work

READS = (
    "seed",
    "device",
    "data.shuffle",
    "model.name",
    "model.hidden",
    "training.epochs",
    "training.batch_size",
    "studies.arms",
    "studies.gradients",
)
NULL_DRAWS = 50
# Quantities in the table, with their units.
UNITS = {
    "energy": "share",
    "energy_permuted": "share",
    "noise": "share",
    "cosine_train": "cosine",
    "cosine_fresh": "cosine",
    "retention_train": "share",
    "retention_fresh": "share",
    "leak": "share",
    "step_cosine": "cosine",
    "step_loss": "nats",
    "step_leak": "share",
    "step_leak_adam": "share",
}


def looks(params: Params, arm: str) -> list[Look]:
    """The groups of replicates of one trajectory, at the arm's tuned learning rate."""
    given, described = params.studies.gradients, params.studies.arms[arm]
    lr = files.read_json(Path(f"metrics/studies/arms/{arm}.json"))["lr"]
    hyperparameters = {"lr": lr, **described.hyperparameters}
    setting = replace(
        Setting.of(params, described.optimizer, hyperparameters, purpose="studies, gradients"),
        model=described.model or params.model.name,
    )
    side = setting.network.matrix_side
    for key, values, limit in (
        ("ranks", given.ranks, side),
        ("epochs", given.epochs, params.training.epochs),
    ):
        if max(values) > limit:
            raise UserError(
                f"params.yaml: studies.gradients.{key} = {values}; allowed: at most {limit}"
            )
    return [
        Look(
            setting,
            first,
            min(given.group, given.replicates - first),
            tuple(given.epochs),
            tuple(given.ranks),
            given.batches,
        )
        for first in range(0, given.replicates, given.group)
    ]


def table(params: Params, arm: str, found: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row for each quantity, rank and epoch, and one over all epochs: mean and 95 % interval.

    `found` are arrays (replicates, epochs, batches, ranks); the interval is that over replicates.
    """
    given = params.studies.gradients
    rows = []
    for quantity, unit in UNITS.items():
        values = found[quantity].mean(axis=2)
        over_epochs = values.mean(axis=1, keepdims=True)
        every = mean_interval(np.concatenate([over_epochs, values], axis=1))
        for i, epoch in enumerate(["all", *given.epochs]):
            for j, rank in enumerate(given.ranks):
                row = {"trajectory": arm, "quantity": quantity, "unit": unit, "rank": rank}
                row |= {"epoch": epoch, "mean": every.mean[i, j]}
                rows.append(row | {"low": every.low[i, j], "high": every.high[i, j]})
    return pd.DataFrame(rows)


def draw(params: Params, rows: pd.DataFrame, null: dict[int, float]) -> Figure:
    """Energy against its nulls, the cosines, the loss after a step, and the leak, by rank."""
    given, arms = params.studies.gradients, params.studies.arms
    figure, (energy, cosines, steps, leak) = panels(4)

    def add(axes: object, arm: str, quantity: str, label: str, style: Mapping[str, object]) -> None:
        chosen = rows[
            (rows["trajectory"] == arm) & (rows["quantity"] == quantity) & (rows["epoch"] == "all")
        ]
        interval = MeanInterval(chosen["mean"], chosen["low"], chosen["high"])
        line_with_band(axes, chosen["rank"], interval, label=label, **style)

    for i, arm in enumerate(given.trajectories):
        along = f"along {arms[arm].label}"
        add(energy, arm, "energy", f"gradients {along}", SERIES[i])
        add(cosines, arm, "cosine_fresh", f"to fresh samples, {along}", SERIES[i])
        add(steps, arm, "step_loss", along, SERIES[i])
        add(leak, arm, "step_leak", f"truncated, {along}", SERIES[i])
    first = given.trajectories[0]
    add(energy, first, "energy_permuted", "their entries permuted", SERIES[2])
    energy.plot(list(null), list(null.values()), label="pure noise", **SERIES[6], markersize=4)
    add(cosines, first, "cosine_train", f"to all samples, along {arms[first].label}", SERIES[2])
    add(leak, first, "step_leak_adam", f"Adam, along {arms[first].label}", SERIES[2])
    for axes in (cosines, steps):
        axes.axhline(0, color="0.4", linewidth=0.8)
    for axes in (energy, cosines, steps, leak):
        axes.set(xscale="log", xlabel="rank kept of the gradient matrix")
        axes.set_xticks(given.ranks, [str(rank) for rank in given.ranks])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    energy.set(ylabel="share of the squared norm", title="Captured energy", ylim=(0, 1.02))
    cosines.set(
        ylabel="cosine of the truncated minus the raw gradient",
        title="Is the truncated gradient cleaner?\n(above 0: yes)",
    )
    steps.set(
        ylabel="loss after a truncated step minus Adam's (nats)",
        title="One step of equal length, fresh samples\n(below 0: truncation helps)",
    )
    leak.set(
        ylabel="share of the update's squared norm",
        title="Update where the gradient was\nexactly zero for an epoch",
    )
    return figure


def main() -> None:
    """Write metrics/studies/gradients.csv and plots/studies/gradients.png."""
    params = read_params(READS)
    given = params.studies.gradients
    read = Dataset.read()
    seed = int(stream(params.seed, "studies, fresh samples").integers(2**31))
    everything = Dataset(read.train, data.fresh(given.fresh_samples, seed), read.test)
    if params.data.shuffle:
        everything = everything._replace(validation=data.shuffled(everything).validation)
    tasks = {arm: looks(params, arm) for arm in given.trajectories}
    side = next(iter(tasks.values()))[0].setting.network.matrix_side
    spectrum = noise_energy(side, NULL_DRAWS, stream(params.seed, "studies, noise"))
    null = {rank: float(spectrum[rank - 1]) for rank in given.ranks}

    with Work(
        "studies_gradients",
        everything,
        device=params.device,
        total=sum(map(len, tasks.values())),
        unit="group",
    ) as work:
        results = iter(work.run(look, [task for group in tasks.values() for task in group]))
        tables = []
        for arm, group in tasks.items():
            parts = [next(results) for _ in group]
            found = {name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]}
            tables.append(table(params, arm, found))
        rows = pd.concat(tables, ignore_index=True)
        rows["energy_of_pure_noise_share"] = rows["rank"].map(null)
        files.write_csv(Path("metrics/studies/gradients.csv"), rows)
        files.write_figure(Path("plots/studies/gradients.png"), draw(params, rows, null))
