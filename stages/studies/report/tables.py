"""Tables of comparisons of arms."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiment.report.measures import MEASURES
from experiment.report.statistics import (
    Comparison,
    MeanInterval,
    compare_paired,
    correct_family,
    mean_interval,
)
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Params
from experiment.stage.randomness import stream
from studies.training.arms import Arms, result_file, tuned

# Grids differ if the rates around the best of one are further apart by more than this factor.
COARSER = 1.5


def final_replicates(arm: str) -> pd.DataFrame:
    """The final replicates of an arm, one row each, indexed by number."""
    rows = files.read_rows(result_file(arm), "replicates", "replicate", *MEASURES)
    return rows.set_index("replicate")


def shared_replicates(arm: str, against: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The final replicates of two arms that both have."""
    return final_replicates(arm).align(final_replicates(against), join="inner", axis=0)


def tuning(arm: str) -> pd.DataFrame:
    """One row per learning rate and seed that an arm was tuned over."""
    return files.read_rows(result_file(arm), "tuning", "lr", "replicate")


def compare(params: Params, arm: str, against: str, measure: str) -> Comparison:
    """Compare two arms on a measure, over the replicates that both have."""
    treatment, baseline = (one[measure] for one in shared_replicates(arm, against))
    return compare_paired(
        treatment,
        baseline,
        margin=params.compare.margin * baseline.mean(),
        rng=stream(params.seed, "studies", arm, against, measure),
        lower_is_better=MEASURES[measure].lower_is_better,
    )


def at_equal_lr(arm: str, against: str, measure: str) -> MeanInterval:
    """Mean difference of two arms in the tuning, both at the tuned learning rate of `arm`.

    The mean is over the seeds that both were tuned with, and its interval is that of a t-test. Both
    are NaN if the other arm was not tuned over that learning rate.
    """
    lr = tuned(arm)["lr"]
    one, other = (
        tuning(name).loc[lambda table: table["lr"] == lr].set_index("replicate")
        for name in (arm, against)
    )
    column = MEASURES[measure].in_tuning
    difference = (one[column] - other[column]).dropna()
    return mean_interval(difference if len(difference) else [math.nan])


def read_comparisons(path: Path) -> pd.DataFrame:
    """Read a table that `comparisons` made."""
    numbers = ("lr", "mean", "difference", "interval_low", "interval_high", "p_value")
    text = ("arm", "label", "against", "measure", "unit", "verdict")
    return files.read_csv(path, *numbers, *text, other=text)


def spacing(arm: str) -> float:
    """Mean distance (log of the ratio) of the best learning rate from its neighbours in the grid.

    NaN if the arm was tuned over one rate.
    """
    rates = np.unique(tuning(arm)["lr"])
    best = int(np.searchsorted(rates, tuned(arm)["lr"]))
    near = np.log(rates[max(best - 1, 0) : best + 2])
    return float(np.diff(near).mean()) if len(near) > 1 else math.nan


def named(name: str, interval: MeanInterval) -> dict[str, float]:
    """A mean and the ends of its interval as columns."""
    columns = (name, f"{name}_low", f"{name}_high")
    return dict(zip(columns, map(float, interval), strict=True))


def comparisons(params: Params, study: str, arms: Arms) -> pd.DataFrame:
    """Compare every arm of a study with each of its baselines on every measure, one row each.

    The comparisons with one baseline on one measure are a family for Holm's correction. `p_value`,
    `equivalence_p_value` and `verdict` are corrected; the intervals are not.
    `difference_at_equal_lr` is the difference at equal learning rates, see `at_equal_lr`.
    `grids_differ` says whether one of the two was tuned on a much coarser grid, see `spacing`.
    Raises UserError if no arm of the study is compared with another.
    """
    of_study = {name: arm.against for name, arm in arms.items() if arm.study == study}
    bases = dict.fromkeys(base for against in of_study.values() for base in against)
    if not bases:
        raise UserError(
            f"no arm has study: {study} and an against; "
            "allowed: at least one, or there is nothing to compare"
        )
    rows = []
    for measure, base in product(MEASURES, bases):
        family = [name for name, against in of_study.items() if base in against]
        single = [compare(params, name, base, measure) for name in family]
        for name, alone, corrected in zip(family, single, correct_family(single), strict=True):
            treatment, baseline = shared_replicates(name, base)
            best, best_of_base = tuned(name), tuned(base)
            ratio = spacing(name) / spacing(base)
            rows.append(
                {
                    "arm": name,
                    "label": arms[name].label,
                    "against": base,
                    "measure": measure,
                    "unit": MEASURES[measure].unit,
                    "mean": float(treatment[measure].mean()),
                    "mean_against": float(baseline[measure].mean()),
                    **statistics(alone, corrected),
                    "lr": best["lr"],
                    "lr_against": best_of_base["lr"],
                    "lr_on_boundary": best["on_boundary"],
                    "lr_against_on_boundary": best_of_base["on_boundary"],
                    "grids_differ": not 1 / COARSER <= ratio <= COARSER,
                    **named("difference_at_equal_lr", at_equal_lr(name, base, measure)),
                }
            )
    return pd.DataFrame(rows)


def statistics(alone: Comparison, corrected: Comparison) -> dict[str, Any]:
    """A comparison as columns, with the p-values and the verdict corrected for its family."""
    return {
        "difference": alone.mean_difference,
        "interval_low": alone.low,
        "interval_high": alone.high,
        "margin": alone.margin,
        "replicates": alone.replicates,
        "p_value": corrected.p_value,
        "p_value_uncorrected": alone.p_value,
        "equivalence_p_value": corrected.equivalence_p_value,
        "equivalence_p_value_uncorrected": alone.equivalence_p_value,
        "probability_lower": alone.probability_lower,
        "verdict": corrected.verdict,
    }


def gradient_tables(trajectories: list[str]) -> pd.DataFrame:
    """The analyses of gradients along the trajectories of these arms."""
    numbers = ("rank", "replicates", "mean", "low", "high", "p_value_uncorrected")
    words = ("trajectory", "quantity", "unit", "epoch")
    if not trajectories:
        return pd.DataFrame(columns=[*numbers, *words])
    paths = [Path(f"metrics/studies/gradients/{arm}.csv") for arm in trajectories]
    read = [files.read_csv(path, *numbers, *words, other=words) for path in paths]
    return pd.concat(read, ignore_index=True)
