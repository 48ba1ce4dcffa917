"""Is it noise that truncation removes? A look at gradients along the trajectory of an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from experiment import data, files
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.gradients import Look, look, noise_energy
from experiment.params import Params, read_params
from experiment.randomness import stream
from experiment.statistics import mean_interval
from experiment.training import Setting
from experiment.work import Work, merged, spans

# What is looked at, but not along which other trajectories.
LOOK = ("ranks", "epochs", "replicates", "group", "batches", "fresh_samples")
READS = (*Setting.READS, "data.shuffle", *(f"studies.gradients.{name}" for name in LOOK))
NULL_DRAWS = 50
# Quantities in the table, with their units.
UNITS = {
    "energy": "share",
    "energy_permuted": "share",
    "raw_cosine_train": "cosine",
    "raw_cosine_fresh": "cosine",
    "cosine_train": "cosine",
    "cosine_fresh": "cosine",
    "cosine_permuted": "cosine",
    "retention_train": "share",
    "retention_fresh": "share",
    "leak": "share",
    "quiet": "share",
    "step_cosine": "cosine",
    "step_loss_fresh": "nats",
    "step_loss_train": "nats",
    "step_leak": "share",
    "step_leak_adam": "share",
}


def looks(params: Params, arm: str) -> list[Look]:
    """The groups of replicates of one trajectory, at the arm's tuned learning rate."""
    given = params.studies.gradients
    described = params.studies.arms[arm].train
    # All trajectories are looked at with the same samples and batches. Other optimizers are no
    # inputs of this stage: a new one would make all looks run again.
    if (
        described.optimizer not in ("adam", "lrg_adam")
        or described.noise != 1
        or (described.shuffle and not params.data.shuffle)
    ):
        raise UserError(
            f"params.yaml: studies.gradients.trajectories: {arm}; allowed: arms of adam or "
            "lrg_adam without a noise and a shuffle of their own"
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
        Look(setting, *span, tuple(given.epochs), tuple(given.ranks), given.batches)
        for span in spans(given.replicates, given.group)
    ]


def table(params: Params, arm: str, found: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row for each quantity, rank and epoch, and one over all epochs: mean and 95 % interval.

    `found` are arrays (replicates, epochs, batches, ranks); the interval is that over replicates,
    and `p_value_uncorrected` that of the two-sided t-test of a mean of zero, of this one row alone.
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
                rows.append(row | {"p_value_uncorrected": p_values[i, j]})
    return pd.DataFrame(rows)


def main(arm: str) -> None:
    """Write metrics/studies/gradients/<arm>.csv."""
    params = read_params((*READS, f"studies.arms.{arm}.train"))
    given = params.studies.gradients
    read = Dataset.read()
    seed = int(stream(params.seed, "studies, fresh samples").integers(2**31))
    everything = Dataset(read.train, data.fresh(given.fresh_samples, seed), read.test)
    if params.data.shuffle:
        everything = everything._replace(validation=data.shuffled(everything).validation)
    tasks = looks(params, arm)
    side = tasks[0].setting.network.matrix_side
    spectrum = noise_energy(side, NULL_DRAWS, stream(params.seed, "studies, noise"))
    null = {rank: float(spectrum[rank - 1]) for rank in given.ranks}

    with Work(
        f"studies_gradients_{arm}",
        everything,
        device=params.device,
        total=len(tasks),
        unit="group",
    ) as work:
        found = merged(work.run(look, tasks))
        rows = table(params, arm, {name: tensor.numpy() for name, tensor in found.items()})
        rows["energy_of_pure_noise_share"] = rows["rank"].map(null)
        files.write_csv(Path(f"metrics/studies/gradients/{arm}.csv"), rows)
