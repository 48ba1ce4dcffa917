"""Follow the argument for filtering link by link, and name the first link that breaks.

One rule decides about every link: it holds if its effect is shown in the direction that the
argument needs, it is refuted if the opposite direction is shown, and otherwise it is not shown.
Shown means that a test rejects at 5 %, corrected for its family, and that the interval of a loss
excludes zero. How large an effect is, and whether it is below the margin, stands beside it. A link
that can rest on several arms or ranks holds if one of them does, and is refuted if all are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiment.report.measures import PRIMARY
from experiment.report.statistics import ALPHA, holm
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Data, Params, read_params
from studies.report.tables import (
    compare,
    final_replicates,
    gradient_tables,
    of_measure,
    read_comparisons,
)
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

NUMBERS = ["difference", "interval_low", "interval_high", "p_value"]
OPPOSITE = {"better": "worse", "worse": "better"}


def compared(study: str) -> pd.DataFrame:
    """The comparisons of a study on the primary measure."""
    return of_measure(read_comparisons(Path(f"metrics/studies/{study}.csv")), PRIMARY)


def against(study: str, baseline: str) -> pd.DataFrame:
    """The comparisons of a study with one arm on the primary measure, by the other arm.

    A comparison of that arm with another one is mirrored.
    """
    table = compared(study)
    mirrored = table[table["arm"] == baseline]
    mirrored = mirrored.assign(
        arm=mirrored["against"],
        difference=-mirrored["difference"],
        interval_low=-mirrored["interval_high"],
        interval_high=-mirrored["interval_low"],
        verdict=mirrored["verdict"].replace(OPPOSITE),
    )
    return pd.concat([table[table["against"] == baseline], mirrored]).set_index("arm")


def direction(p_value: float, low: float, high: float) -> int:
    """The sign of a difference that is shown, or 0."""
    if p_value > ALPHA or low <= 0 <= high:
        return 0
    return 1 if low > 0 else -1


def state(shown: int, needed: int) -> str:
    """What the direction that is shown says about an effect that needs one."""
    return {needed: "holds", -needed: "refuted"}.get(shown, "not shown")


def together(states: Collection[str]) -> str:
    """The state of a link that holds if one of several effects does."""
    if "holds" in states:
        return "holds"
    return "refuted" if set(states) == {"refuted"} else "not shown"


def evidence(difference: float, low: float, high: float, p_value: float, verdict: str) -> Evidence:
    """A loss that the argument needs to be lower: its mean difference with the 95 % interval.

    `verdict` tells whether it is below the margin: `equivalent`.
    """
    return {
        "state": state(direction(p_value, low, high), -1),
        "difference_nats": float(difference),
        "interval_95_nats": [float(low), float(high)],
        "verdict": verdict,
    }


def less_noise(arm: ArmConfig, adam: ArmConfig, data_sets: dict[str, Data]) -> str | None:
    """The noise that an arm has less of than Adam, if it differs in nothing else."""
    of_training = {"lrs", "finest_ratio", "tuning_replicates", "replicates", "group"}
    data, adams = (data_sets[one.data] for one in (arm, adam))
    same = arm.model_copy(update={"noise": adam.noise, "data": adam.data})
    if (
        same.model_dump(exclude=of_training) != adam.model_dump(exclude=of_training)
        or data.model_copy(update={"flipped": adams.flipped}) != adams
    ):
        return None
    change = (arm.noise - adam.noise, data.flipped - adams.flipped)
    if min(change) == 0 or max(change) != 0:
        return None
    return "noise of batches" if change[0] else "wrong labels"


def noise_hurts(arms: Arms, case: Case) -> Evidence:
    """Compare Adam with less noise to Adam, each at its best learning rate, by kind of noise."""
    table = against(case.noise, case.baseline)
    adam, data_sets = arms[case.baseline].train, read_data_sets()
    by_kind: dict[str, dict[str, Evidence]] = {}
    for name, row in table.iterrows():
        if kind := less_noise(arms[name].train, adam, data_sets):
            of_kind = by_kind.setdefault(kind, {})
            of_kind[name] = evidence(*row[[*NUMBERS, "verdict"]])
    if not by_kind:
        raise UserError(
            f"{PUBLISHED}: {case.noise}; allowed: with an arm of adam compared with "
            f"{case.baseline} that has less noise, in its batches or labels"
        )
    states = {
        kind: together([one["state"] for one in found.values()]) for kind, found in by_kind.items()
    }
    return {
        "state": together(states.values()),
        "state_by_kind_of_noise": states,
        "less_noise_minus_adam": {
            name: {"less": kind} | one
            for kind, found in by_kind.items()
            for name, one in found.items()
        },
    }


def along_every_trajectory(table: pd.DataFrame, quantity: str, needed: int) -> Evidence:
    """Whether a quantity of `gradient_tables` has the needed sign along every trajectory.

    The test is over replicates, each averaged over epochs and batches. A rank has to pass along
    every trajectory, so its p-value is the largest of theirs (an intersection-union test); the
    ranks are a family for Holm's correction. `by_rank` has the mean along each trajectory with its
    uncorrected interval, and the epochs after which that epoch's own interval is above or below
    zero: an average can hide a change of sign.
    """
    if table.empty:
        return {"state": "not measured"}
    rows = table[table["quantity"] == quantity]
    means = rows[rows["epoch"] == "all"]
    # Without any variation, a mean is no evidence.
    p_value = means["p_value_uncorrected"].fillna(1)
    shown = {}
    for sign in (1, -1):
        largest = p_value.where(sign * means["mean"] > 0, 1).groupby(means["rank"]).max()
        shown[sign] = pd.Series(holm(largest), largest.index) <= ALPHA
    by_rank: dict[int, Evidence] = {}
    for rank, part in means.groupby("rank"):
        single = rows[(rows["rank"] == rank) & (rows["epoch"] != "all")]
        by_rank[int(rank)] = {
            "state": state(int(shown[1][rank]) - int(shown[-1][rank]), needed),
            "along": {
                row.trajectory: {
                    f"mean_{row.unit}": float(row.mean),
                    f"interval_95_{row.unit}": [float(row.low), float(row.high)],
                    "above_zero_after_epochs": _epochs(single, row.trajectory, single["low"] > 0),
                    "below_zero_after_epochs": _epochs(single, row.trajectory, single["high"] < 0),
                }
                for row in part.itertuples()
            },
        }
    return {
        "state": together([one["state"] for one in by_rank.values()]),
        "ranks": [rank for rank, one in by_rank.items() if one["state"] == "holds"],
        "by_rank": by_rank,
    }


def _epochs(rows: pd.DataFrame, trajectory: str, chosen: pd.Series[bool]) -> list[int]:
    return [int(epoch) for epoch in rows[chosen & (rows["trajectory"] == trajectory)]["epoch"]]


def ranks_below_full(arms: Arms, case: Case) -> dict[str, int]:
    """The ranks below full rank that are compared with the baseline, by arm."""
    ranks = {
        name: arm.train.hyperparameters["rank"]
        for name, arm in arms.items()
        if arm.study == case.ranks
        and case.baseline in arm.against
        and arm.train.optimizer == "lrg_adam"
    }
    return {name: rank for name, rank in ranks.items() if rank < tuned(name)["matrix_side"]}


def it_pays(params: Params, arms: Arms, case: Case) -> Evidence:
    """Compare Adam with the rank that has the lowest validation loss in tuning.

    Only this rank's test losses are used, so its verdict is not corrected for a family.
    """
    ranks = ranks_below_full(arms, case)
    if not ranks:
        raise UserError(f"{PUBLISHED}: {case.ranks}; allowed: with a rank short of the full one")
    losses = {name: tuned(name)["validation_loss_nats"] for name in ranks}
    chosen = min(losses, key=losses.__getitem__)
    both = {name: final_replicates(name) for name in (chosen, case.baseline)}
    found = compare(params, chosen, case.baseline, PRIMARY, both)
    link = evidence(found.mean_difference, found.low, found.high, found.p_value, found.verdict)
    return link | {
        "ranks": [ranks[chosen]] if link["state"] == "holds" else [],
        "rank_chosen_on_validation": ranks[chosen],
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


def ranks_by_verdict(arms: Arms, case: Case) -> dict[str, list[int]]:
    """The ranks by their corrected verdicts against Adam on the primary measure."""
    table = against(case.ranks, case.baseline)
    found: dict[str, list[int]] = {
        verdict: [] for verdict in ("better", "equivalent", "inconclusive", "worse")
    }
    for arm, verdict in table["verdict"].items():
        if arms[arm].train.optimizer == "lrg_adam":
            found[verdict].append(arms[arm].train.hyperparameters["rank"])
    return found


def argument(params: Params, arms: Arms, case: Case) -> Evidence:
    """The links of the argument in one setting, and the first that breaks."""
    along = trajectories(arms, case.baseline)
    found = gradient_tables(along) if along else pd.DataFrame()
    chain = {
        "noise hurts": noise_hurts(arms, case),
        "the top subspace is cleaner": {
            **along_every_trajectory(found, "cosine_fresh", 1),
            "with_all_training_samples": along_every_trajectory(found, "cosine_train", 1),
        },
        "cleaner survives Adam": {
            **along_every_trajectory(found, "step_loss_fresh", -1),
            "on_training_samples": along_every_trajectory(found, "step_loss_train", -1),
        },
        "it pays": it_pays(params, arms, case),
    }
    return {
        "first_broken_link": first_broken_link(chain),
        "links": chain,
        "ranks_by_verdict": ranks_by_verdict(arms, case),
    }


def verdicts(study: str) -> dict[str, str]:
    """Verdicts of a study on the primary measure, by arm and the arm it is compared with."""
    table = compared(study)
    return {f"{row.arm} against {row.against}": row.verdict for row in table.itertuples()}


def main() -> None:
    """Write metrics/conclusion.json."""
    params = read_params()
    arms = read_arms()
    studies = dict.fromkeys(arm.study for arm in arms.values())
    published = files.read_json(Path("metrics/studies/published.json"))
    searches = files.read_json(Path("metrics/studies/search_budget.json"))
    content = {
        **argument(params, arms, MAIN),
        **{
            name: argument(params, arms, case)
            for name, case in NOISIER.items()
            if case.ranks in studies
        },
        "lr_on_boundary": sorted(arm for arm in arms if tuned(arm)["on_boundary"]),
        **{study: verdicts(study) for study in studies if study != MAIN.ranks},
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
                name: share for name, share in row.items() if name.endswith("lrg_adam_better_share")
            }
            for samples, row in published.items()
        },
    }
    files.write_json(Path("metrics/conclusion.json"), content)
