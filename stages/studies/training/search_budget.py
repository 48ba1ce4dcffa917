"""Repeat the searches of the main pipeline with more trials and several sampler seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BeforeValidator, Field

from experiment.report.statistics import mean_interval
from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.params import read_params
from experiment.stage.schema import Ascending, Section, Whole, whole
from experiment.training.loop import RunConfig
from experiment.training.search import hyperparameters, search_space, table, train_trials
from experiment.training.work import Work
from studies.training import shared
from studies.training.arms import as_list
from studies.training.words import parse

OPTIMIZERS = ("adam", "lrg_adam")


class Budgets(Section):
    """How many searches there are, and after how many trials they are compared."""

    samplers: Whole = whole(2, 1_000)
    trials: Annotated[
        list[Annotated[Whole, Field(ge=1, le=10_000)]], Ascending, BeforeValidator(as_list)
    ] = Field(min_length=1, description="an ascending list of whole numbers from 1 to 10000")


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


def main(*words: str) -> None:
    """Write metrics/studies/search_budget.csv and .json.

    Args:
        words: the settings, see `studies.training.words`.

    """
    given = parse(Budgets, words, "search_budget: ")
    params = shared.read()
    main_pipeline = read_params().model_copy(update={"rank": "tuned"})
    tune = main_pipeline.tune
    dataset = Dataset.read(params.data.name)
    total = len(OPTIMIZERS) * given.samplers * given.trials[-1]
    tables = []
    with Work(
        "studies_search_budget", dataset, device=params.device, total=total, unit="trial"
    ) as work:
        for optimizer in OPTIMIZERS:
            # The training seeds of the main pipeline, whose searches are those of sampler 0.
            fixed, searched = hyperparameters(main_pipeline, optimizer)
            config = replace(RunConfig.of(params, optimizer, fixed, purpose="tune"), model="mlp")
            space = search_space(searched, config.network(dataset.train).matrix_side)
            for sampler in range(given.samplers):
                trials = train_trials(
                    work,
                    config,
                    space,
                    trials=given.trials[-1],
                    wave=tune.wave,
                    replicates=tune.replicates,
                    seed=params.seed + sampler,
                )
                rows = table(trials)
                rows.insert(0, "sampler", sampler)
                rows.insert(0, "optimizer", optimizer)
                tables.append(rows)
        together = pd.concat(tables, ignore_index=True)
        files.write_csv(Path("metrics/studies/search_budget.csv"), together)
        files.write_json(
            Path("metrics/studies/search_budget.json"), summary(together, given.trials)
        )
