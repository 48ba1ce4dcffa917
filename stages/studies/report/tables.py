"""Tables of comparisons of arms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiment.report.measures import CURVE, MEASURES
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


def final_curves(arm: str) -> NDArray[np.float64]:
    """The validation losses (replicates, epochs + 1) of the final replicates of an arm."""
    return np.array(list(files.read_json(result_file(arm), CURVE)[CURVE].values()))


def tuning(arm: str) -> pd.DataFrame:
    """One row per learning rate and seed that an arm was tuned over."""
    return files.read_rows(result_file(arm), "tuning", "lr", "replicate")


def compare(
    params: Params, arm: str, against: str, measure: str, found: dict[str, pd.DataFrame]
) -> Comparison:
    """Compare two arms over the replicates that both have; `found` holds those of each arm."""
    treatment, baseline = found[arm][measure], found[against][measure]
    shared = treatment.index.intersection(baseline.index)
    treatment, baseline = treatment[shared], baseline[shared]
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
    column = MEASURES[measure].in_tuning
    lr = tuned(arm)["lr"]
    found = []
    for name in (arm, against):
        table = tuning(name)
        found.append(table[table["lr"] == lr].set_index("replicate")[column])
    difference = (found[0] - found[1]).dropna()
    return mean_interval(difference) if len(difference) else MeanInterval(*np.full(3, np.nan))


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
    pairs = zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
    return {column: float(value) for column, value in pairs}


def comparisons(params: Params, study: str, arms: Arms) -> pd.DataFrame:
    """Compare every arm of a study with each of its baselines on every measure, one row each.

    The comparisons with one baseline on one measure are a family for Holm's correction. `p_value`,
    `equivalence_p_value` and `verdict` are corrected; the intervals are not.
    `difference_at_equal_lr` is the difference at equal learning rates, see `at_equal_lr`.
    `grids_differ` says whether one of the two was tuned on a much coarser grid, see `spacing`.
    Raises UserError if no arm of the study is compared with another.
    """
    of_study = {name: arm for name, arm in arms.items() if arm.study == study}
    if not any(arm.against for arm in of_study.values()):
        raise UserError(
            f"no arm has study: {study} and an against; "
            "allowed: at least one, or there is nothing to compare"
        )
    found = {
        name: final_replicates(name)
        for name in {*of_study, *(base for arm in of_study.values() for base in arm.against)}
    }
    rows = []
    for measure, described in MEASURES.items():
        for base in dict.fromkeys(base for arm in of_study.values() for base in arm.against):
            family = [name for name, arm in of_study.items() if base in arm.against]
            single = [compare(params, name, base, measure, found) for name in family]
            for name, alone, corrected in zip(family, single, correct_family(single), strict=True):
                shared = found[name].index.intersection(found[base].index)
                arm, other = tuned(name), tuned(base)
                ratio = spacing(name) / spacing(base)
                rows.append(
                    {
                        "arm": name,
                        "label": arms[name].label,
                        "against": base,
                        "measure": measure,
                        "unit": described.unit,
                        "mean": float(found[name].loc[shared, measure].mean()),
                        "mean_against": float(found[base].loc[shared, measure].mean()),
                        **statistics(alone, corrected),
                        "lr": arm["lr"],
                        "lr_against": other["lr"],
                        "lr_on_boundary": arm["on_boundary"],
                        "lr_against_on_boundary": other["on_boundary"],
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
    numbers = (
        "rank",
        "replicates",
        "mean",
        "low",
        "high",
        "p_value_uncorrected",
        "energy_of_pure_noise_share",
    )
    words = ("trajectory", "quantity", "unit", "epoch")
    if not trajectories:
        return pd.DataFrame(columns=[*numbers, *words])
    paths = [Path(f"metrics/studies/gradients/{arm}.csv") for arm in trajectories]
    read = [files.read_csv(path, *numbers, *words, other=words) for path in paths]
    return pd.concat(read, ignore_index=True)


def of_measure(table: pd.DataFrame, measure: str, against: str | None = None) -> pd.DataFrame:
    """The rows of one measure, and only of one baseline if `against` is given."""
    rows = table[table["measure"] == measure]
    return rows if against is None else rows[rows["against"] == against]
