"""Follow the argument for filtering link by link, and name the first link that breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiment.report.measures import MEASURES
from experiment.report.statistics import ALPHA, holm
from experiment.stage import files
from experiment.stage.errors import UserError
from studies.report.tables import looks
from studies.training.arms import BASELINE, PUBLISHED, Arms, read_arms, trajectories, tuned

PRIMARY = next(iter(MEASURES))
# Verdicts that rule out that an arm is better by more than the margin.
NO_BETTER = ("worse", "equivalent")
Evidence = dict[str, Any]

NUMBERS = ("difference", "interval_low", "interval_high")
TEXT = ("arm", "label", "against", "measure", "unit", "verdict")


def compared(study: str, *columns: str) -> pd.DataFrame:
    """The comparisons of a study in the primary measure, with the further `columns`."""
    path = Path(f"metrics/studies/{study}.csv")
    table = files.read_csv(path, *NUMBERS, *columns, *TEXT, other=TEXT)
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


def state(holds: bool, refuted: bool) -> str:
    """What the evidence says about a link."""
    return "holds" if holds else "refuted" if refuted else "not shown"


def noise_hurts(arms: Arms) -> Evidence:
    """Compare Adam on less noise than batches have with Adam, each at its best learning rate."""
    table = against_adam("noise_dial").set_index("arm")
    less = table[[arms[arm].train.noise < 1 for arm in table.index]]
    if less.empty:
        raise UserError(
            f"{PUBLISHED}: noise_dial; allowed: with an arm against "
            f"{BASELINE}, whose noise is below 1"
        )
    verdicts = less["verdict"]
    return {
        "state": state((verdicts == "better").any(), verdicts.isin(NO_BETTER).all()),
        "less_noise_minus_adam": {arm: difference(row) for arm, row in less.iterrows()},
    }


def along_every_trajectory(table: pd.DataFrame, quantity: str, below: bool) -> Evidence:
    """Whether a quantity of `tables.looks` is beyond zero along every trajectory, at any rank.

    The test is over replicates, each averaged over epochs and batches. A mean over epochs may be
    beyond zero when those of some epochs are not, see `mean_by_epoch`. A rank has to pass along
    every trajectory, so its p-value is the largest of theirs (an intersection-union test); the
    ranks are a family for Holm's correction. The link is refuted if no rank can pass: each rank is
    on the wrong side of zero along some trajectory, and the trajectories are the family. `closest`
    is the rank with the best mean along its worst trajectory, among the ranks that pass or else
    among all. Its interval is that of this one mean.
    """
    every = table[table["quantity"] == quantity]
    table = every[every["epoch"] == "all"]
    scored = table.assign(score=table["mean"] * (-1 if below else 1))
    # Where nothing varies, a mean is no evidence at all.
    p_value = scored["p_value_uncorrected"].fillna(1)
    right = p_value.where(scored["score"] > 0, 1).groupby(scored["rank"]).max()
    right[:] = holm(right)
    wrong = p_value.where(scored["score"] < 0, 1).groupby(scored["rank"]).min()
    wrong *= scored["trajectory"].nunique()
    holds = right <= ALPHA
    worst = scored.loc[scored.groupby("rank")["score"].idxmin()].set_index("rank", drop=False)
    closest = worst.loc[worst.loc[holds if holds.any() else slice(None), "score"].idxmax()]
    by_epoch = every[
        (every["rank"] == closest["rank"])
        & (every["trajectory"] == closest["trajectory"])
        & (every["epoch"] != "all")
    ]
    return {
        "state": state(holds.any(), (wrong <= ALPHA).all()),
        "ranks": [int(rank) for rank in holds.index[holds]],
        "closest": {
            "rank": int(closest["rank"]),
            "trajectory": closest["trajectory"],
            f"mean_{closest['unit']}": float(closest["mean"]),
            f"interval_95_{closest['unit']}": [float(closest["low"]), float(closest["high"])],
            "p_value_holm": float(right[closest["rank"]]),
            f"mean_by_epoch_{closest['unit']}": dict(
                zip(by_epoch["epoch"], by_epoch["mean"].tolist(), strict=True)
            ),
        },
    }


def it_pays() -> Evidence:
    """Compare the rank below the full one that has the lowest test loss with Adam."""
    table = against_adam("rank_sweep", "rank", "matrix_side")
    table = table[table["rank"] < table["matrix_side"]]
    if table.empty:
        raise UserError(f"{PUBLISHED}: rank_sweep; allowed: with a rank short of the full one")
    best = table.loc[table["difference"].idxmin()]
    better = table.loc[table["verdict"] == "better", "rank"]
    return {
        "state": state(len(better) > 0, table["verdict"].isin(NO_BETTER).all()),
        "ranks": [int(rank) for rank in better],
        "closest": {"rank": int(best["rank"]), **difference(best)},
    }


def first_broken_link(chain: dict[str, Evidence]) -> str | None:
    """The first link that is not shown to hold at a rank at which all links before it hold."""
    ranks: set[int] | None = None
    for name, link in chain.items():
        if "ranks" in link:
            ranks = set(link["ranks"]) if ranks is None else ranks & set(link["ranks"])
        if link["state"] != "holds" or ranks == set():
            return name
    return None


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
    arms = read_arms()
    found = looks(trajectories())
    chain = {
        "noise hurts": noise_hurts(arms),
        "the top subspace is cleaner": {
            **along_every_trajectory(found, "cosine_fresh", below=False),
            "with_all_training_samples": along_every_trajectory(found, "cosine_train", below=False),
        },
        "cleaner survives Adam": {
            **along_every_trajectory(found, "step_loss_fresh", below=True),
            "on_training_samples": along_every_trajectory(found, "step_loss_train", below=True),
            "in_cosine": along_every_trajectory(found, "step_cosine", below=False),
        },
        "it pays": it_pays(),
    }
    published = files.read_json(Path("metrics/studies/published.json"))
    content = {
        "first_broken_link": first_broken_link(chain),
        "links": chain,
        "lr_on_boundary": sorted(arm for arm in arms if tuned(arm)["on_boundary"]),
        "ranks": ranks_by_verdict(),
        "noise_dial": verdicts("noise_dial"),
        "controls": verdicts("controls"),
        "elsewhere": verdicts("elsewhere"),
        "approximate": verdicts("approximate"),
        "published_protocol": {
            samples: {
                f"{outcome}_lrg_adam_lower_share": row[f"{outcome}_lrg_adam_lower_share"]
                for outcome in ("last_loss_nats", "best_loss_nats", "last_accuracy_share")
            }
            for samples, row in published.items()
        },
    }
    files.write_json(Path("metrics/conclusion.json"), content)
