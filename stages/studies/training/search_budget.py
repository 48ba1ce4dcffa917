"""Repeat the searches of the main pipeline with more trials and several sampler seeds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiment.report.statistics import mean_interval
from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.training.loop import RunConfig
from experiment.training.search import search_space, table, train_trials
from experiment.training.work import Work
from studies.training.arms import DATA, SETTINGS, BudgetConfig, TrainedConfig

OPTIMIZERS = ("adam", "lrg_adam")


def summary(trials: pd.DataFrame, budgets: list[int]) -> dict[str, dict[str, float]]:
    """The best loss of both optimizers after each number of trials, over the sampler seeds.

    Differences are paired by seed; their 95 % intervals are t-intervals.
    """
    found = {}
    for budget in budgets:
        last = trials[trials["trial"] == budget - 1]
        best = last.pivot(index="sampler", columns="optimizer", values="best_so_far_nats")
        difference = best["lrg_adam"] - best["adam"]
        interval = mean_interval(difference)
        found[f"{budget}_trials"] = {
            **{f"{name}_best_loss_nats": float(best[name].mean()) for name in OPTIMIZERS},
            "difference": float(interval.mean),
            "difference_low": float(interval.low),
            "difference_high": float(interval.high),
            "lrg_adam_lower_share": float((difference < 0).mean()),
        }
    return found


def main() -> None:
    """Write metrics/studies/search_budget.csv and .json."""
    given = BudgetConfig.model_validate(files.read_json(SETTINGS / "search_budget.json"))
    dataset = Dataset.read(f"{DATA}/{given.data}")
    total = len(OPTIMIZERS) * given.samplers * given.trials[-1]
    tables = {}
    name = "studies_search_budget"
    with Work(name, dataset, device=given.device, total=total, unit="trial") as work:
        for optimizer in OPTIMIZERS:
            # The training seeds of the main pipeline, whose searches are those of sampler 0.
            run = RunConfig(
                optimizer=optimizer,
                hyperparameters={},
                purpose="tune",
                **given.model_dump(include={*TrainedConfig.model_fields} - {"data"}),
            )
            searched = {"lr": given.lr, **({"rank": given.rank} if optimizer == "lrg_adam" else {})}
            space = search_space(searched, run.network(dataset.train).matrix_side)
            for sampler in range(given.samplers):
                trials = train_trials(
                    work,
                    run,
                    space,
                    trials=given.trials[-1],
                    wave=given.wave,
                    replicates=given.replicates,
                    seed=given.seed + sampler,
                )
                tables[optimizer, sampler] = table(trials)
    together = pd.concat(tables, names=["optimizer", "sampler"]).reset_index([0, 1])
    files.write_csv(Path("metrics/studies/search_budget.csv"), together)
    files.write_json(Path("metrics/studies/search_budget.json"), summary(together, given.trials))
