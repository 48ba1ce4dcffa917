"""Compare LRG-Adam with Adam on the outcomes of paired replicates."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from experiment.report.measures import CURVE, MEASURES
from experiment.report.statistics import (
    Comparison,
    compare_paired,
    correct_family,
    first_epoch,
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


def with_holm(alone: Comparison, corrected: Comparison) -> dict[str, object]:
    """All statistics of one comparison, alone and Holm-corrected within its family."""
    return asdict(alone) | {
        "verdict": alone.verdict,
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

    A replicate that never reaches a target counts as the last epoch. All are censored there, so
    the mean is the restricted mean: the area under the Kaplan-Meier curve. The margin is the
    fraction `compare.margin` of all epochs. The targets that either optimizer reaches are a family
    for Holm's correction; where neither does, two arms that fail are not shown to be equivalent.
    """
    curves = {"adam": adam, "lrg_adam": lrg_adam}
    horizon = len(adam[CURVE].iloc[0]) - 1
    rows: list[dict[str, object]] = []
    tested = []
    for target in params.compare.targets:
        first = {name: first_epoch(one[CURVE].tolist(), target) for name, one in curves.items()}
        epochs = {name: np.nan_to_num(one, nan=horizon) for name, one in first.items()}
        reached = {name: float(np.isfinite(one).mean()) for name, one in first.items()}
        row: dict[str, object] = {"target_validation_loss_nats": target}
        row |= {f"{name}_share_reaching": share for name, share in reached.items()}
        row |= {f"{name}_mean_epochs": float(one.mean()) for name, one in epochs.items()}
        rows.append(row | {"difference_epochs": None})
        if any(reached.values()):
            found = compare_paired(
                epochs["lrg_adam"],
                epochs["adam"],
                margin=params.compare.margin * horizon,
                rng=stream(params.seed, "compare", f"epochs to {target}"),
            )
            tested.append((rows[-1], found))
    corrected = correct_family([found for _, found in tested])
    for (row, alone), one in zip(tested, corrected, strict=True):
        row["difference_epochs"] = with_holm(alone, one)
    return rows


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
