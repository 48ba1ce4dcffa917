"""The search for the learning rate and rank with the lowest validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import Tune
from experiment.stage.randomness import stream
from experiment.training import progress
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.optimizer import Hyperparameters
from experiment.training.work import Result, Work

Distribution = FloatDistribution | IntDistribution
Space = Mapping[str, Distribution]

# Proposals are random until this many trials have finished.
STARTUP_TRIALS = 5
# Share of an interval, on its search scale, that counts as its edge.
EDGE = 0.05


class Trial(NamedTuple):
    """One evaluated point; its loss is infinite if it diverged."""

    hyperparameters: Hyperparameters
    validation_loss: float  # nats


@dataclass(frozen=True)
class TrialTask:
    """A point to evaluate: a setting, trained with each of `replicates` seeds."""

    setting: RunConfig
    replicates: int


def search_space(optimizer: str, intervals: Tune, rank: int | str, side: int) -> Space:
    """What a search varies: `lr`, and for LRG-Adam also `rank` if it is tuned.

    Args:
        optimizer: adam or lrg_adam.
        intervals: of the learning rate and the rank.
        rank: `tuned`, or a fixed rank.
        side: of the gradient matrix.

    """
    space: dict[str, Distribution] = {
        "lr": FloatDistribution(intervals.lr.low, intervals.lr.high, log=True)
    }
    if optimizer == "lrg_adam" and rank == "tuned":
        low, high = intervals.rank.low, intervals.rank.high
        space["rank"] = IntDistribution(low, side - 1 if high == "full" else high, log=True)
    return space


def train_trials(
    work: Work[Dataset], setting: RunConfig, space: Space, how: Tune, seed: int
) -> list[Trial]:
    """Search by training; a trial's loss is the mean over `how.replicates` seeds.

    Args:
        work: runs the trials in parallel.
        setting: how to train, with the hyperparameters that the search does not vary.
        space: those that it varies.
        how: numbers of trials, of trials proposed at once, and of seeds.
        seed: root of the sampler's random streams.

    """

    def losses(points: Sequence[Hyperparameters]) -> list[float]:
        tasks = [
            TrialTask(
                replace(setting, hyperparameters={**setting.hyperparameters, **point}),
                how.replicates,
            )
            for point in points
        ]
        results = work.run(evaluate_trial, tasks)
        return [float(result["validation_loss_nats"].mean()) for result in results]

    return search(space, losses, trials=how.trials, wave=how.wave, seed=seed)


def table(trials: Sequence[Trial], fixed: Hyperparameters) -> pd.DataFrame:
    """One row per trial, with the fixed hyperparameters and the best loss so far."""
    rows = pd.DataFrame(
        {
            "trial": number,
            "lr": None,
            "rank": None,
            **fixed,
            **trial.hyperparameters,
            "trial_loss_nats": trial.validation_loss,
        }
        for number, trial in enumerate(trials)
    )
    rows["best_so_far_nats"] = rows["trial_loss_nats"].cummin()
    return rows


def evaluate_trial(data: Dataset, task: TrialTask) -> Result:
    """Validation loss (R,) of every replicate after the last epoch. The test set is not used."""
    network = task.setting.network(data.train)
    epochs = train(task.setting, network, data.train, range(task.replicates))
    for weights in progress.bar(
        epochs, total=task.setting.epochs + 1, unit="epoch", desc=f"{task.setting.hyperparameters}"
    ):
        last = weights
    return {"validation_loss_nats": evaluate(network, last, data.validation).loss}


def search(
    space: Space,
    evaluate_wave: Callable[[Sequence[Hyperparameters]], Sequence[float]],
    *,
    trials: int,
    wave: int,
    seed: int,
) -> list[Trial]:
    """Minimise a loss with the tree-structured Parzen estimator.

    Trials are proposed in waves, so that those of one wave can be evaluated at the same time. The
    sampler is reseeded for each wave: a search repeated with known losses proposes the same points,
    so an interrupted search equals an uninterrupted one.

    Args:
        space: the search space; an empty one is evaluated once per trial.
        evaluate_wave: returns the losses of the given points, in order; NaN or infinite if
            training diverged.
        trials: number of points evaluated.
        wave: number of points proposed at once.
        seed: root of the sampler's random streams.

    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    done: list[Trial] = []
    while len(done) < trials:
        study.sampler = _sampler(seed, len(done))
        asked = [study.ask(dict(space)) for _ in range(min(wave, trials - len(done)))]
        losses = evaluate_wave([trial.params for trial in asked])
        for trial, loss in zip(asked, losses, strict=True):
            loss = loss if math.isfinite(loss) else math.inf
            study.tell(trial, loss)
            done.append(Trial(trial.params, loss))
    return done


def _sampler(seed: int, trial: int) -> optuna.samplers.BaseSampler:
    # The arguments are explicit because the defaults changed with Optuna 5.
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
        seed=int(stream(seed, "sampler", trial).integers(2**32)),
    )


def on_boundary(space: Space, best: Hyperparameters) -> list[str]:
    """Names of the parameters whose best value lies at an edge of the search interval.

    An edge is the last 5 % of the interval's length on its search scale; for a whole number, also
    the value next to the end. A better value may lie beyond it.
    """
    return [name for name, interval in space.items() if _at_edge(interval, best[name])]


def _at_edge(interval: Distribution, value: float) -> bool:
    if (
        isinstance(interval, IntDistribution)
        and min(value - interval.low, interval.high - value) <= 1
    ):
        return True
    scale = math.log if interval.log else float
    low, high, at = scale(interval.low), scale(interval.high), scale(value)
    return min(at - low, high - at) <= EDGE * (high - low)


def read_best(optimizer: str) -> dict[str, float]:
    """Read metrics/tune_<optimizer>.json: the tuned `lr`, and for LRG-Adam also `rank`."""
    path = Path(f"metrics/tune_{optimizer}.json")
    best = files.read_json(path, "best")["best"]
    names = ["lr", "rank"] if optimizer == "lrg_adam" else ["lr"]
    if (
        not isinstance(best, dict)
        or sorted(best) != names
        or not all(type(value) in (int, float) and value > 0 for value in best.values())
    ):
        raise UserError(f"{path}: best = {best!r}; allowed: a number for {' and '.join(names)}")
    return best
