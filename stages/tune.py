"""Search the learning rate, and for LRG-Adam the rank, with the lowest validation loss."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from experiment import files, versions
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.params import Params, read_params
from experiment.training import Setting
from experiment.tuning import Hyperparameters, Space, TrialTask, evaluate_trial, on_boundary, search
from experiment.work import Work

READS = (
    *Setting.READS,
    "tune.trials",
    "tune.wave",
    "tune.replicates",
    "tune.lr",
)
RANK_READS = ("rank", "tune.rank")


def search_space(optimizer: str, params: Params) -> tuple[Space, Hyperparameters]:
    """What is searched, and what is held fixed."""
    lr = {"lr": FloatDistribution(params.tune.lr.low, params.tune.lr.high, log=True)}
    if optimizer == "adam":
        return lr, {}
    if params.rank is not None:
        return lr, {"rank": params.rank}
    interval = IntDistribution(params.tune.rank.low, params.tune.rank.high, log=True)
    return lr | {"rank": interval}, {}


def main(optimizer: str) -> None:
    """Write metrics/tune_<optimizer>.json and plots/tuning/<optimizer>.csv."""
    params = read_params(READS if optimizer == "adam" else READS + RANK_READS)
    setting = Setting.of(params, optimizer, {}, purpose="tune")
    space, fixed = search_space(optimizer, params)

    with Work(
        f"tune_{optimizer}",
        Dataset.read(),
        device=params.device,
        total=params.tune.trials,
        unit="trial",
    ) as work:

        def losses(points: Sequence[Hyperparameters]) -> list[float]:
            tasks = [
                TrialTask(replace(setting, hyperparameters=fixed | point), params.tune.replicates)
                for point in points
            ]
            return [
                float(r["validation_loss_nats"].mean()) for r in work.run(evaluate_trial, tasks)
            ]

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
            {"trial": number, "lr": None, "rank": None, **fixed, **trial.hyperparameters}
            | {"validation_loss_nats": trial.validation_loss}
            for number, trial in enumerate(trials)
        )
        table["best_so_far_nats"] = table["validation_loss_nats"].cummin()
        files.write_csv(Path(f"plots/tuning/{optimizer}.csv"), table)
        files.write_json(
            Path(f"metrics/tune_{optimizer}.json"),
            {
                "best": dict(best.hyperparameters) | dict(fixed),
                "validation_loss_nats": best.validation_loss,
                "on_boundary": on_boundary(space, best.hyperparameters),
            },
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("optimizer", choices=("adam", "lrg_adam"))
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        main(parser.parse_args().optimizer)
