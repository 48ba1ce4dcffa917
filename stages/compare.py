"""Compare LRG-Adam with Adam on the outcomes of paired replicates."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from experiment.report.measures import CURVE, MEASURES
from experiment.report.statistics import Comparison, compare_paired, correct_family
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Params, read_params
from experiment.stage.randomness import stream


def replicates(optimizer: str) -> pd.DataFrame:
    """The replicates of an optimizer, one row each, indexed by number."""
    path = Path(f"metrics/{optimizer}.json")
    table = files.read_rows(path, "replicates", "replicate", *MEASURES, CURVE, other=[CURVE])
    return table.set_index("replicate")


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

    A replicate reaches a target at the first epoch whose loss is at or below it. One that never
    does counts as the last epoch. All are censored there, so the mean is the restricted mean: the
    area under the Kaplan-Meier curve. The margin is the fraction `compare.margin` of all epochs.
    The targets that either optimizer reaches are a family for Holm's correction; where neither
    does, two arms that fail are not shown to be equivalent.
    """
    curves = np.array([arm[CURVE].tolist() for arm in (adam, lrg_adam)])
    horizon = curves.shape[2] - 1
    rows: list[dict[str, object]] = []
    tested = []
    for target in params.compare.targets:
        below = curves <= target
        reached = below.any(axis=2)
        epochs = np.where(reached, below.argmax(axis=2), horizon)
        row: dict[str, object] = {"target_validation_loss_nats": target}
        row["adam_share_reaching"], row["lrg_adam_share_reaching"] = reached.mean(axis=1).tolist()
        row["adam_mean_epochs"], row["lrg_adam_mean_epochs"] = epochs.mean(axis=1).tolist()
        rows.append(row | {"difference_epochs": None})
        if reached.any():
            found = compare_paired(
                epochs[1],
                epochs[0],
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
    both = replicates("adam"), replicates("lrg_adam")
    if not both[0].index.equals(both[1].index):
        raise UserError("metrics: adam.json and lrg_adam.json hold different replicates")
    short, details = of_measures(params, *both)
    files.write_json(Path("metrics/comparison.json"), short)
    # `dvc metrics` does not list tables like these.
    files.write_json(
        Path("metrics/comparison_details.json"),
        {"measures": details, "epochs_to_target": epochs_to_targets(params, *both)},
    )
