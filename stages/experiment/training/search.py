"""The search for the hyperparameters with the lowest validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import Params
from experiment.stage.randomness import stream
from experiment.stage.schema import SearchInterval
from experiment.training.loop import Group, RunConfig, train_curves
from experiment.training.optimizer import Hyperparameters
from experiment.training.work import Work

Distribution = FloatDistribution | IntDistribution
Space = Mapping[str, Distribution]


class Trial(NamedTuple):
    """One evaluated point; its loss is infinite if it diverged."""

    hyperparameters: Hyperparameters
    validation_loss: float  # nats


def hyperparameters(
    params: Params, optimizer: str
) -> tuple[dict[str, Any], dict[str, SearchInterval]]:
    """The hyperparameters of adam or lrg_adam that the parameters fix, and those to search."""
    rank = params.tune.rank if params.rank == "tuned" else params.rank
    ranks = {"rank": rank} if optimizer == "lrg_adam" else {}
    given = {"lr": params.tune.lr, **ranks, **getattr(params, optimizer)}
    searched = {name: one for name, one in given.items() if isinstance(one, SearchInterval)}
    return {name: one for name, one in given.items() if name not in searched}, searched


def search_space(intervals: Mapping[str, SearchInterval], side: int) -> Space:
    """What a search varies, by hyperparameter.

    Intervals of the learning rate and the rank are logarithmic. The rank `full` is one less than
    the side of the gradient matrix.
    """
    space: dict[str, Distribution] = {}
    for name, interval in intervals.items():
        low, high = interval.low, side - 1 if interval.high == "full" else interval.high
        whole = isinstance(low, int) and isinstance(high, int)
        kind = IntDistribution if whole else FloatDistribution
        space[name] = kind(low, high, log=getattr(interval, "log", True))
    return space


def train_trials(
    work: Work[Dataset],
    config: RunConfig,
    space: Space,
    *,
    trials: int,
    wave: int,
    replicates: int,
    seed: int,
) -> list[Trial]:
    """Search for the lowest validation loss after the last epoch, the mean over replicates."""

    def losses(points: Sequence[Hyperparameters]) -> list[float]:
        runs = [replace(config, hyperparameters={**config.hyperparameters, **p}) for p in points]
        groups = [Group(run, 0, replicates, train_curve=False) for run in runs]
        results = work.run(train_curves, groups)
        return [float(result["validation_loss_nats"][:, -1].mean()) for result in results]

    return search(space, losses, trials=trials, wave=wave, seed=seed)


def table(trials: Sequence[Trial], rank: int | None = None) -> pd.DataFrame:
    """One row per trial, with the best loss so far; `rank` is that of all if it is fixed."""
    rows = pd.DataFrame(
        {
            "trial": number,
            "lr": None,
            "rank": rank,
            **trial.hyperparameters,
            "trial_loss_nats": trial.validation_loss,
        }
        for number, trial in enumerate(trials)
    )
    rows["best_so_far_nats"] = rows["trial_loss_nats"].cummin()
    return rows


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
    so an interrupted search equals an uninterrupted one. `evaluate_wave` returns the losses of
    points: NaN or infinite if training diverged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    done: list[Trial] = []
    while len(done) < trials:
        # The arguments are explicit because the defaults changed with Optuna 5.
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=5,  # whose proposals are random
            n_ei_candidates=24,
            multivariate=True,
            group=False,
            constant_liar=True,
            seed=int(stream(seed, "sampler", len(done)).integers(2**32)),
        )
        asked = [study.ask(dict(space)) for _ in range(min(wave, trials - len(done)))]
        losses = evaluate_wave([trial.params for trial in asked])
        for trial, loss in zip(asked, losses, strict=True):
            loss = loss if math.isfinite(loss) else math.inf
            study.tell(trial, loss)
            done.append(Trial(trial.params, loss))
    return done


def on_boundary(space: Space, best: Hyperparameters) -> list[str]:
    """Names of the hyperparameters whose best value lies at an edge of the search interval.

    An edge is the last 5 % of the interval on its search scale; for a whole number, also the value
    next to the end. A better value may lie beyond it.
    """
    return [name for name, interval in space.items() if _at_edge(interval, best[name])]


def _at_edge(interval: Distribution, value: float) -> bool:
    scale = math.log if interval.log else float
    low, high, at = scale(interval.low), scale(interval.high), scale(value)
    if isinstance(interval, IntDistribution) and value in (interval.low + 1, interval.high - 1):
        return True
    return min(at - low, high - at) <= 0.05 * (high - low)


def read_best(params: Params, optimizer: str) -> Hyperparameters:
    """The fixed hyperparameters and those in metrics/tune_<optimizer>.json."""
    path = Path(f"metrics/tune_{optimizer}.json")
    best = files.read_json(path, "best")["best"]
    fixed, searched = hyperparameters(params, optimizer)
    names = searched.keys() | fixed.keys() & {"rank"}
    numbers = isinstance(best, dict) and all(type(one) in (int, float) for one in best.values())
    if not numbers or best.keys() != names or best["lr"] <= 0:
        allowed = ", ".join(sorted(names))
        raise UserError(
            f"{path}: best = {best!r}; allowed: a number for each of {allowed}, lr above 0"
        )
    return {**fixed, **best}
