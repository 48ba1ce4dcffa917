"""Follow the argument for filtering link by link, and name the first link that breaks.

One rule decides about every link: it holds if its effect is shown in the direction that the
argument needs, it is refuted if the opposite direction is shown, and otherwise it is not shown.
Shown means that a test rejects at 5 %, corrected for its family, and that the interval of a loss
excludes zero. How large an effect is, and whether it is below the margin, stands beside it. A link
that can rest on several arms or ranks holds if one of them does, and is refuted if all are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiment.report.measures import PRIMARY
from experiment.report.statistics import ALPHA, holm
from experiment.stage import files
from experiment.stage.params import Data, Params, read_params
from studies.report.tables import compare, gradient_tables, read_comparisons
from studies.training.arms import (
    BASELINE,
    NOISY_BASELINE,
    ArmConfig,
    Arms,
    read_arms,
    read_data_sets,
    trajectories,
    tuned,
)

Evidence = dict[str, Any]


class Case(NamedTuple):
    """A setting of the argument: an arm of Adam, and the studies that compare arms with it."""

    baseline: str
    noise: str
    ranks: str


MAIN = Case(BASELINE, noise="noise_dial", ranks="rank_sweep")
NOISIER = {
    "with_flipped_labels": Case(NOISY_BASELINE, noise="flipped_labels", ranks="flipped_labels"),
    "with_twice_the_batch_noise": Case("noise_double", noise="noise_dial", ranks="batch_noise"),
}


def state(shown: int, needed: int) -> str:
    """What the sign that is shown, or 0, says about an effect that needs one."""
    return {needed: "holds", -needed: "refuted"}.get(shown, "not shown")


def together(effects: Mapping[Any, Evidence]) -> str:
    """The state of a link that holds if one of several effects does."""
    states = {one["state"] for one in effects.values()}
    if not states:
        return "not measured"
    if "holds" in states:
        return "holds"
    return "refuted" if states == {"refuted"} else "not shown"


def evidence(difference: float, low: float, high: float, p_value: float, verdict: str) -> Evidence:
    """A loss that the argument needs to be lower: its mean difference with the 95 % interval.

    `verdict` tells whether it is below the margin: `equivalent`.
    """
    shown = 0 if p_value > ALPHA else (low > 0) - (high < 0)
    return {
        "state": state(shown, -1),
        "difference_nats": float(difference),
        "interval_95_nats": [float(low), float(high)],
        "verdict": verdict,
    }


def less_noise(arm: ArmConfig, adam: ArmConfig, data_sets: dict[str, Data]) -> str | None:
    """The noise that an arm has less of than Adam, if it differs in nothing else."""
    of_training = {"lrs", "finest_ratio", "tuning_replicates", "replicates", "group"}
    same = arm.model_copy(update={"noise": adam.noise, "data": adam.data})
    if same.model_dump(exclude=of_training) != adam.model_dump(exclude=of_training):
        return None
    flipped = data_sets[arm.data].flipped - data_sets[adam.data].flipped
    if flipped == 0 and arm.noise < adam.noise:
        return "noise of batches"
    return "wrong labels" if flipped < 0 and arm.noise == adam.noise else None


def noise_hurts(arms: Arms, case: Case) -> Evidence:
    """Compare Adam with less noise to Adam, each at its best learning rate."""
    adam, data_sets = arms[case.baseline].train, read_data_sets()
    table = read_comparisons(Path(f"metrics/studies/{case.noise}.csv"))
    found = {}
    for row in table[table["measure"] == PRIMARY].itertuples():
        numbers = (row.difference, row.interval_low, row.interval_high)
        if row.against == case.baseline:
            name, verdict = row.arm, row.verdict
        elif row.arm == case.baseline:  # the comparison is mirrored
            name = row.against
            numbers = (-row.difference, -row.interval_high, -row.interval_low)
            verdict = {"better": "worse", "worse": "better"}.get(row.verdict, row.verdict)
        else:
            continue
        if kind := less_noise(arms[name].train, adam, data_sets):
            found[name] = {"less": kind, **evidence(*numbers, row.p_value, verdict)}
    return {"state": together(found), "less_noise_minus_adam": found}


def along_every_trajectory(table: pd.DataFrame, quantity: str, needed: int) -> Evidence:
    """Whether a quantity of `gradient_tables` has the needed sign along every trajectory.

    The test is over replicates, each averaged over epochs and batches. A rank has to pass along
    every trajectory, so its p-value is the largest of theirs (an intersection-union test); the
    ranks are a family for Holm's correction. `by_rank` has the mean along each trajectory with its
    uncorrected interval, and the epochs after which that epoch's own interval is above or below
    zero: an average can hide a change of sign.
    """
    rows = table[table["quantity"] == quantity]
    means = rows[rows["epoch"] == "all"]
    # Without any variation, a mean is no evidence.
    p_value = means["p_value_uncorrected"].fillna(1)
    shown = pd.Series(0, sorted(set(means["rank"])))
    for sign in (1, -1):
        largest = p_value.where(sign * means["mean"] > 0, 1).groupby(means["rank"]).max()
        shown += sign * (holm(largest) <= ALPHA)
    by_rank: dict[int, Evidence] = {}
    for (rank, trajectory), part in rows.groupby(["rank", "trajectory"], sort=False):
        single = part[part["epoch"] != "all"]
        mean = part[part["epoch"] == "all"].iloc[0]
        here = by_rank.setdefault(int(rank), {"state": state(shown[rank], needed), "along": {}})
        here["along"][trajectory] = {
            f"mean_{mean['unit']}": float(mean["mean"]),
            f"interval_95_{mean['unit']}": [float(mean["low"]), float(mean["high"])],
            "above_zero_after_epochs": [int(one) for one in single["epoch"][single["low"] > 0]],
            "below_zero_after_epochs": [int(one) for one in single["epoch"][single["high"] < 0]],
        }
    return {
        "state": together(by_rank),
        "ranks": [rank for rank, one in by_rank.items() if one["state"] == "holds"],
        "by_rank": by_rank,
    }


def it_pays(params: Params, arms: Arms, case: Case) -> Evidence:
    """Compare Adam with the rank below full rank that has the lowest validation loss in tuning.

    Only this rank's test losses are used, so its verdict is not corrected for a family.
    """
    losses = {
        name: tuned(name)["validation_loss_nats"]
        for name, arm in arms.items()
        if (arm.study, arm.train.optimizer) == (case.ranks, "lrg_adam")
        and case.baseline in arm.against
        and arm.train.hyperparameters["rank"] < tuned(name)["matrix_side"]
    }
    if not losses:
        return {"state": "not measured"}
    chosen = min(losses, key=losses.__getitem__)
    rank = arms[chosen].train.hyperparameters["rank"]
    found = compare(params, chosen, case.baseline, PRIMARY)
    link = evidence(found.mean_difference, found.low, found.high, found.p_value, found.verdict)
    return link | {
        "ranks": [rank] if link["state"] == "holds" else [],
        "rank_chosen_on_validation": rank,
        "validation_loss_nats": float(losses[chosen]),
    }


def first_broken_link(chain: dict[str, Evidence]) -> str | None:
    """The first link not shown to hold at any rank at which all links before it hold.

    Links that were not measured are passed over.
    """
    ranks: set[int] | None = None
    for name, link in chain.items():
        if link["state"] == "not measured":
            continue
        if "ranks" in link:
            ranks = set(link["ranks"]) if ranks is None else ranks & set(link["ranks"])
        if link["state"] != "holds" or ranks == set():
            return name
    return None


def argument(params: Params, arms: Arms, case: Case) -> Evidence:
    """The links of the argument in one setting, and the first that breaks."""
    along = gradient_tables(trajectories(arms, case.baseline))
    chain = {
        "noise hurts": noise_hurts(arms, case),
        "the top subspace is cleaner": {
            **along_every_trajectory(along, "cosine_fresh", 1),
            "with_all_training_samples": along_every_trajectory(along, "cosine_train", 1),
        },
        "cleaner survives Adam": {
            **along_every_trajectory(along, "step_loss_fresh", -1),
            "on_training_samples": along_every_trajectory(along, "step_loss_train", -1),
        },
        "it pays": it_pays(params, arms, case),
    }
    return {"first_broken_link": first_broken_link(chain), "links": chain}


def main() -> None:
    """Write metrics/conclusion.json."""
    params = read_params()
    arms = read_arms()
    noisier = {
        name: argument(params, arms, case)
        for name, case in NOISIER.items()
        if any(arm.study == case.ranks for arm in arms.values())
    }
    files.write_json(Path("metrics/conclusion.json"), {**argument(params, arms, MAIN), **noisier})
