"""Tune the learning rate of one arm, then train it for many replicates."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.training.loop import Group, RunConfig, train_curves, train_group
from experiment.training.outcomes import outcomes
from experiment.training.work import Result, Work, merged, spans
from studies.training.arms import SETTINGS_OF_ARMS, ArmConfig, read_data, result_file

Curves = dict[str, NDArray[np.float64]]


def read_settings(name: str) -> ArmConfig:
    """The settings that check_arms wrote; UserError if a file that they name has changed since."""
    path = SETTINGS_OF_ARMS / f"{name}.json"
    content = files.read_json(path, "train", "inputs")
    for file, digest in content["inputs"].items():
        if not Path(file).is_file() or sha256(Path(file)) != digest:
            raise UserError(f"{file} has changed since {path} was written; run `dvc repro` again")
    return ArmConfig.model_validate(content["train"])


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config(arm: ArmConfig, lr: float, purpose: str) -> RunConfig:
    """An arm's training at one learning rate; all arms have the same random streams."""
    shared = {field.name for field in fields(RunConfig)} & ArmConfig.model_fields.keys()
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arm.hyperparameters.items()
    }
    values = {name: getattr(arm, name) for name in shared}
    return RunConfig(**{**values, "hyperparameters": {"lr": lr, **given}, "purpose": purpose})


def groups(run: RunConfig, replicates: int, size: int) -> list[Group]:
    """Replicates 0 to `replicates` - 1 in groups of `size`, without curves of the train loss.

    The curves are not used, and computing them takes a third of the time of Adam's training.
    """
    return [Group(run, *span, train_curve=False) for span in spans(replicates, size)]


def curves(results: list[Result]) -> Curves:
    """Concatenate the results of groups."""
    return {name: tensor.numpy() for name, tensor in merged(results).items()}


def tune(work: Work[Dataset], arm: ArmConfig) -> dict[float, Curves]:
    """Train at every learning rate of the grid, then between the best and its neighbours.

    Returns:
        The curves of the tuning replicates by learning rate, in ascending order.

    """
    found: dict[float, Curves] = {}
    lrs = arm.lrs
    while lrs:
        of_rates = [
            groups(config(arm, lr, "studies, tuning"), arm.tuning_replicates, arm.group)
            for lr in lrs
        ]
        results = iter(work.run(train_curves, [group for of_rate in of_rates for group in of_rate]))
        for lr, of_rate in zip(lrs, of_rates, strict=True):
            found[lr] = curves([next(results) for _ in of_rate])
        found = dict(sorted(found.items()))
        losses = {lr: loss(one) for lr, one in found.items()}
        best = min(losses, key=losses.__getitem__)
        lrs = [] if losses[best] == math.inf else between(found, best, arm.finest_ratio)
    return found


def loss(found: Curves) -> float:
    """Mean validation loss after the last epoch; infinite if a replicate diverged."""
    mean = float(found["validation_loss_nats"][:, -1].mean())
    return mean if math.isfinite(mean) else math.inf


def between(lrs: Iterable[float], best: float, finest_ratio: float | None) -> list[float]:
    """Rates halfway from the best to each neighbour that is more than a factor away, if any."""
    if finest_ratio is None:
        return []
    return [
        float(f"{math.sqrt(low * high):.3g}")
        for low, high in pairwise(lrs)
        if best in (low, high) and high / low > 1.01 * finest_ratio
    ]


def tuning_table(found: dict[float, Curves]) -> pd.DataFrame:
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
            for lr, one in found.items()
        ],
        ignore_index=True,
    )


def trained_with(name: str) -> str | None:
    """Digest of the settings file that an arm was last trained with."""
    try:
        digest: str = json.loads(result_file(name).read_bytes())["settings_sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return digest


def main(output: str) -> None:
    """Write the tuning, the best learning rate, the replicates and their curves.

    Args:
        output: a path that ends in the name of the arm and `.json`.

    """
    name = Path(output).stem
    arm = read_settings(name)
    settings = {path.stem: sha256(path) for path in SETTINGS_OF_ARMS.glob("*.json")}
    up_to_date = sum(trained_with(other) == digest for other, digest in settings.items())
    print(f"arm {min(up_to_date + 1, len(settings))} of {len(settings)}: {name}", flush=True)
    dataset = read_data(arm.data)
    total = len(arm.lrs) * len(spans(arm.tuning_replicates, arm.group))
    total += len(spans(arm.replicates, arm.group))
    with Work(f"studies_{name}", dataset, device=arm.device, total=total, unit="group") as work:
        found = tune(work, arm)
        lrs = list(found)
        best = min(lrs, key=lambda lr: loss(found[lr]))
        if loss(found[best]) == math.inf:
            raise UserError(f"arm {name}: every learning rate diverged; allowed: lower lrs")
        run = config(arm, best, "studies, final")
        final = curves(work.run(train_group, groups(run, arm.replicates, arm.group)))
        replicates = outcomes(final)
        if not np.isfinite(replicates.to_numpy()).all():
            raise UserError(f"arm {name}: replicates diverged at lr = {best}; allowed: lower lrs")
        files.write_json(
            Path(output),
            {
                "lr": best,
                "on_boundary": len(lrs) > 1 and best in (lrs[0], lrs[-1]),
                "validation_loss_nats": loss(found[best]),
                "matrix_side": run.network(dataset.train).matrix_side,
                "train": arm.model_dump(),
                "settings_sha256": settings[name],
                "tuning": files.rows(tuning_table(found)),
                "replicates": files.rows(replicates),
                # By replicate, from before training to after the last epoch.
                "validation_losses_nats": {
                    str(replicate): losses.tolist()
                    for replicate, losses in enumerate(final["validation_loss_nats"])
                },
            },
        )
