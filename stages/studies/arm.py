"""Tune the learning rate of one arm over its grid, then train it for many replicates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd

from experiment import data, files
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.optimizers import factory
from experiment.outcomes import outcomes
from experiment.params import Params, read_params
from experiment.randomness import stream
from experiment.training import Group, Setting, train_curves, train_group
from experiment.work import Result, Work, merged, spans

READS = (
    *Setting.READS,
    "data.shuffle",
    "studies.lrs",
    "studies.tuning_replicates",
    "studies.replicates",
    "studies.group",
)


def settings(params: Params, name: str) -> list[Setting]:
    """The setting to tune, one for each learning rate; its streams are the same for every arm."""
    arm = params.studies.arms[name].train
    base = replace(
        Setting.of(params, arm.optimizer, arm.hyperparameters, purpose="studies, tuning"),
        model=arm.model or params.model.name,
        noise=arm.noise,
    )
    return [
        replace(base, hyperparameters={"lr": lr, **arm.hyperparameters})
        for lr in arm.lrs or params.studies.lrs
    ]


def check(setting: Setting, name: str) -> None:
    """Refuse hyperparameters of the arm `name` that its optimizer does not take, before training.

    Raises:
        UserError: it names the rank, or all hyperparameters where the optimizer refused them.

    """
    given = {key: value for key, value in setting.hyperparameters.items() if key != "lr"}
    key = f"params.yaml: studies.arms.{name}.train.hyperparameters"
    side = setting.network.matrix_side
    rank = given.get("rank")
    if isinstance(rank, int) and not 1 <= rank <= side:
        raise UserError(
            f"{key}.rank = {rank}; allowed: a whole number from 1 to {side} "
            "(the side of the gradient matrix)"
        )
    create = factory(setting.optimizer)
    weights = setting.network.initial_weights(
        [stream(setting.seed, setting.purpose, 0, "weights")]
    ).values()
    for weight in weights:
        weight.requires_grad_()
        weight.grad = weight.detach().clone()  # any gradient will do
    try:
        # Some of what an optimizer is given is not looked at before its first step.
        create(weights, **setting.hyperparameters).step()
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(
            f"{key} = {given}; allowed: what stages/experiment/optimizers/{setting.optimizer}.py "
            f"takes ({shorten(str(error), width=300)})"
        ) from None


def groups(setting: Setting, replicates: int, size: int) -> list[Group]:
    """Replicates 0 to `replicates` - 1, `size` of them together, without curves of the train loss.

    Those are never looked at, and to compute them takes a third of the time of Adam's training.
    """
    return [Group(setting, *span, train_curve=False) for span in spans(replicates, size)]


def arrays(results: list[Result], setting: Setting) -> dict[str, np.ndarray]:
    """The results of groups as one, without the weights."""
    found = merged(results)
    return {name: found[name].numpy() for name in found.keys() - setting.network.shapes.keys()}


def tuning_table(lrs: list[float], curves: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    """A row for each learning rate and tuning replicate."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "lr": lr,
                    "replicate": np.arange(len(found["train_loss_nats"])),
                    "train_loss_nats": found["train_loss_nats"][:, -1],
                    "validation_loss_nats": found["validation_loss_nats"][:, -1],
                    "best_validation_loss_nats": found["validation_loss_nats"].min(axis=1),
                    "validation_accuracy_share": found["validation_accuracy_share"][:, -1],
                }
            )
            for lr, found in zip(lrs, curves, strict=True)
        ],
        ignore_index=True,
    )


def main(name: str) -> None:
    """Write the tuning, the best learning rate and the replicates of the arm `name`."""
    params = read_params((*READS, f"studies.arms.{name}.train"))
    arm, studies = params.studies.arms[name].train, params.studies
    candidates = settings(params, name)
    check(candidates[0], name)
    dataset = Dataset.read()
    if arm.shuffle and not params.data.shuffle:
        dataset = data.shuffled(dataset)
    lrs = [float(setting.hyperparameters["lr"]) for setting in candidates]
    tuning = [
        group
        for setting in candidates
        for group in groups(
            setting, arm.tuning_replicates or studies.tuning_replicates, studies.group
        )
    ]
    per_lr = len(tuning) // len(candidates)
    final = arm.replicates or studies.replicates
    total = len(tuning) + len(groups(candidates[0], final, studies.group))

    with Work(f"studies_{name}", dataset, device=params.device, total=total, unit="group") as work:
        results = work.run(train_curves, tuning)
        curves = [
            arrays(results[i * per_lr : (i + 1) * per_lr], setting)
            for i, setting in enumerate(candidates)
        ]
        table = tuning_table(lrs, curves)
        losses = [found["validation_loss_nats"][:, -1].mean() for found in curves]
        if not np.isfinite(losses).any():
            raise UserError(f"params.yaml: studies.arms.{name}: every learning rate diverged")
        best = int(np.nanargmin(losses))
        chosen = replace(candidates[best], purpose="studies, final")
        replicates = outcomes(
            arrays(work.run(train_group, groups(chosen, final, studies.group)), chosen)
        )
        if not np.isfinite(replicates.to_numpy()).all():
            raise UserError(f"studies.arms.{name}: replicates diverged at lr = {lrs[best]}")

        files.write_csv(Path(f"metrics/studies/tuning/{name}.csv"), table)
        files.write_csv(Path(f"metrics/studies/replicates/{name}.csv"), replicates)
        files.write_json(
            Path(f"metrics/studies/arms/{name}.json"),
            {
                "lr": lrs[best],
                "on_boundary": len(lrs) > 1 and best in (0, len(lrs) - 1),
                "validation_loss_nats": float(losses[best]),
                "matrix_side": chosen.network.matrix_side,
            },
        )
