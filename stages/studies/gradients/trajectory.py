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
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import Data
from experiment.stage.randomness import stream
from experiment.training.work import Work, merged, spans
from studies.gradients.analysis import GradientTask, analyse, noise_energy
from studies.training import arms
from studies.training.arm import config

NULL_DRAWS = 50
# Units of the quantities in the table, by the first word of their names.
UNITS = {"energy": "share", "cosine": "cosine", "step": "nats"}


def table(
    given: arms.GradientConfig, arm: str, found: Mapping[str, NDArray[np.float64]]
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
    given = arms.GradientConfig.model_validate(files.read_json(arms.SETTINGS / "gradients.json"))
    settings = files.read_json(arms.SETTINGS_OF_ARMS / f"{arm}.json", "train", "data")
    data = Data.model_validate(settings["data"])
    if data.name != "mnist1d":
        raise UserError(
            f"trajectories: {arm}, whose data are {data.name}; allowed: arms on mnist1d, which "
            "generates fresh samples"
        )
    found = arms.tuned(arm)
    trained = arms.ArmConfig.model_validate(found["train"])
    # Other optimizers are not inputs of this stage, so that a new one does not make it run again.
    if trained.optimizer not in ("adam", "lrg_adam") or trained.model != "mlp":
        raise UserError(
            f"trajectories: {arm}; allowed: arms of adam or lrg_adam that train the mlp"
        )
    side = found["matrix_side"]
    if max(given.ranks) > side:
        raise UserError(f"gradients.ranks = {given.ranks}; allowed: at most {side}")
    if max(given.epochs) > trained.epochs:
        raise UserError(f"gradients.epochs = {given.epochs}; allowed: at most {trained.epochs}")
    # All trajectories use the same samples and batches.
    run = config(trained, found["lr"], "studies, gradients")
    tasks = [
        GradientTask(run, *span, tuple(given.epochs), tuple(given.ranks), given.batches)
        for span in spans(given.replicates, given.group)
    ]
    seed = int(stream(given.seed, "studies, fresh samples").integers(2**31))
    fresh = mnist1d.fresh(given.fresh_samples, seed)
    dataset = Dataset.read(f"{arms.DATA}/{trained.data}")
    dataset = dataset._replace(test=mnist1d.shuffled(fresh) if data.shuffle else fresh)
    name = f"studies_gradients_{arm}"
    with Work(name, dataset, device=given.device, total=len(tasks), unit="group") as work:
        measured = merged(work.run(analyse, tasks))
    rows = table(given, arm, {name: tensor.numpy() for name, tensor in measured.items()})
    energy = noise_energy(side, NULL_DRAWS, stream(given.seed, "studies, noise"))
    rows["energy_of_pure_noise_share"] = energy[rows["rank"] - 1]
    files.write_csv(Path(f"metrics/studies/gradients/{arm}.csv"), rows)
