"""How much an effect of the filter differs between two settings, or from that of another change."""

from pathlib import Path

import pandas as pd

from experiment.report.measures import PRIMARY
from experiment.report.statistics import compare_paired, correct_family
from experiment.stage import files
from experiment.stage.params import Params, read_params
from experiment.stage.randomness import stream
from studies.report.tables import final_replicates, statistics
from studies.training.arms import read_arms

# Each effect is a pair of arms, the first minus the second; a contrast is the first effect minus
# the second.
DEFICIT = ("rank_20", "adam")
CONTRASTS = {
    "shuffled pixels, on rank 20's deficit": (("shuffled_rank_20", "shuffled_adam"), DEFICIT),
    "20 % wrong labels, on rank 20's deficit": (("flipped_rank_20", "flipped_adam"), DEFICIT),
    "twice the noise of batches, on rank 20's deficit": (
        ("double_rank_20", "noise_double"),
        DEFICIT,
    ),
    "rank 20's deficit, beyond RMSprop's": (DEFICIT, ("yardstick_rmsprop", "adam")),
}


def contrasts(params: Params) -> pd.DataFrame:
    """One row per contrast of known arms on the primary measure, over their common replicates.

    The margin is a share of the mean of Adam in the second effect. The contrasts are a family for
    Holm's correction: `p_value`, `equivalence_p_value` and `verdict` are corrected.
    """
    known = read_arms()
    named, single = [], []
    for name, (effect, other) in CONTRASTS.items():
        if not {*effect, *other} <= known.keys():
            continue
        table = pd.DataFrame({arm: final_replicates(arm)[PRIMARY] for arm in (*effect, *other)})
        table = table.dropna()
        first, second = (table[arm] - table[base] for arm, base in (effect, other))
        margin = params.compare.margin * table[other[1]].mean()
        rng = stream(params.seed, "studies, contrasts", name)
        single.append(compare_paired(first, second, margin=margin, rng=rng))
        pair = {"effect": " minus ".join(effect), "minus_effect": " minus ".join(other)}
        named.append({"contrast": name, **pair, "measure": PRIMARY})
    every = zip(named, single, correct_family(single), strict=True)
    return pd.DataFrame(row | statistics(alone, one) for row, alone, one in every)


def main() -> None:
    """Write metrics/studies/contrasts.csv."""
    files.write_csv(Path("metrics/studies/contrasts.csv"), contrasts(read_params()))
