"""Compare LRG-Adam with Adam on the outcomes of paired replicates."""

from dataclasses import asdict
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from experiment.report.measures import CURVE, MEASURES
from experiment.report.statistics import (
    Comparison,
    compare_epochs_to_target,
    compare_paired,
    correct_family,
)
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Params, read_params
from experiment.stage.randomness import stream


def read_both() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the replicates of both optimizers, Adam's first."""
    tables = []
    for optimizer in ("adam", "lrg_adam"):
        path = Path(f"metrics/{optimizer}.json")
        table = files.read_rows(path, "replicates", "replicate", *MEASURES, CURVE, other=[CURVE])
        numbers = table.drop(columns=CURVE)
        if table["replicate"].nunique() < 2 or not np.isfinite(numbers).all(axis=None):
            raise UserError(f"{path}: allowed: two replicates or more, all numbers finite")
        tables.append(table.set_index("replicate"))
    if not tables[0].index.equals(tables[1].index):
        raise UserError("metrics: adam.json and lrg_adam.json hold different replicates")
    return tables[0], tables[1]


def statistics(found: Comparison) -> dict[str, object]:
    """All statistics of one comparison; undefined values are null."""
    values = asdict(found) | {"verdict": found.verdict}
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in values.items()
    }


def with_holm(alone: Comparison, corrected: Comparison) -> dict[str, object]:
    """All statistics of one comparison, alone and Holm-corrected within its family."""
    return statistics(alone) | {
        "p_value_holm": corrected.p_value,
        "equivalence_p_value_holm": corrected.equivalence_p_value,
        "verdict_holm": corrected.verdict,
    }


def of_measures(
    params: Params, adam: pd.DataFrame, lrg_adam: pd.DataFrame
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Compare on every measure: a summary, and one row of all statistics per measure.

    The verdicts in the summary are Holm-corrected, with the measures as one family.
    """
    single = [
        compare_paired(
            lrg_adam[measure],
            adam[measure],
            margin=params.compare.margin * adam[measure].mean(),
            lower_is_better=described.lower_is_better,
            rng=stream(params.seed, "compare", measure),
        )
        for measure, described in MEASURES.items()
    ]
    short: dict[str, object] = {}
    details = []
    for measure, alone, corrected in zip(MEASURES, single, correct_family(single), strict=True):
        short[measure] = {
            "adam": float(adam[measure].mean()),
            "lrg_adam": float(lrg_adam[measure].mean()),
            "difference": alone.mean_difference,
            "interval_95": [alone.low, alone.high],
            "verdict": corrected.verdict,
        }
        details.append({"measure": measure, **with_holm(alone, corrected)})
    return short, details


def epochs_to_targets(
    params: Params, adam: pd.DataFrame, lrg_adam: pd.DataFrame
) -> list[dict[str, object]]:
    """Compare how soon both optimizers reach each target, one row per target.

    The margin is the fraction `compare.margin` of all epochs. Holm's correction treats the targets
    that either optimizer reaches as one family.
    """
    curves, others = (np.array(table[CURVE].tolist()) for table in (adam, lrg_adam))
    every = [
        compare_epochs_to_target(
            others,
            curves,
            target,
            margin=params.compare.margin * (curves.shape[1] - 1),
            rng=stream(params.seed, "compare", f"epochs to {target}"),
        )
        for target in params.compare.targets
    ]
    reached = [found.epochs for found in every if found.epochs]
    tested = {
        id(alone): with_holm(alone, corrected)
        for alone, corrected in zip(reached, correct_family(reached), strict=True)
    }
    return [
        {
            "target_validation_loss_nats": found.target,
            "adam_share_reaching": found.baseline_reached,
            "lrg_adam_share_reaching": found.treatment_reached,
            "adam_mean_epochs": found.baseline_mean,
            "lrg_adam_mean_epochs": found.treatment_mean,
            "difference_epochs": tested.get(id(found.epochs)),
        }
        for found in every
    ]


def main() -> None:
    """Write metrics/comparison.json and metrics/comparison_details.json."""
    params = read_params()
    both = read_both()
    short, details = of_measures(params, *both)
    files.write_json(Path("metrics/comparison.json"), short)
    # `dvc metrics` does not list tables like these.
    files.write_json(
        Path("metrics/comparison_details.json"),
        {"measures": details, "epochs_to_target": epochs_to_targets(params, *both)},
    )
