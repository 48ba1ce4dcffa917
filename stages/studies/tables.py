"""What the steps of the studies share: the outcomes of arms, and comparisons of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiment import files
from experiment.errors import UserError
from experiment.params import Params
from experiment.randomness import stream
from experiment.statistics import (
    Comparison,
    MeanInterval,
    compare_paired,
    correct_family,
    mean_interval,
)


class Measure(NamedTuple):
    """A column of an arm's outcomes, and the one of its tuning that comes nearest to it."""

    label: str
    unit: str
    in_tuning: str
    lower_is_better: bool = True


# The first is the one that conclusions are drawn from. A tuning does not see the test set.
MEASURES = {
    "test_loss_nats": Measure("test loss, last epoch", "nats", "validation_loss_nats"),
    "test_accuracy_share": Measure(
        "test accuracy, last epoch", "share", "validation_accuracy_share", lower_is_better=False
    ),
    "best_validation_loss_nats": Measure(
        "best validation loss of all epochs", "nats", "best_validation_loss_nats"
    ),
    "train_loss_nats": Measure("train loss, last epoch", "nats", "train_loss_nats"),
}


def outcomes(arm: str) -> pd.DataFrame:
    """The final replicates of an arm, a row each, by their numbers."""
    path = Path(f"metrics/studies/replicates/{arm}.csv")
    return files.read_csv(path, "replicate", *MEASURES).set_index("replicate")


def compare(
    params: Params, arm: str, against: str, measure: str, outcomes_of: dict[str, pd.DataFrame]
) -> Comparison:
    """Compare two arms over the replicates that both have."""
    treatment, baseline = outcomes_of[arm][measure], outcomes_of[against][measure]
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
    """An arm minus another, both at the learning rate that the arm was tuned to, in the tuning.

    Over the seeds that both were tuned with there, the interval that of a t-test; NaN where the
    other was not tuned over that learning rate.
    """
    column = MEASURES[measure].in_tuning
    lr = tuned(arm)["lr"]
    found = []
    for name in (arm, against):
        table = files.read_csv(Path(f"metrics/studies/tuning/{name}.csv"), "lr", column)
        found.append(table[table["lr"] == lr].set_index("replicate")[column])
    difference = (found[0] - found[1]).dropna()
    return mean_interval(difference) if len(difference) else MeanInterval(*[math.nan] * 3)


def named(name: str, interval: MeanInterval) -> dict[str, float]:
    """A mean and the ends of its interval as columns."""
    pairs = zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
    return {column: float(value) for column, value in pairs}


def comparisons(params: Params, study: str) -> pd.DataFrame:
    """Every arm of a study against every arm that it names, by every measure, a row each.

    The comparisons with one arm by one measure are a family, Holm-corrected as such: `p_value`,
    `equivalence_p_value` and `verdict` are corrected, the intervals are those of one comparison.
    `difference_at_equal_lr` tells what is left where the learning rates are alike, see
    `at_equal_lr`.
    """
    arms = params.studies.arms
    of_study = {name: arm for name, arm in arms.items() if arm.study == study}
    if not any(arm.against for arm in of_study.values()):
        raise UserError(
            f"params.yaml: studies.arms has no arm with study: {study} and an against; "
            "allowed: at least one, or there is nothing to compare"
        )
    found = {
        name: outcomes(name)
        for name in {*of_study, *(base for arm in of_study.values() for base in arm.against)}
    }
    rows = []
    for measure, described in MEASURES.items():
        for base in dict.fromkeys(base for arm in of_study.values() for base in arm.against):
            family = [name for name, arm in of_study.items() if base in arm.against]
            single = [compare(params, name, base, measure, found) for name in family]
            for name, alone, corrected in zip(family, single, correct_family(single), strict=True):
                shared = found[name].index.intersection(found[base].index)
                rows.append(
                    {
                        "arm": name,
                        "label": arms[name].label,
                        "against": base,
                        "measure": measure,
                        "unit": described.unit,
                        "replicates": alone.replicates,
                        "mean": float(found[name].loc[shared, measure].mean()),
                        "mean_against": float(found[base].loc[shared, measure].mean()),
                        "difference": alone.mean_difference,
                        "interval_low": alone.low,
                        "interval_high": alone.high,
                        "margin": alone.margin,
                        "p_value": corrected.p_value,
                        "p_value_uncorrected": alone.p_value,
                        "equivalence_p_value": corrected.equivalence_p_value,
                        "equivalence_p_value_uncorrected": alone.equivalence_p_value,
                        "probability_lower": alone.probability_lower,
                        "correlation": alone.correlation,
                        "verdict": corrected.verdict,
                    }
                )
    table = pd.DataFrame(rows)
    for column, side, key in (
        ("lr", "arm", "lr"),
        ("lr_against", "against", "lr"),
        ("lr_on_boundary", "arm", "on_boundary"),
        ("lr_against_on_boundary", "against", "on_boundary"),
    ):
        table[column] = [tuned(name)[key] for name in table[side]]
    equal = [at_equal_lr(row.arm, row.against, row.measure) for row in table.itertuples()]
    columns = [named("difference_at_equal_lr", interval) for interval in equal]
    return table.join(pd.DataFrame(columns))


def tuned(arm: str) -> dict[str, float | bool]:
    """What the tuning of an arm found."""
    return files.read_json(Path(f"metrics/studies/arms/{arm}.json"))


def looks(trajectories: list[str]) -> pd.DataFrame:
    """What was found of gradients along the trajectories of these arms."""
    numbers = ("rank", "mean", "low", "high", "p_value_uncorrected", "energy_of_pure_noise_share")
    words = ("trajectory", "quantity", "unit", "epoch")
    paths = [Path(f"metrics/studies/gradients/{arm}.csv") for arm in trajectories]
    read = [files.read_csv(path, *numbers, *words, text=words) for path in paths]
    return pd.concat(read, ignore_index=True)


def of_measure(table: pd.DataFrame, measure: str, against: str | None = None) -> pd.DataFrame:
    """The rows of one measure, and of one arm compared with."""
    rows = table[table["measure"] == measure]
    return rows if against is None else rows[rows["against"] == against]
