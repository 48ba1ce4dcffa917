"""Is it noise that truncation removes? A look at gradients along two trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from experiment import data, files
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.gradients import Look, look, noise_energy
from experiment.params import Params, read_params
from experiment.randomness import stream
from experiment.statistics import mean_interval
from experiment.training import Setting
from experiment.work import Work

READS = (
    *Setting.READS,
    "data.shuffle",
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
    given, arms = params.studies.gradients, params.studies.arms
    if arm not in arms:
        raise UserError(
            f"params.yaml: studies.gradients.trajectories = {given.trajectories}; "
            f"allowed: arms, of which {arm} is none ({', '.join(arms)})"
        )
    described = arms[arm].train
    # All trajectories are looked at with the same samples and batches.
    if described.noise != 1 or (described.shuffle and not params.data.shuffle):
        raise UserError(
            f"params.yaml: studies.gradients.trajectories = {given.trajectories}; allowed: arms "
            f"without a noise and a shuffle of their own, which {arm} has"
        )
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

    `found` are arrays (replicates, epochs, batches, ranks); the interval is that over replicates,
    and `p_value` that of the two-sided t-test of a mean of zero, of this one row alone.
    """
    given = params.studies.gradients
    rows = []
    for quantity, unit in UNITS.items():
        values = found[quantity].mean(axis=2)
        over_epochs = values.mean(axis=1, keepdims=True)
        together = np.concatenate([over_epochs, values], axis=1)
        every = mean_interval(together)
        p_values = stats.ttest_1samp(together, 0).pvalue
        for i, epoch in enumerate(["all", *given.epochs]):
            for j, rank in enumerate(given.ranks):
                row = {"trajectory": arm, "quantity": quantity, "unit": unit, "rank": rank}
                row |= {"epoch": epoch, "mean": every.mean[i, j]}
                row |= {"low": every.low[i, j], "high": every.high[i, j]}
                rows.append(row | {"p_value": p_values[i, j]})
    return pd.DataFrame(rows)


def main() -> None:
    """Write metrics/studies/gradients.csv."""
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
