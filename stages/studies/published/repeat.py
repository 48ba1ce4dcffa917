"""Repeat the published protocol with many sampler seeds, to see where its result lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiment.datasets import mnist1d
from experiment.report.statistics import mean_interval
from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.training.network import build
from experiment.training.work import Work, merged
from studies.published.protocol import SOURCES, Repetition, repeat
from studies.published.reported import OUTCOMES, REPORTED
from studies.training.arms import SETTINGS, ProtocolConfig

QUANTILES = {"5th_percentile": 0.05, "median": 0.5, "95th_percentile": 0.95}


def samplers(
    found: dict[str, NDArray[np.float64]], data_set: str, training_samples: int, source: str
) -> pd.DataFrame:
    """One row per sampler: the hyperparameters, and the outcomes of its two final training runs.

    The hyperparameters are those that its searches found, or those that were published.
    """
    columns: dict[str, object] = {
        "data": data_set,
        "training_samples": training_samples,
        "hyperparameters": source,
        "sampler": np.arange(len(found["adam_lr"])),
    }
    for optimizer, reported in REPORTED.items():
        for name, value in reported.items():
            key = f"{optimizer}_{name}"
            columns[key] = value if source == "reported" else found[key]
        run = f"{optimizer} {source} {training_samples}"
        columns[f"{optimizer}_last_loss_nats"] = found[f"loss {run}"][:, -1]
        columns[f"{optimizer}_best_loss_nats"] = found[f"loss {run}"].min(axis=1)
        columns[f"{optimizer}_last_accuracy_share"] = found[f"accuracy {run}"]
    return pd.DataFrame(columns).astype({"lrg_adam_rank": int})


def summary(table: pd.DataFrame, highest_rank: int) -> dict[str, dict[str, float]]:
    """The distribution over samplers, per data set, number of samples and hyperparameters."""
    found = {}
    groups = table.groupby(["data", "training_samples", "hyperparameters"], sort=False)
    for (data_set, training_samples, hyperparameters), part in groups:
        row: dict[str, float] = {"samplers": len(part)}
        if hyperparameters == "searched":
            for optimizer, reported in REPORTED.items():
                for name, value in reported.items():
                    key = f"{optimizer}_{name}"
                    for label, share in QUANTILES.items():
                        row[f"{key}_{label}"] = float(np.quantile(part[key], share))
                    row[f"{key}_reported"] = value
            row["highest_rank_share"] = float((part["lrg_adam_rank"] == highest_rank).mean())
        for outcome in OUTCOMES:
            interval = mean_interval(part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
            for suffix, end in zip(("", "_low", "_high"), interval, strict=True):
                row[f"{outcome}_difference{suffix}"] = float(end)
        found[f"{data_set}_{training_samples}_training_samples_{hyperparameters}"] = row
    return found


def main() -> None:
    """Write metrics/studies/published.csv and .json."""
    given = ProtocolConfig.model_validate(files.read_json(SETTINGS / "published.json"))
    train, test = mnist1d.published()
    published = Dataset(train, test, test)
    train, validation = mnist1d.generated(num_samples=given.offline_samples)
    offline = Dataset(train, validation, validation)
    # The published rows, and those that mnist1d generates when it cannot download them.
    data_sets = {
        "published": (published, given.training_samples),
        "offline": (offline, [len(train.y)]),
    }
    side = build("mlp", {"hidden": given.hidden}, published.train).matrix_side
    high = given.rank.high
    if not isinstance(high, int) or high > side:
        raise UserError(f"published.rank.high = {high}; allowed: at most {side}")
    tables = []
    for name, (dataset, counts) in data_sets.items():
        # A task does not name the number of samplers, so kept results outlive a change of it.
        one = given.model_copy(update={"samplers": 1, "training_samples": counts})
        tasks = [Repetition(one, high, sampler) for sampler in range(given.samplers)]
        task = f"studies_published_{name}"
        with Work(task, dataset, device="cpu", total=len(tasks), unit="sampler") as work:
            results = merged(work.run(repeat, tasks))
        found = {key: tensor.numpy() for key, tensor in results.items()}
        tables += [samplers(found, name, count, source) for count in counts for source in SOURCES]
    table = pd.concat(tables, ignore_index=True)
    finite = np.isfinite(table.select_dtypes("number")).all(axis=1)
    if not finite.all():
        diverged = sorted(table.loc[~finite, "sampler"].unique().tolist())
        raise UserError(f"published: final trainings diverged, of samplers {diverged}")
    files.write_csv(Path("metrics/studies/published.csv"), table)
    files.write_json(Path("metrics/studies/published.json"), summary(table, high))
