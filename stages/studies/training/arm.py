"""Tune the learning rate of one arm, then train it for many replicates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.training.loop import Group, RunConfig, outcomes, train_curves, train_group
from experiment.training.optimizer import Hyperparameters
from experiment.training.search import Space, on_boundary, search, search_space
from experiment.training.work import Result, Work, merged, spans
from studies.training.arms import DATA, SETTINGS_OF_ARMS, ArmConfig, result_file

Curves = dict[str, NDArray[np.float64]]
# What an arm was tuned over: hyperparameters, and the curves of the tuning replicates.
Tuning = list[tuple[Hyperparameters, Curves]]

WAVE = 4  # trials of a search that are proposed at once


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


def config(arm: ArmConfig, lr: float, purpose: str, **searched: float) -> RunConfig:
    """An arm's training at one learning rate; all arms have the same random streams."""
    shared = arm.model_dump(include={field.name for field in fields(RunConfig)})
    hyperparameters = {"lr": lr, **arm.hyperparameters, **searched}
    return RunConfig(**{**shared, "hyperparameters": hyperparameters, "purpose": purpose})


def trained(
    work: Work[Dataset],
    function: Callable[[Dataset, Group], Result],
    runs: Sequence[RunConfig],
    replicates: int,
    size: int,
) -> list[Curves]:
    """Train replicates 0 to `replicates` - 1 of each run, in groups of `size`.

    Without curves of the train loss: they take a third of the time of Adam's training.
    """
    parts = spans(replicates, size)
    groups = [Group(run, *part, train_curve=False) for run in runs for part in parts]
    results = iter(work.run(function, groups))
    of_runs = [merged([next(results) for _ in parts]) for _ in runs]
    return [{name: tensor.numpy() for name, tensor in one.items()} for one in of_runs]


def tune(work: Work[Dataset], arm: ArmConfig, space: Space) -> Tuning:
    """Search, or train at every rate of the grid and then between the best and its neighbours.

    Returns:
        The trials in their order; or, if `space` is empty, the rates in ascending order.

    """
    found: Tuning = []

    def losses(points: Sequence[Hyperparameters]) -> list[float]:
        runs = [config(arm, purpose="studies, tuning", **point) for point in points]
        new = trained(work, train_curves, runs, arm.tuning_replicates, arm.group)
        found.extend(zip(points, new, strict=True))
        return [loss(one) for one in new]

    if space:
        search(space, losses, trials=arm.search, wave=WAVE, seed=arm.seed)
        return found
    lrs = arm.lrs
    while lrs:
        losses([{"lr": lr} for lr in lrs])
        found.sort(key=lambda one: one[0]["lr"])
        point, best = min(found, key=lambda one: loss(one[1]))
        lrs = []
        if arm.finest_ratio and loss(best) < math.inf:
            lrs = between([one["lr"] for one, _ in found], point["lr"], arm.finest_ratio)
    return found


def loss(found: Curves) -> float:
    """Mean validation loss after the last epoch; infinite if a replicate diverged."""
    mean = float(found["validation_loss_nats"][:, -1].mean())
    return mean if math.isfinite(mean) else math.inf


def between(lrs: Iterable[float], best: float, finest_ratio: float) -> list[float]:
    """Rates halfway from the best to each neighbour that is more than a factor away, if any."""
    return [
        float(f"{math.sqrt(low * high):.3g}")
        for low, high in pairwise(lrs)
        if best in (low, high) and high / low > 1.01 * finest_ratio
    ]


def tuning_table(found: Tuning) -> pd.DataFrame:
    """One row per point and tuning replicate."""
    tables = [
        outcomes(one).assign(
            validation_accuracy_share=one["validation_accuracy_share"][:, -1], **point
        )
        for point, one in found
    ]
    return pd.concat(tables, ignore_index=True)


def is_trained(name: str, settings: str) -> bool:
    """Whether an arm was last trained with the settings file of this digest."""
    path = result_file(name)
    return path.exists() and settings.encode() in path.read_bytes()


def main(output: str) -> None:
    """Write the tuning, the best learning rate, the replicates and their curves.

    Args:
        output: a path that ends in the name of the arm and `.json`.

    """
    name = Path(output).stem
    arm = read_settings(name)
    settings = {path.stem: sha256(path) for path in SETTINGS_OF_ARMS.glob("*.json")}
    up_to_date = sum(is_trained(*one) for one in settings.items())
    print(f"arm {min(up_to_date + 1, len(settings))} of {len(settings)}: {name}", flush=True)
    dataset = Dataset.read(f"{DATA}/{arm.data}")
    side = config(arm, arm.lrs[0], "check").network(dataset.train).matrix_side
    space = search_space(arm.searched(), side)
    total = (arm.search or len(arm.lrs)) * len(spans(arm.tuning_replicates, arm.group))
    total += len(spans(arm.replicates, arm.group))
    with Work(f"studies_{name}", dataset, device=arm.device, total=total, unit="group") as work:
        found = tune(work, arm, space)
        best, tuned = min(found, key=lambda one: loss(one[1]))
        if loss(tuned) == math.inf:
            raise UserError(f"arm {name}: every learning rate diverged; allowed: lower lrs")
        ends = [point for point, _ in (found[0], found[-1])] if len(found) > 1 else []
        run = config(arm, purpose="studies, final", **best)
        (final,) = trained(work, train_group, [run], arm.replicates, arm.group)
        replicates = outcomes(final)
        if not np.isfinite(replicates.to_numpy()).all():
            raise UserError(f"arm {name}: replicates diverged at {dict(best)}; allowed: lower lrs")
        losses = final["validation_loss_nats"].tolist()
        files.write_json(
            Path(output),
            {
                "lr": best["lr"],
                "hyperparameters": run.hyperparameters,
                "on_boundary": bool(on_boundary(space, best)) if space else best in ends,
                "validation_loss_nats": loss(tuned),
                "matrix_side": side,
                "train": arm.model_dump(),
                "settings_sha256": settings[name],
                "tuning": files.rows(tuning_table(found)),
                "replicates": files.rows(replicates),
                # By replicate, from before training to after the last epoch.
                "validation_losses_nats": {str(i): curve for i, curve in enumerate(losses)},
            },
        )
