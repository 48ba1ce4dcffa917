"""Follow the argument for filtering link by link, and name the first link that breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiment.report.measures import MEASURES
from experiment.report.statistics import ALPHA, holm
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Data, Params, read_params
from studies.report.tables import compare, looks, outcomes
from studies.training.arms import (
    BASELINE,
    NOISY_BASELINE,
    PUBLISHED,
    ArmConfig,
    Arms,
    read_arms,
    read_data_sets,
    trajectories,
    tuned,
)

PRIMARY = next(iter(MEASURES))
# Verdicts that rule out an improvement by more than the margin.
NO_BETTER = ("worse", "equivalent")
Evidence = dict[str, Any]


class Setting(NamedTuple):
    """A setting of the argument: an arm of Adam, and the studies that compare arms with it."""

    baseline: str
    noise: str
    ranks: str


MAIN = Setting(BASELINE, noise="noise_dial", ranks="rank_sweep")
FLIPPED_LABELS = Setting(NOISY_BASELINE, noise="flipped_labels", ranks="flipped_labels")

NUMBERS = ("difference", "interval_low", "interval_high")
TEXT = ("arm", "label", "against", "measure", "unit", "verdict")


def compared(study: str) -> pd.DataFrame:
    """The comparisons of a study on the primary measure."""
    path = Path(f"metrics/studies/{study}.csv")
    table = files.read_csv(path, *NUMBERS, *TEXT, other=TEXT)
    return table[table["measure"] == PRIMARY]


def against(study: str, baseline: str) -> pd.DataFrame:
    """The comparisons of a study with one arm on the primary measure, by arm."""
    table = compared(study)
    return table[table["against"] == baseline].set_index("arm")


def evidence(difference: float, low: float, high: float, verdict: str) -> Evidence:
    """One comparison: mean difference, 95 % interval, verdict."""
    return {
        "difference_nats": float(difference),
        "interval_95_nats": [float(low), float(high)],
        "verdict": verdict,
    }


def state(holds: bool, refuted: bool) -> str:
    """What the evidence says about a link."""
    return "holds" if holds else "refuted" if refuted else "not shown"


def is_less_noisy(arm: ArmConfig, adam: ArmConfig, data_sets: dict[str, Data]) -> bool:
    """Whether an arm is Adam with less batch or label noise, and otherwise the same."""
    data, adams = (data_sets[one.data] for one in (arm, adam))
    same = ("optimizer", "hyperparameters", "model")
    return (
        all(getattr(arm, name) == getattr(adam, name) for name in same)
        and data.model_copy(update={"flipped": adams.flipped}) == adams
        and arm.noise <= adam.noise
        and data.flipped <= adams.flipped
        and (arm.noise, data.flipped) != (adam.noise, adams.flipped)
    )


def noise_hurts(arms: Arms, setting: Setting) -> Evidence:
    """Compare Adam with less noise to Adam, each at its best learning rate."""
    table = against(setting.noise, setting.baseline)
    adam, data_sets = arms[setting.baseline].train, read_data_sets()
    less = table[[is_less_noisy(arms[arm].train, adam, data_sets) for arm in table.index]]
    if less.empty:
        raise UserError(
            f"{PUBLISHED}: {setting.noise}; allowed: with an arm of adam against "
            f"{setting.baseline} that has less noise, in its batches or labels"
        )
    verdicts = less["verdict"]
    return {
        "state": state((verdicts == "better").any(), verdicts.isin(NO_BETTER).all()),
        "less_noise_minus_adam": {
            arm: evidence(*row[[*NUMBERS, "verdict"]]) for arm, row in less.iterrows()
        },
    }


def along_every_trajectory(table: pd.DataFrame, quantity: str, below: bool) -> Evidence:
    """Whether a quantity of `tables.looks` is beyond zero along every trajectory, at some rank.

    The test is over replicates, each averaged over epochs and batches. A rank has to pass along
    every trajectory, so its p-value is the largest of theirs (an intersection-union test); the
    ranks are a family for Holm's correction. The link is refuted if no rank can pass: each rank is
    on the wrong side of zero along some trajectory, Bonferroni-corrected over trajectories.
    `by_rank` has the mean of every rank along its worst trajectory, with its uncorrected interval.
    """
    table = table[(table["quantity"] == quantity) & (table["epoch"] == "all")]
    scored = table.assign(score=table["mean"] * (-1 if below else 1))
    # Without any variation, a mean is no evidence.
    p_value = scored["p_value_uncorrected"].fillna(1)
    right = p_value.where(scored["score"] > 0, 1).groupby(scored["rank"]).max()
    right[:] = holm(right)
    wrong = p_value.where(scored["score"] < 0, 1).groupby(scored["rank"]).min()
    wrong *= scored["trajectory"].nunique()
    holds = right <= ALPHA
    worst = scored.loc[scored.groupby("rank")["score"].idxmin()]
    return {
        "state": state(holds.any(), (wrong <= ALPHA).all()),
        "ranks": [int(rank) for rank in holds.index[holds]],
        "by_rank": {
            int(row.rank): {
                "trajectory": row.trajectory,
                f"mean_{row.unit}": float(row.mean),
                f"interval_95_{row.unit}": [float(row.low), float(row.high)],
                "p_value_holm": float(right[row.rank]),
            }
            for row in worst.itertuples()
        },
    }


def ranks_below_full(arms: Arms, setting: Setting) -> dict[str, int]:
    """The ranks below full rank that are compared with the baseline, by arm."""
    ranks = {
        name: arm.train.hyperparameters["rank"]
        for name, arm in arms.items()
        if arm.study == setting.ranks
        and setting.baseline in arm.against
        and arm.train.optimizer == "lrg_adam"
    }
    return {name: rank for name, rank in ranks.items() if rank < tuned(name)["matrix_side"]}


def it_pays(params: Params, arms: Arms, setting: Setting) -> Evidence:
    """Compare Adam with the rank that has the lowest validation loss in tuning.

    Only this rank's test losses are used, so its verdict is not corrected for a family.
    """
    ranks = ranks_below_full(arms, setting)
    if not ranks:
        raise UserError(f"{PUBLISHED}: {setting.ranks}; allowed: with a rank short of the full one")
    losses = {name: tuned(name)["validation_loss_nats"] for name in ranks}
    chosen = min(losses, key=losses.__getitem__)
    both = {name: outcomes(name) for name in (chosen, setting.baseline)}
    found = compare(params, chosen, setting.baseline, PRIMARY, both)
    better = found.verdict == "better"
    return {
        "state": state(better, found.verdict in NO_BETTER),
        "ranks": [ranks[chosen]] if better else [],
        "rank_chosen_on_validation": ranks[chosen],
        "validation_loss_nats": float(losses[chosen]),
        **evidence(found.mean_difference, found.low, found.high, found.verdict),
    }


def first_broken_link(chain: dict[str, Evidence]) -> str | None:
    """The first link not shown to hold at any rank at which all links before it hold."""
    ranks: set[int] | None = None
    for name, link in chain.items():
        if "ranks" in link:
            ranks = set(link["ranks"]) if ranks is None else ranks & set(link["ranks"])
        if link["state"] != "holds" or ranks == set():
            return name
    return None


def ranks_by_verdict(arms: Arms, setting: Setting) -> dict[str, list[int]]:
    """The ranks by their corrected verdicts against Adam on the primary measure."""
    table = against(setting.ranks, setting.baseline)
    found: dict[str, list[int]] = {
        verdict: [] for verdict in ("better", "equivalent", "inconclusive", "worse")
    }
    for arm, verdict in table["verdict"].items():
        if arms[arm].train.optimizer == "lrg_adam":
            found[verdict].append(arms[arm].train.hyperparameters["rank"])
    return found


def verdicts(study: str) -> dict[str, str]:
    """Verdicts of a study on the primary measure, by arm and the arm it is compared with."""
    table = compared(study)
    return {f"{row.arm} against {row.against}": row.verdict for row in table.itertuples()}


def argument(params: Params, arms: Arms, setting: Setting) -> Evidence:
    """The links of the argument in one setting, and the first that breaks."""
    found = looks(trajectories(arms, setting.baseline))
    chain = {
        "noise hurts": noise_hurts(arms, setting),
        "the top subspace is cleaner": {
            **along_every_trajectory(found, "cosine_fresh", below=False),
            "with_all_training_samples": along_every_trajectory(found, "cosine_train", below=False),
        },
        "cleaner survives Adam": {
            **along_every_trajectory(found, "step_loss_fresh", below=True),
            "on_training_samples": along_every_trajectory(found, "step_loss_train", below=True),
            "in_cosine": along_every_trajectory(found, "step_cosine", below=False),
        },
        "it pays": it_pays(params, arms, setting),
    }
    return {
        "first_broken_link": first_broken_link(chain),
        "links": chain,
        "ranks_by_verdict": ranks_by_verdict(arms, setting),
    }


def main() -> None:
    """Write metrics/conclusion.json."""
    params = read_params()
    arms = read_arms()
    published = files.read_json(Path("metrics/studies/published.json"))
    searches = files.read_json(Path("metrics/studies/search_budget.json"))
    content = {
        **argument(params, arms, MAIN),
        "with_flipped_labels": argument(params, arms, FLIPPED_LABELS),
        "lr_on_boundary": sorted(arm for arm in arms if tuned(arm)["on_boundary"]),
        **{
            study: verdicts(study)
            for study in dict.fromkeys(arm.study for arm in arms.values())
            if study != MAIN.ranks
        },
        "search_budget": {
            trials: {
                name: row[name]
                for name in (
                    "difference",
                    "difference_low",
                    "difference_high",
                    "lrg_adam_lower_share",
                )
            }
            for trials, row in searches.items()
        },
        "published_protocol": {
            samples: {
                f"{outcome}_lrg_adam_lower_share": row[f"{outcome}_lrg_adam_lower_share"]
                for outcome in ("last_loss_nats", "best_loss_nats", "last_accuracy_share")
            }
            for samples, row in published.items()
        },
    }
    files.write_json(Path("metrics/conclusion.json"), content)
