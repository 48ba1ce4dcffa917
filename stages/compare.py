"""Compare LRG-Adam with Adam on the outcomes of paired replicates."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
from pathlib import Path

import numpy as np
import pandas as pd

from experiment import files, versions
from experiment.errors import UserError
from experiment.params import read_params
from experiment.randomness import stream
from experiment.statistics import compare_paired

READS = ("seed", "compare.margin")
LOWER_IS_BETTER = {
    "test_loss": True,
    "test_accuracy": False,
    "best_validation_loss": True,
    "train_loss": True,
}


def read_outcomes(optimizer: str) -> pd.DataFrame:
    """The outcomes of an optimizer's replicates, a row each."""
    path = Path(f"metrics/replicates/{optimizer}.csv")
    table = files.read_csv(path, "replicate", *LOWER_IS_BETTER)
    if len(table) < 2 or not np.isfinite(table).all(axis=None):
        raise UserError(f"{path}: allowed: two replicates or more, all numbers finite")
    return table


def main() -> None:
    """Write metrics/comparison.json."""
    params = read_params(READS)
    adam, lrg_adam = read_outcomes("adam"), read_outcomes("lrg_adam")
    if not adam["replicate"].equals(lrg_adam["replicate"]):
        raise UserError("metrics/replicates: adam.csv and lrg_adam.csv hold other replicates")
    comparison: dict[str, object] = {"pairs": len(adam)}
    for measure, lower_is_better in LOWER_IS_BETTER.items():
        found = compare_paired(
            lrg_adam[measure],
            adam[measure],
            margin=params.compare.margin * adam[measure].mean(),
            lower_is_better=lower_is_better,
            rng=stream(params.seed, "compare", measure),
        )
        comparison[measure] = {
            "adam": float(adam[measure].mean()),
            "lrg_adam": float(lrg_adam[measure].mean()),
            "difference": found.mean_difference,
            "interval_95": [found.low, found.high],
            "verdict": found.verdict,
        }
    files.write_json(Path("metrics/comparison.json"), comparison)


if __name__ == "__main__":
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        main()
