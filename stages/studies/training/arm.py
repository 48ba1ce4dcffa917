"""Tune the learning rate of one arm over its grid, then train it for many replicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiment.stage import files
from experiment.stage.data import Dataset, load
from experiment.stage.errors import UserError
from experiment.stage.params import TrainingParams
from experiment.training import optimizer
from experiment.training.loop import Group, RunConfig, train_curves, train_group
from experiment.training.outcomes import outcomes
from experiment.training.work import Result, Work, merged, spans
from studies.training import shared
from studies.training.arms import ArmTraining, data_of
from studies.training.words import parse


def settings(params: TrainingParams, arm: ArmTraining) -> list[RunConfig]:
    """The settings to tune, one per learning rate; all arms have the same random streams."""
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arm.hyperparameters.items()
    }
    base = replace(
        RunConfig.of(params, arm.optimizer, given, purpose="studies, tuning"),
        model=arm.model or params.model.name,
        noise=arm.noise,
    )
    return [replace(base, hyperparameters={"lr": lr, **given}) for lr in arm.lrs]


def read_data(params: TrainingParams, changes: Mapping[str, Any], where: str) -> Dataset:
    """Read the main pipeline's data from its file, or load changed data with its module."""
    if not changes:
        return Dataset.read(params.data.name)
    return load(data_of(params.data, changes, where), params.seed, f"{where}: data")[0]


def groups(setting: RunConfig, replicates: int, size: int) -> list[Group]:
    """Replicates 0 to `replicates` - 1 in groups of `size`, without curves of the train loss.

    The curves are not used, and computing them takes a third of the time of Adam's training.
    """
    return [Group(setting, *span, train_curve=False) for span in spans(replicates, size)]


def curves(results: list[Result]) -> dict[str, NDArray[np.float64]]:
    """Concatenate the results of groups."""
    return {name: tensor.numpy() for name, tensor in merged(results).items()}


def tuning_table(lrs: list[float], found: list[dict[str, NDArray[np.float64]]]) -> pd.DataFrame:
    """One row per learning rate and tuning replicate."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "lr": lr,
                    "replicate": np.arange(len(one["train_loss_nats"])),
                    "train_loss_nats": one["train_loss_nats"][:, -1],
                    "validation_loss_nats": one["validation_loss_nats"][:, -1],
                    "best_validation_loss_nats": one["validation_loss_nats"].min(axis=1),
                    "validation_accuracy_share": one["validation_accuracy_share"][:, -1],
                }
            )
            for lr, one in zip(lrs, found, strict=True)
        ],
        ignore_index=True,
    )


def main(output: str, *words: str) -> None:
    """Write the tuning, the best learning rate and the replicates of an arm.

    Args:
        output: a path that ends in the name of the arm and `.json`.
        words: its settings, see `studies.training.words`.

    """
    name = Path(output).stem
    arm = parse(ArmTraining, words, f"arm {name}: ")
    params = shared.read()
    dataset = read_data(params, arm.data, f"arm {name}")
    candidates = settings(params, arm)
    network = candidates[0].network(dataset.train)
    optimizer.check(
        arm.optimizer, candidates[0].hyperparameters, network, f"arm {name}: train.hyperparameters"
    )
    tuning = [groups(setting, arm.tuning_replicates, arm.group) for setting in candidates]
    total = sum(map(len, tuning)) + len(groups(candidates[0], arm.replicates, arm.group))

    with Work(f"studies_{name}", dataset, device=params.device, total=total, unit="group") as work:
        results = iter(work.run(train_curves, [group for part in tuning for group in part]))
        found = [curves([next(results) for _ in part]) for part in tuning]
        losses = [one["validation_loss_nats"][:, -1].mean() for one in found]
        if not np.isfinite(losses).any():
            raise UserError(f"arm {name}: every learning rate diverged; allowed: lower lrs")
        best = int(np.nanargmin(losses))
        chosen = replace(candidates[best], purpose="studies, final")
        replicates = outcomes(
            curves(work.run(train_group, groups(chosen, arm.replicates, arm.group)))
        )
        if not np.isfinite(replicates.to_numpy()).all():
            raise UserError(f"arm {name}: replicates diverged at lr = {arm.lrs[best]}")
        files.write_json(
            Path(output),
            {
                "lr": arm.lrs[best],
                "on_boundary": len(arm.lrs) > 1 and best in (0, len(arm.lrs) - 1),
                "validation_loss_nats": float(losses[best]),
                "matrix_side": network.matrix_side,
                "train": {**arm.model_dump(exclude={"lrs"}), "model": chosen.model},
                "tuning": files.rows(tuning_table(arm.lrs, found)),
                "replicates": files.rows(replicates),
            },
        )
