"""The protocol of the published experiment, for one seed of its sampler.

It tuned on the first 1000 training samples, in batches of 32 for 5 epochs, with Optuna's sampler of
the time, for the lowest training loss of any epoch. Then it trained once on all samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import optuna
import torch
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage.data import Dataset, Split
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.network import Network, build
from experiment.training.search import Space
from experiment.training.work import Result
from studies.published.reported import REPORTED
from studies.training.arms import ProtocolConfig

# Where the hyperparameters of a final training run come from.
SOURCES = ("searched", "reported")


@dataclass(frozen=True)
class Repetition:
    """One repetition of the experiment, with its own sampler."""

    given: ProtocolConfig
    highest_rank: int
    sampler: int


def repeat(data: Dataset, task: Repetition) -> Result:
    """Run the published experiment once.

    Args:
        data: `train` holds the training rows, `validation` the test rows, on which that experiment
            validated.
        task: the settings.

    Returns:
        `adam_lr`, `lrg_adam_lr` and `lrg_adam_rank` (1,), the best of each search. For every final
        training run, `loss <optimizer> <source> <samples>` (1, epochs + 1), the validation losses
        before training and after every epoch, and `accuracy ...` (1,), that after the last one.

    """
    given = task.given
    network = build("mlp", {"hidden": given.hidden}, data.train)
    lr = FloatDistribution(given.lr.low, given.lr.high, log=True)
    rank = IntDistribution(given.rank.low, task.highest_rank)
    spaces: dict[str, Space] = {"adam": {"lr": lr}, "lrg_adam": {"lr": lr, "rank": rank}}
    result: Result = {}
    for optimizer, space in spaces.items():
        # As published, all training runs of an experiment start from the same weights, and each has
        # its own batch order.
        tuning = RunConfig(
            optimizer=optimizer,
            hyperparameters={},
            model="mlp",
            options={"hidden": given.hidden},
            epochs=given.tune_epochs,
            batch_size=given.tune_batch_size,
            device="cpu",
            seed=given.seed,
            purpose="published",
        )
        best = _search(tuning, network, _first(data, given.tune_samples), task, space)
        for name, value in best.items():
            result[f"{optimizer}_{name}"] = torch.tensor([value], dtype=torch.float64)
        for samples in given.training_samples:
            for source, hyperparameters in zip(SOURCES, (best, REPORTED[optimizer]), strict=True):
                config = replace(
                    tuning,
                    hyperparameters=hyperparameters,
                    epochs=given.epochs,
                    batch_size=given.batch_size,
                    batches=f"{optimizer}, final {samples}",
                )
                trained = train(config, network, _first(data, samples), [task.sampler])
                scores = [evaluate(network, weights, data.validation) for weights in trained]
                run = f"{optimizer} {source} {samples}"
                result[f"loss {run}"] = torch.stack([score.loss for score in scores], dim=1)
                result[f"accuracy {run}"] = scores[-1].accuracy
    return result


def _first(data: Dataset, samples: int) -> Split:
    return Split(data.train.x[:samples], data.train.y[:samples])


def _search(
    tuning: RunConfig, network: Network, rows: Split, task: Repetition, space: Space
) -> dict[str, Any]:
    """The hyperparameters with the lowest loss on the rows that they train on, of any epoch."""
    draws = stream(tuning.seed, "published, sampler", tuning.optimizer, task.sampler)
    # The default before Optuna 5: ten random trials, then one parameter at a time.
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=10,
        n_ei_candidates=24,
        multivariate=False,
        group=False,
        constant_liar=False,
        seed=int(draws.integers(2**32)),
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for number in range(task.given.trials):
        trial = study.ask(dict(space))
        batches = f"{tuning.optimizer}, trial {number}"
        config = replace(tuning, hyperparameters=trial.params, batches=batches)
        _, *epochs = (
            float(evaluate(network, weights, rows).loss)
            for weights in train(config, network, rows, [task.sampler])
        )
        study.tell(trial, min(filter(math.isfinite, epochs), default=1e9))
    return study.best_params
