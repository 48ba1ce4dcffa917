"""Compare LRG-Adam with Adam on the outcomes of paired replicates."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from experiment import files, versions
from experiment.errors import UserError
from experiment.params import Params, read_params
from experiment.randomness import stream
from experiment.statistics import (
    Comparison,
    compare_epochs_to_target,
    compare_paired,
    correct_family,
)

READS = ("seed", "compare.margin", "compare.targets")
LOWER_IS_BETTER = {
    "test_loss_nats": True,
    "test_accuracy_share": False,
    "best_validation_loss_nats": True,
    "train_loss_nats": True,
}


def read_both(suffix: str, *columns: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of both optimizers' replicates, Adam's first."""
    tables = []
    for optimizer in ("adam", "lrg_adam"):
        path = Path(f"metrics/replicates/{optimizer}{suffix}.csv")
        table = files.read_csv(path, "replicate", *columns)
        if table["replicate"].nunique() < 2 or not np.isfinite(table).all(axis=None):
            raise UserError(f"{path}: allowed: two replicates or more, all numbers finite")
        tables.append(table.set_index("replicate"))
    if not tables[0].index.equals(tables[1].index):
        raise UserError(
            f"metrics/replicates: adam{suffix}.csv and lrg_adam{suffix}.csv hold other replicates"
        )
    return tables[0], tables[1]


def statistics(found: Comparison) -> dict[str, object]:
    """All that one comparison found; what is not defined is null."""
    values = asdict(found) | {"verdict": found.verdict}
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in values.items()
    }


def with_holm(alone: Comparison, corrected: Comparison) -> dict[str, object]:
    """All that one comparison found, alone and as one of its family."""
    return statistics(alone) | {
        "p_value_holm": corrected.p_value,
        "equivalence_p_value_holm": corrected.equivalence_p_value,
        "verdict_holm": corrected.verdict,
    }


def outcomes(params: Params) -> tuple[dict[str, object], dict[str, object]]:
    """The comparison of every measure, in short and with all its statistics.

    The verdicts in short are Holm-corrected: the measures are one family.
    """
    adam, lrg_adam = read_both("", *LOWER_IS_BETTER)
    single = [
        compare_paired(
            lrg_adam[measure],
            adam[measure],
            margin=params.compare.margin * adam[measure].mean(),
            lower_is_better=lower_is_better,
            rng=stream(params.seed, "compare", measure),
        )
        for measure, lower_is_better in LOWER_IS_BETTER.items()
    ]
    short: dict[str, object] = {"pairs": len(adam)}
    details: dict[str, object] = {}
    for measure, alone, corrected in zip(
        LOWER_IS_BETTER, single, correct_family(single), strict=True
    ):
        short[measure] = {
            "adam": float(adam[measure].mean()),
            "lrg_adam": float(lrg_adam[measure].mean()),
            "difference": alone.mean_difference,
            "interval_95": [alone.low, alone.high],
            "verdict": corrected.verdict,
        }
        details[measure] = with_holm(alone, corrected)
    return short, details


def epochs_to_targets(params: Params) -> list[dict[str, object]]:
    """How soon both reach each target; the margin is the same share, of all epochs.

    The targets that either reaches are one family, Holm-corrected as the measures are.
    """
    adam, lrg_adam = (
        table.pivot(columns="epoch", values="validation_loss_nats").to_numpy()
        for table in read_both("_validation_loss", "epoch", "validation_loss_nats")
    )
    every = [
        compare_epochs_to_target(
            lrg_adam,
            adam,
            target,
            margin=params.compare.margin * (adam.shape[1] - 1),
            rng=stream(params.seed, "compare", f"epochs to {target}"),
        )
        for target in params.compare.targets
    ]
    corrected = iter(correct_family([found.epochs for found in every if found.epochs]))
    return [
        {
            "target_validation_loss_nats": found.target,
            "adam_share_reaching": found.baseline_reached,
            "lrg_adam_share_reaching": found.treatment_reached,
            "adam_mean_epochs": found.baseline_mean,
            "lrg_adam_mean_epochs": found.treatment_mean,
            "difference_epochs": found.epochs and with_holm(found.epochs, next(corrected)),
        }
        for found in every
    ]


def main() -> None:
    """Write metrics/comparison.json and metrics/comparison_details.json."""
    params = read_params(READS)
    short, details = outcomes(params)
    details["epochs_to_target"] = epochs_to_targets(params)
    files.write_json(Path("metrics/comparison.json"), short)
    files.write_json(Path("metrics/comparison_details.json"), details)


if __name__ == "__main__":
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        main()
