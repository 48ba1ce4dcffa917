"""The protocol of the published experiment, for one seed of its sampler.

It tuned on the first 1000 training samples, in batches of 32 for 5 epochs, with Optuna's sampler of
the time, for the lowest training loss of any epoch. Then it trained once on all samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
import torch
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage.data import Dataset, Split
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, Scores, evaluate, train
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


class FinalRun(NamedTuple):
    """A final training run."""

    optimizer: str
    source: str
    samples: int


def repeat(data: Dataset, task: Repetition) -> Result:
    """Run the published experiment once.

    Args:
        data: `train` holds the training rows, `validation` the test rows, on which that experiment
            validated.
        task: the settings.

    Returns:
        `adam_lr`, `lrg_adam_lr` and `lrg_adam_rank` (1,), the best of each search. For every
        `FinalRun`, `loss <run>` (1, epochs + 1), the validation losses before training and after
        every epoch, and `accuracy <run>` (1,), the validation accuracy after the last one.

    """
    given = task.given
    network = build("mlp", {"hidden": given.hidden}, data.train)
    lr = FloatDistribution(given.lr.low, given.lr.high, log=True)
    rank = IntDistribution(given.rank.low, task.highest_rank)
    spaces: dict[str, Space] = {"adam": {"lr": lr}, "lrg_adam": {"lr": lr, "rank": rank}}
    result: Result = {}
    for optimizer, space in spaces.items():
        best = _search(data, task, network, optimizer, space)
        for name, value in best.items():
            result[f"{optimizer}_{name}"] = torch.tensor([value], dtype=torch.float64)
        for samples in given.training_samples:
            for source, hyperparameters in zip(SOURCES, (best, REPORTED[optimizer]), strict=True):
                scores = _trained(
                    task,
                    network,
                    _first(data, samples),
                    data.validation,
                    optimizer=optimizer,
                    hyperparameters=hyperparameters,
                    epochs=given.epochs,
                    batch_size=given.batch_size,
                    batches=f"{optimizer}, final {samples}",
                )
                run = FinalRun(optimizer, source, samples)
                result[f"loss {run}"] = torch.stack([score.loss for score in scores], dim=1)
                result[f"accuracy {run}"] = scores[-1].accuracy
    return result


def _search(
    data: Dataset, task: Repetition, network: Network, optimizer: str, space: Space
) -> dict[str, Any]:
    """The best hyperparameters that the sampler finds."""
    given = task.given
    draws = stream(given.seed, "published, sampler", optimizer, task.sampler)
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
    rows = _first(data, given.tune_samples)
    for number in range(given.trials):
        trial = study.ask(dict(space))
        _, *scores = _trained(
            task,
            network,
            rows,
            rows,
            optimizer=optimizer,
            hyperparameters=trial.params,
            epochs=given.tune_epochs,
            batch_size=given.tune_batch_size,
            batches=f"{optimizer}, trial {number}",
        )
        finite = [loss for loss in (float(score.loss) for score in scores) if math.isfinite(loss)]
        study.tell(trial, min(finite, default=1e9))
    return study.best_params


def _first(data: Dataset, samples: int) -> Split:
    return Split(data.train.x[:samples], data.train.y[:samples])


def _trained(
    task: Repetition,
    network: Network,
    rows: Split,
    judge: Split,
    **settings: Any,  # noqa: ANN401 - of RunConfig
) -> list[Scores]:
    """Train on the rows; the scores on `judge` before training and after every epoch."""
    # As published, all training runs of an experiment start from the same weights, and each has its
    # own batch order.
    config = RunConfig(
        model="mlp",
        options={"hidden": task.given.hidden},
        device="cpu",
        seed=task.given.seed,
        purpose="published",
        **settings,
    )
    trained = train(config, network, rows, [task.sampler])
    return [evaluate(network, weights, judge) for weights in trained]
