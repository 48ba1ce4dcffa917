"""The search for the learning rate and rank with the lowest validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, IntDistribution

from experiment import progress
from experiment.randomness import stream
from experiment.training import Hyperparameters, Setting, evaluate, train

if TYPE_CHECKING:
    from experiment.data import Dataset
    from experiment.work import Result

Space = Mapping[str, BaseDistribution]

# Of the trials told so far, how many a proposal needs before it looks at them.
STARTUP_TRIALS = 5
# Share of an interval, on the scale it is searched on, that counts as its edge.
EDGE = 0.05


class Trial(NamedTuple):
    """One evaluated point; a diverged one has an infinite loss."""

    hyperparameters: Hyperparameters
    validation_loss: float  # nats


@dataclass(frozen=True)
class TrialTask:
    """A point to evaluate: a setting trained for each of `replicates` seeds."""

    setting: Setting
    replicates: int


def evaluate_trial(data: Dataset, task: TrialTask) -> Result:
    """Validation loss (R,) of every replicate after the last epoch. It never sees the test set."""
    epochs = train(task.setting, data.train, range(task.replicates))
    for weights in progress.bar(
        epochs, total=task.setting.epochs + 1, unit="epoch", desc=f"{task.setting.hyperparameters}"
    ):
        last = weights
    return {"validation_loss_nats": evaluate(task.setting.network, last, data.validation).loss}


def search(
    space: Space,
    evaluate_wave: Callable[[Sequence[Hyperparameters]], Sequence[float]],
    *,
    trials: int,
    wave: int,
    seed: int,
) -> list[Trial]:
    """Minimise a loss by the tree-structured Parzen estimator.

    Trials are proposed in waves, so that those of one wave can be evaluated at the same time.
    The sampler is seeded anew for each wave: a search that is repeated with known losses
    proposes the same points, which makes an interrupted one equal to an uninterrupted one.

    Args:
        space: what is searched; an empty space is not searched but evaluated once a trial.
        evaluate_wave: the losses of the points it is given, in their order; NaN or infinite
            where training diverged.
        trials: number of points evaluated.
        wave: number of points proposed at once.
        seed: root of the sampler's random streams.

    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    done: list[Trial] = []
    while len(done) < trials:
        study.sampler = _sampler(seed, len(done))
        asked = [study.ask(space) for _ in range(min(wave, trials - len(done)))]
        losses = evaluate_wave([trial.params for trial in asked])
        for trial, loss in zip(asked, losses, strict=True):
            loss = loss if math.isfinite(loss) else math.inf
            study.tell(trial, loss)
            done.append(Trial(trial.params, loss))
    return done


def _sampler(seed: int, trial: int) -> optuna.samplers.BaseSampler:
    # Every argument that has a default worth naming: the defaults changed with Optuna 5.
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
        seed=int(stream(seed, "sampler", trial).integers(2**32)),
    )


def on_boundary(space: Space, best: Hyperparameters) -> list[str]:
    """Names of the parameters whose best value lies at an edge of the interval searched.

    At an edge is within 5 % of the interval's length from its end, on the scale it is searched
    on, or, for a whole number, at most one from the end: the best value may lie beyond.
    """
    return [name for name, interval in space.items() if _at_edge(interval, best[name])]


def _at_edge(interval: BaseDistribution, value: float) -> bool:
    if (
        isinstance(interval, IntDistribution)
        and min(value - interval.low, interval.high - value) <= 1
    ):
        return True
    scale = math.log if interval.log else float
    low, high, at = scale(interval.low), scale(interval.high), scale(value)
    return min(at - low, high - at) <= EDGE * (high - low)
