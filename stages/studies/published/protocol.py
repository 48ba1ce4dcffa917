"""The protocol of the published experiment, for one seed of its sampler.

It tuned on the first 1000 training samples, in batches of 32 for 5 epochs, with Optuna's sampler of
the time, for the lowest training loss of any epoch. Then it trained once on all samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import optuna
import torch
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage.data import Dataset, Split
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.search import Space
from experiment.training.work import Result
from studies.published.reported import REPORTED

# Where the hyperparameters of a final training run come from.
SOURCES = ("searched", "reported")


@dataclass(frozen=True)
class Protocol:
    """One repetition of the experiment, with its own sampler."""

    seed: int
    sampler: int
    hidden: tuple[int, ...]
    trials: int
    tune_samples: int
    tune_epochs: int
    tune_batch_size: int
    epochs: int
    batch_size: int
    lr: tuple[float, float]
    rank: tuple[int, int]
    training_samples: tuple[int, ...]


class FinalRun(NamedTuple):
    """A final training run, and the names of its results."""

    optimizer: str
    source: str
    samples: int

    @property
    def loss(self) -> str:
        """Name of the validation losses (1, epochs + 1)."""
        return f"loss {self}"

    @property
    def accuracy(self) -> str:
        """Name of the validation accuracy (1,) after the last epoch."""
        return f"accuracy {self}"


def repeat(data: Dataset, task: Protocol) -> Result:
    """Run the published experiment once.

    Args:
        data: `train` holds the training rows, `validation` the test rows, on which that experiment
            validated.
        task: the settings.

    Returns:
        `adam_lr`, `lrg_adam_lr` and `lrg_adam_rank` (1,), the best of each search; and the losses
        and the accuracy of every `FinalRun`.

    """
    result: Result = {}
    lr = FloatDistribution(*task.lr, log=True)
    spaces: dict[str, Space] = {
        "adam": {"lr": lr},
        "lrg_adam": {"lr": lr, "rank": IntDistribution(*task.rank)},
    }
    for optimizer, space in spaces.items():
        best = _search(data, task, optimizer, space)
        for name, value in best.items():
            result[f"{optimizer}_{name}"] = torch.tensor([value], dtype=torch.float64)
        for samples in task.training_samples:
            for source, hyperparameters in zip(SOURCES, (best, REPORTED[optimizer]), strict=True):
                run = FinalRun(optimizer, source, samples)
                losses, accuracy = _final(data, task, run, hyperparameters)
                result[run.loss] = losses
                result[run.accuracy] = accuracy
    return result


def _final(
    data: Dataset, task: Protocol, run: FinalRun, hyperparameters: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train on the first samples: losses before training and after every epoch, last accuracy."""
    config = replace(
        _config(task, run.optimizer, hyperparameters, f"final {run.samples}"),
        epochs=task.epochs,
        batch_size=task.batch_size,
    )
    network = config.network(data.train)
    scores = [
        evaluate(network, weights, data.validation)
        for weights in train(config, network, _first(data, run.samples), [task.sampler])
    ]
    return torch.stack([score.loss for score in scores], dim=1), scores[-1].accuracy


def _first(data: Dataset, samples: int) -> Split:
    return Split(data.train.x[:samples], data.train.y[:samples])


def _config(
    task: Protocol, optimizer: str, hyperparameters: dict[str, Any], batches: str
) -> RunConfig:
    # As published, all training runs of an experiment start from the same weights, and each has its
    # own batch order.
    return RunConfig(
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        model="mlp",
        options={"hidden": task.hidden},
        epochs=task.tune_epochs,
        batch_size=task.tune_batch_size,
        device="cpu",
        seed=task.seed,
        purpose="published",
        batches=f"{optimizer}, {batches}",
    )


def _search(data: Dataset, task: Protocol, optimizer: str, space: Space) -> dict[str, Any]:
    """The best hyperparameters that the sampler finds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=_sampler(task, optimizer))
    rows = _first(data, task.tune_samples)
    for number in range(task.trials):
        trial = study.ask(dict(space))
        config = _config(task, optimizer, trial.params, f"trial {number}")
        network = config.network(data.train)
        losses = [
            float(evaluate(network, weights, rows).loss)
            for weights in train(config, network, rows, [task.sampler])
        ][1:]
        finite = [loss for loss in losses if math.isfinite(loss)]
        study.tell(trial, min(finite, default=1e9))
    return study.best_params


def _sampler(task: Protocol, optimizer: str) -> optuna.samplers.BaseSampler:
    # The default before Optuna 5: ten random trials, then one parameter at a time.
    draws = stream(task.seed, "published, sampler", optimizer, task.sampler)
    return optuna.samplers.TPESampler(
        n_startup_trials=10,
        n_ei_candidates=24,
        multivariate=False,
        group=False,
        constant_liar=False,
        seed=int(draws.integers(2**32)),
    )
