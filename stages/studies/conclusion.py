"""Follow the argument for filtering link by link, and name the first link that breaks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiment import files
from experiment.params import read_params
from experiment.statistics import ALPHA, holm
from studies import BASELINE
from studies.tables import looks

READS = ("studies.gradients.trajectories",)
PRIMARY = "test_loss_nats"
Evidence = dict[str, object]


NUMBERS = ("difference", "interval_low", "interval_high")
TEXT = ("arm", "label", "against", "measure", "unit", "verdict")


def compared(study: str, *columns: str) -> pd.DataFrame:
    """The comparisons of a study in the primary measure, with the further `columns`."""
    path = Path(f"metrics/studies/{study}.csv")
    table = files.read_csv(path, *NUMBERS, *columns, *TEXT, text=TEXT)
    return table[table["measure"] == PRIMARY]


def against_adam(study: str, *columns: str) -> pd.DataFrame:
    """The comparisons of a study with Adam in the primary measure."""
    table = compared(study, *columns)
    return table[table["against"] == BASELINE]


def difference(row: pd.Series) -> Evidence:
    """One comparison: mean difference, 95 % interval, verdict."""
    return {
        "difference_nats": float(row["difference"]),
        "interval_95_nats": [float(row["interval_low"]), float(row["interval_high"])],
        "verdict": row["verdict"],
    }


def noise_hurts() -> Evidence:
    """Adam without the noise of batches against Adam, each at its best learning rate."""
    table = against_adam("noise_dial")
    row = table[table["arm"] == "noise_0"].iloc[0]
    return {"holds": bool(row["verdict"] == "better"), "no_noise_minus_adam": difference(row)}


def along_every_trajectory(table: pd.DataFrame, quantity: str, below: bool) -> Evidence:
    """Ranks at which a quantity of `tables.looks` is beyond zero along every trajectory.

    The test is over replicates, each averaged over epochs and batches. A rank has to pass along
    every trajectory, so its p-value is the largest of theirs (an intersection-union test); the
    ranks are the family, Holm-corrected. `closest` is the rank that is nearest to it: with the best
    mean in the trajectory that is worst for it. Its interval is that of this one mean.
    """
    table = table[(table["quantity"] == quantity) & (table["epoch"] == "all")]
    sign = -1 if below else 1
    scored = table.assign(score=sign * table["mean"])
    # On the wrong side of zero, or where nothing varies, a mean is no evidence at all.
    scored["p_value"] = scored["p_value"].where(scored["score"] > 0, 1).fillna(1)
    worst = scored.loc[scored.groupby("rank")["score"].idxmin()]
    closest = worst.loc[worst["score"].idxmax()]
    p_values = scored.groupby("rank")["p_value"].max()
    p_values[:] = holm(p_values)
    holds = p_values <= ALPHA
    return {
        "holds": bool(holds.any()),
        "ranks": [int(rank) for rank in holds.index[holds]],
        "closest": {
            "rank": int(closest["rank"]),
            "trajectory": closest["trajectory"],
            f"mean_{closest['unit']}": float(closest["mean"]),
            f"interval_95_{closest['unit']}": [float(closest["low"]), float(closest["high"])],
            "p_value_holm": float(p_values[closest["rank"]]),
        },
    }


def it_pays() -> Evidence:
    """The rank with the lowest test loss short of the full one, against Adam."""
    table = against_adam("rank_sweep", "rank")
    table = table[table["difference"] != 0]
    best = table.loc[table["difference"].idxmin()]
    better = table.loc[table["verdict"] == "better", "rank"]
    return {
        "holds": len(better) > 0,
        "ranks": [int(rank) for rank in better],
        "closest": {"rank": int(best["rank"]), **difference(best)},
    }


def ranks_by_verdict() -> dict[str, list[int]]:
    """The ranks of the sweep by their verdict against Adam in the primary measure."""
    table = against_adam("rank_sweep", "rank")
    verdicts = ("better", "equivalent", "inconclusive", "worse")
    return {
        verdict: [int(rank) for rank in table.loc[table["verdict"] == verdict, "rank"]]
        for verdict in verdicts
    }


def verdicts(study: str) -> dict[str, str]:
    """Verdicts of a study in the primary measure, by arm and the arm it is compared with."""
    table = compared(study)
    return {f"{row.arm} against {row.against}": row.verdict for row in table.itertuples()}


def main() -> None:
    """Write metrics/conclusion.json."""
    found = looks(read_params(READS).studies.gradients.trajectories)
    chain = {
        "noise hurts": noise_hurts(),
        "the top subspace is cleaner": along_every_trajectory(found, "cosine_fresh", below=False),
        "cleaner survives Adam": along_every_trajectory(found, "step_loss", below=True),
        "it pays": it_pays(),
    }
    published = files.read_json(Path("metrics/studies/published.json"))
    content = {
        "first_broken_link": next(
            (name for name, link in chain.items() if not link["holds"]), None
        ),
        "links": chain,
        "ranks": ranks_by_verdict(),
        "controls": verdicts("controls"),
        "elsewhere": verdicts("elsewhere"),
        "approximate": verdicts("approximate"),
        "published_protocol": {
            samples: {
                f"{outcome}_lrg_adam_lower_share": row[f"{outcome}_lrg_adam_lower_share"]
                for outcome in ("last_loss_nats", "best_loss_nats")
            }
            for samples, row in published.items()
        },
    }
    files.write_json(Path("metrics/conclusion.json"), content)
