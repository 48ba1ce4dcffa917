"""Search the learning rate, and for LRG-Adam the rank, with the lowest validation loss."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import Params, read_params
from experiment.training.loop import Setting
from experiment.training.optimizer import Hyperparameters
from experiment.training.search import (
    Interval,
    Space,
    TrialTask,
    evaluate_trial,
    on_boundary,
    search,
)
from experiment.training.work import Work


def search_space(optimizer: str, params: Params, side: int) -> tuple[Space, Hyperparameters]:
    """The search space and the fixed hyperparameters, for a gradient matrix of side `side`."""
    space: dict[str, Interval] = {
        "lr": FloatDistribution(params.tune.lr.low, params.tune.lr.high, log=True)
    }
    if optimizer == "adam":
        return space, {}
    if params.rank != "tuned":
        return space, {"rank": params.rank}
    low, high = params.tune.rank.low, params.tune.rank.high
    space["rank"] = IntDistribution(low, side - 1 if high == "full" else high, log=True)
    return space, {}


def main(optimizer: str) -> None:
    """Write metrics/tune_<optimizer>.json."""
    params = read_params()
    dataset = Dataset.read(params.data.name)
    setting = Setting.of(params, optimizer, {}, purpose="tune")
    space, fixed = search_space(optimizer, params, setting.network(dataset.train).matrix_side)
    work = Work(
        f"tune_{optimizer}", dataset, device=params.device, total=params.tune.trials, unit="trial"
    )

    def losses(points: Sequence[Hyperparameters]) -> list[float]:
        tasks = [
            TrialTask(replace(setting, hyperparameters={**fixed, **point}), params.tune.replicates)
            for point in points
        ]
        results = work.run(evaluate_trial, tasks)
        return [float(result["validation_loss_nats"].mean()) for result in results]

    with work:
        trials = search(
            space, losses, trials=params.tune.trials, wave=params.tune.wave, seed=params.seed
        )
        best = min(trials, key=lambda trial: trial.validation_loss)
        if best.validation_loss == float("inf"):
            raise UserError(
                f"every trial diverged; params.yaml: tune.lr = {dict(params.tune.lr)} "
                "is to hold a learning rate that trains"
            )
        table = pd.DataFrame(
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
        table["best_so_far_nats"] = table["trial_loss_nats"].cummin()
        files.write_json(
            Path(f"metrics/tune_{optimizer}.json"),
            {
                "best": {**best.hyperparameters, **fixed},
                "validation_loss_nats": best.validation_loss,
                "on_boundary": ", ".join(on_boundary(space, best.hyperparameters)) or None,
                "trials": files.rows(table),
            },
        )
