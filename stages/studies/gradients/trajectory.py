"""Test whether truncation removes noise from gradients along the trajectory of an arm."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from experiment.datasets import mnist1d
from experiment.report.statistics import mean_interval
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Data
from experiment.stage.randomness import stream
from experiment.training.work import Work, merged, spans
from studies.gradients.analysis import GradientTask, Samples, analyse, noise_energy
from studies.training.arm import config
from studies.training.arms import (
    SETTINGS,
    SETTINGS_OF_ARMS,
    ArmConfig,
    GradientConfig,
    read_data,
    tuned,
)

NULL_DRAWS = 50
# Units of the quantities in the table, by the first word of their names.
UNITS = {"energy": "share", "cosine": "cosine", "step": "nats"}


def tasks(given: GradientConfig, arm: str) -> list[GradientTask]:
    """The groups of replicates of one trajectory, at the arm's tuned learning rate."""
    found = tuned(arm)
    trained = ArmConfig.model_validate(found["train"])
    # All trajectories use the same samples and batches. Other optimizers are not inputs of this
    # stage, so that a new one does not make it run again.
    if trained.optimizer not in ("adam", "lrg_adam") or trained.model != "mlp":
        raise UserError(
            f"trajectories: {arm}; allowed: arms of adam or lrg_adam that train the mlp"
        )
    run = config(trained, found["lr"], "studies, gradients")
    for key, values, limit in (
        ("ranks", given.ranks, found["matrix_side"]),
        ("epochs", given.epochs, run.epochs),
    ):
        if max(values) > limit:
            raise UserError(f"gradients.{key} = {values}; allowed: at most {limit}")
    return [
        GradientTask(run, *span, tuple(given.epochs), tuple(given.ranks), given.batches)
        for span in spans(given.replicates, given.group)
    ]


def table(
    given: GradientConfig, arm: str, found: Mapping[str, NDArray[np.float64]]
) -> pd.DataFrame:
    """One row per quantity, rank and epoch, and one over all epochs: mean and 95 % interval.

    `found` holds arrays (replicates, epochs, batches, ranks). Intervals are over replicates;
    `p_value_uncorrected` is from a two-sided t-test of zero mean, for this row alone.
    """
    epochs, ranks = zip(*product(["all", *given.epochs], given.ranks), strict=True)
    tables = []
    for quantity, values in found.items():
        by_epoch = values.mean(axis=2)
        together = np.concatenate([by_epoch.mean(axis=1, keepdims=True), by_epoch], axis=1)
        columns = {
            "trajectory": arm,
            "quantity": quantity,
            "unit": UNITS[quantity.split("_")[0]],
            "rank": ranks,
            "epoch": epochs,
            "replicates": len(together),
            **{name: mean.ravel() for name, mean in mean_interval(together)._asdict().items()},
            "p_value_uncorrected": stats.ttest_1samp(together, 0).pvalue.ravel(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def main(arm: str) -> None:
    """Write metrics/studies/gradients/<arm>.csv, of the arm whose trajectory is analysed."""
    given = GradientConfig.model_validate(files.read_json(SETTINGS / "gradients.json"))
    settings = files.read_json(SETTINGS_OF_ARMS / f"{arm}.json", "train", "data")
    data = Data.model_validate(settings["data"])
    if data.name != "mnist1d":
        raise UserError(
            f"trajectories: {arm}, whose data are {data.name}; allowed: arms on mnist1d, which "
            "generates fresh samples"
        )
    groups = tasks(given, arm)
    seed = int(stream(given.seed, "studies, fresh samples").integers(2**31))
    fresh = mnist1d.fresh(given.fresh_samples, seed)
    dataset = read_data(settings["train"]["data"])
    samples = Samples(dataset.train, mnist1d.shuffled(fresh) if data.shuffle else fresh)
    side = groups[0].config.network(dataset.train).matrix_side
    spectrum = noise_energy(side, NULL_DRAWS, stream(given.seed, "studies, noise"))
    null = {rank: float(spectrum[rank - 1]) for rank in given.ranks}

    name = f"studies_gradients_{arm}"
    with Work(name, samples, device=given.device, total=len(groups), unit="group") as work:
        found = merged(work.run(analyse, groups))
        rows = table(given, arm, {name: tensor.numpy() for name, tensor in found.items()})
        rows["energy_of_pure_noise_share"] = rows["rank"].map(null)
        files.write_csv(Path(f"metrics/studies/gradients/{arm}.csv"), rows)
