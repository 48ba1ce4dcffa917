"""How much an effect of the filter differs between two settings, or from that of another change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from experiment.report.measures import PRIMARY
from experiment.report.statistics import compare_paired, correct_family
from experiment.stage import files
from experiment.stage.params import Params, read_params
from experiment.stage.randomness import stream
from studies.report.tables import final_replicates

# Each effect is a pair of arms, the first minus the second; a contrast is the first effect minus
# the second.
CONTRASTS = {
    "shuffled pixels, on rank 20's deficit": (
        ("shuffled_rank_20", "shuffled_adam"),
        ("rank_20", "adam"),
    ),
    "20 % wrong labels, on rank 20's deficit": (
        ("flipped_rank_20", "flipped_adam"),
        ("rank_20", "adam"),
    ),
    "rank 20's deficit, beyond RMSprop's": (("rank_20", "adam"), ("yardstick_rmsprop", "adam")),
}


def contrasts(params: Params) -> pd.DataFrame:
    """One row per contrast on the primary measure, over the replicates that all its arms have.

    The margin is a share of the mean of Adam in the second effect. The contrasts are a family for
    Holm's correction: `p_value`, `equivalence_p_value` and `verdict` are corrected.
    """
    single = []
    for name, pairs in CONTRASTS.items():
        arms = dict.fromkeys(arm for pair in pairs for arm in pair)
        table = pd.concat(
            {arm: final_replicates(arm)[PRIMARY] for arm in arms}, axis=1, join="inner"
        )
        effects = [table[arm] - table[base] for arm, base in pairs]
        single.append(
            compare_paired(
                *effects,
                margin=params.compare.margin * table[pairs[1][1]].mean(),
                rng=stream(params.seed, "studies, contrasts", name),
            )
        )
    rows = []
    for (name, pairs), found in zip(CONTRASTS.items(), correct_family(single), strict=True):
        first, second = (f"{arm} minus {base}" for arm, base in pairs)
        row = {"contrast": name, "effect": first, "minus_effect": second, "measure": PRIMARY}
        rows.append(row | asdict(found) | {"verdict": found.verdict})
    names = {"mean_difference": "difference", "low": "interval_low", "high": "interval_high"}
    return pd.DataFrame(rows).rename(columns=names)


def main() -> None:
    """Write metrics/studies/contrasts.csv."""
    files.write_csv(Path("metrics/studies/contrasts.csv"), contrasts(read_params()))
