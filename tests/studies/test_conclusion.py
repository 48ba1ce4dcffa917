"""The conclusion: which evidence makes a link of the argument hold, and which link breaks first."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from experiment.report.measures import MEASURES
from experiment.stage import files
from experiment.stage.params import read_params
from studies.report import conclusion
from studies.report.conclusion import MAIN, NOISIER, Case
from studies.report.tables import comparisons
from studies.training.arms import read_arms, read_data_sets, trajectories

ROOT = Path(__file__).parents[2]
FLIPPED_LABELS, BATCH_NOISE = NOISIER.values()
LINKS = ("noise hurts", "the top subspace is cleaner", "cleaner survives Adam", "it pays")
CASES = pytest.mark.parametrize("case", [MAIN, *NOISIER.values()], ids=["main", "flipped", "noise"])


def train(rank: int | None = None, noise: float = 1, data: str = "mnist1d") -> dict[str, Any]:
    """How an arm trains: Adam, or LRG-Adam with a rank."""
    given = {"optimizer": "lrg_adam", "hyperparameters": {"rank": rank}} if rank else {}
    return {"optimizer": "adam", "noise": noise, "data": data} | given


# The arms by their studies; every one is compared with the baseline of its setting.
TRAIN = {
    "rank_sweep": {"adam": train(), **{f"rank_{rank}": train(rank) for rank in range(1, 6)}},
    "noise_dial": {
        "noise_0": train(noise=0),
        "noise_half": train(noise=0.5),
        "noise_double": train(noise=2),
    },
    "flipped_labels": {
        "flipped_adam": train(data="flipped_20"),
        "half_flipped": train(data="flipped_10"),
        "none_flipped": train(),
        "calm": train(noise=0.5, data="flipped_20"),
        "more_flipped": train(data="flipped_30"),
        "more_of_one": train(noise=2),
        "more_of_the_other": train(noise=0, data="flipped_30"),
        **{f"flipped_rank_{rank}": train(rank, data="flipped_20") for rank in range(1, 6)},
    },
    "batch_noise": {f"double_rank_{rank}": train(rank, noise=2) for rank in range(1, 6)},
}
SIDE = 4  # of the gradient matrix: the rank 4 keeps all


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters, and an arms.yaml with these arms."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", "params.yaml")
    content = yaml.safe_load((ROOT / "stages/studies/arms.yaml").read_text())
    content["data"]["flipped_30"] = content["data"]["flipped_20"] | {"flipped": 0.3}
    content["trajectories"] = ["adam", "rank_1", "flipped_adam", "flipped_rank_1", "noise_double"]
    bases = {"flipped_labels": "flipped_adam", "batch_noise": "noise_double"}
    content["arms"] = {}
    for study, arms in TRAIN.items():
        base = bases.get(study, "adam")
        for name, given in arms.items():
            against = [] if name == base else [base]
            entry = {"study": study, "label": name, "train": given, "against": against}
            content["arms"][name] = entry
    Path("stages/studies").mkdir(parents=True)
    Path("stages/studies/arms.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def write_study(
    study: str, rows: Sequence[tuple[str, float, str, float]], against: str = "adam"
) -> None:
    """Comparisons: arm, difference, verdict and p-value in test loss; the opposite in accuracy."""
    table = pd.DataFrame(rows, columns=["arm", "difference", "verdict", "p_value"])
    opposite = table.assign(
        measure="test_accuracy_share",
        unit="share",
        difference=-table["difference"],
        verdict=table["verdict"].replace({"better": "worse", "worse": "better"}),
    )
    both = pd.concat([opposite, table.assign(measure="test_loss_nats", unit="nats")])
    both = both.assign(
        label=both["arm"],
        against=against,
        lr=0.01,
        mean=1.3,
        interval_low=both["difference"] - 0.25,
        interval_high=both["difference"] + 0.5,
    )
    Path("metrics/studies").mkdir(parents=True, exist_ok=True)
    both.to_csv(f"metrics/studies/{study}.csv", index=False)


def gradients(rows: Sequence[tuple[str, str, int, str, float, float]]) -> pd.DataFrame:
    """Quantity, trajectory, rank, epoch, mean and p-value; the interval is one to each side."""
    names = ["quantity", "trajectory", "rank", "epoch", "mean", "p_value_uncorrected"]
    table = pd.DataFrame(rows, columns=names).assign(unit="nats", energy_of_pure_noise_share=0.5)
    return table.assign(low=table["mean"] - 1, high=table["mean"] + 1, replicates=16)


# One rule


@pytest.mark.parametrize(
    ("p_value", "low", "high", "state"),
    [
        (0.05, 0.1, 0.2, "refuted"),
        (0.05, -0.2, -0.1, "holds"),
        (0.0501, 0.1, 0.2, "not shown"),
        (0.01, -0.1, 0.2, "not shown"),
        (0.01, 0.0, 0.2, "not shown"),
    ],
)
def test_a_direction_is_shown_by_the_test_and_the_interval_together(
    p_value: float, low: float, high: float, state: str
) -> None:
    assert conclusion.evidence(0.1, low, high, p_value, "worse")["state"] == state


# Noise hurts

LESS = pytest.mark.parametrize(
    ("case", "less"),
    [(MAIN, ("noise_half", "noise_0")), (FLIPPED_LABELS, ("half_flipped", "none_flipped"))],
    ids=["main", "flipped"],
)


@pytest.mark.parametrize(
    ("none", "half", "state"),
    [(-1, 1, "holds"), (1, -1, "holds"), (1, 1, "refuted"), (1, 0, "not shown")],
)
@pytest.mark.parametrize("more", [-1, 1])
@LESS
def test_noise_hurts_where_adam_is_better_with_less_of_it(
    case: Case, less: tuple[str, str], none: int, half: int, more: int, state: str
) -> None:
    """Arms with more noise, or less of one kind and more of the other, are no evidence."""
    rows = [(less[0], 3.0 * half, "worse", 0.01), (less[1], 3.0 * none, "worse", 0.01)]
    others = set(TRAIN[case.noise]) - {*less, "calm", case.baseline}
    rows += [(arm, 3.0 * more, "worse", 0.01) for arm in others]
    write_study(case.noise, rows, case.baseline)
    found = conclusion.noise_hurts(read_arms(), case)
    assert found["state"] == state
    assert set(found["less_noise_minus_adam"]) == set(less)
    one = found["less_noise_minus_adam"][less[0]]
    assert one["difference_nats"] == 3.0 * half
    assert one["interval_95_nats"] == [3.0 * half - 0.25, 3.0 * half + 0.5]


def test_each_arm_tells_the_kind_of_noise_that_it_has_less_of() -> None:
    rows = [("half_flipped", -3.0, "better", 0.01), ("calm", -3.0, "inconclusive", 0.2)]
    write_study("flipped_labels", rows, "flipped_adam")
    found = conclusion.noise_hurts(read_arms(), FLIPPED_LABELS)
    assert found["state"] == "holds"
    kinds = {
        arm: (one["less"], one["state"]) for arm, one in found["less_noise_minus_adam"].items()
    }
    assert kinds == {
        "half_flipped": ("wrong labels", "holds"),
        "calm": ("noise of batches", "not shown"),
    }


def test_a_comparison_the_other_way_round_is_mirrored() -> None:
    """Adam with twice the noise is worse than Adam, so Adam with less noise is better than it."""
    write_study(
        "noise_dial", [("noise_double", 3.0, "worse", 0.01), ("noise_0", 1.0, "worse", 0.3)]
    )
    found = conclusion.noise_hurts(read_arms(), BATCH_NOISE)
    assert found["state"] == "holds"
    assert found["less_noise_minus_adam"] == {
        "adam": {
            "less": "noise of batches",
            "state": "holds",
            "difference_nats": -3.0,
            "interval_95_nats": [-3.5, -2.75],
            "verdict": "better",
        }
    }


def test_without_less_noise_nothing_is_measured() -> None:
    write_study("noise_dial", [("noise_double", 1.0, "worse", 0.01)])
    assert conclusion.noise_hurts(read_arms(), MAIN)["state"] == "not measured"


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({"noise": 0.5}, "noise of batches"),
        ({"data": "flipped_10"}, "wrong labels"),
        ({"data": "mnist1d"}, "wrong labels"),
        ({"noise": 0.5, "lrs": [0.5]}, "noise of batches"),
        ({}, None),
        ({"noise": 0.5, "data": "flipped_10"}, None),
        ({"noise": 0.5, "data": "flipped_30"}, None),
        ({"noise": 2, "data": "flipped_10"}, None),
        ({"noise": 0.5, "optimizer": "lrg_adam"}, None),
        ({"noise": 0.5, "model": "cnn"}, None),
        ({"noise": 0.5, "epochs": 3}, None),
    ],
)
def test_less_noise_is_less_of_one_kind_and_nothing_else(
    changes: dict[str, Any], less: str | None
) -> None:
    adam = read_arms()["flipped_adam"].train
    arm = adam.model_copy(update=changes)
    assert conclusion.less_noise(arm, adam, read_data_sets()) == less


# It pays


def ranks(case: Case) -> list[str]:
    """The arms of the ranks 1 to 5 in a case."""
    return [name for name in TRAIN[case.ranks] if "rank" in name]


def write_arm(name: str, validation: float, test: Sequence[float], **more: object) -> None:
    """What an arm's tuning and its replicates found, the same in all measures."""
    rows = [
        {"replicate": number} | dict.fromkeys(MEASURES, loss) for number, loss in enumerate(test)
    ]
    tuning = [{"lr": 0.01, "replicate": 0} | {one.in_tuning: 1.0 for one in MEASURES.values()}]
    tuned = {"lr": 0.01, "on_boundary": False, "matrix_side": SIDE, "train": {}, "tuning": tuning}
    tuned |= {"validation_loss_nats": validation, "replicates": rows}
    files.write_json(Path(f"metrics/studies/arms/{name}.json"), tuned | more)


ADAM = 1.3 + 0.05 * np.random.default_rng(0).standard_normal(10)
# Differences from Adam in the replicates, with the verdict on them alone and what they show.
DIFFERENCES = {
    # 16 of the 1024 flips of signs are as far from zero: 0.016, which a family of five takes away.
    "better": (np.array([-0.1] * 7 + [0.03] * 3), "better", "holds"),
    "worse": (np.array([0.1] * 7 + [-0.03] * 3), "worse", "refuted"),
    "same": (np.array([1e-4, -1e-4] * 5), "equivalent", "not shown"),
    "a little better": (np.array([-1e-3] * 9 + [-2e-3]), "equivalent", "holds"),
    "unclear": (np.array([0.1, -0.1] * 5), "inconclusive", "not shown"),
}


def write_ranks(case: Case, validation: Sequence[float], differences: Sequence[str]) -> None:
    """The ranks from 1 on, each with its validation loss and its difference from Adam."""
    write_arm(case.baseline, 0.5, ADAM)
    for name, loss, one in zip(ranks(case), validation, differences, strict=False):
        write_arm(name, loss, ADAM + DIFFERENCES[one][0])


@CASES
@pytest.mark.parametrize("one", DIFFERENCES)
def test_whether_it_pays_is_shown_at_the_rank_that_validation_chooses(case: Case, one: str) -> None:
    """Whatever the test losses of the other ranks; the verdict tells a gain below the margin."""
    other = "worse" if one == "better" else "better"
    write_ranks(case, [0.9, 0.8, 0.85, 0.7, 0.7], [other, one, other, other, other])
    found = conclusion.it_pays(read_params(), read_arms(), case)
    difference, verdict, state = DIFFERENCES[one]
    assert found["rank_chosen_on_validation"] == 2
    assert found["validation_loss_nats"] == 0.8
    assert (found["verdict"], found["state"]) == (verdict, state)
    assert found["ranks"] == ([2] if state == "holds" else [])
    assert found["difference_nats"] == pytest.approx(difference.mean())


def test_one_rank_is_tested_and_so_nothing_is_corrected() -> None:
    write_ranks(MAIN, [0.9, 0.8, 0.85, 0.7, 0.7], ["unclear", "better", *["worse"] * 3])
    arms = read_arms()
    family = {name: arms[name] for name in (MAIN.baseline, *ranks(MAIN))}
    table = comparisons(read_params(), MAIN.ranks, family)
    row = table[table["measure"] == "test_loss_nats"].set_index("arm").loc[ranks(MAIN)[1]]

    found = conclusion.it_pays(read_params(), arms, MAIN)

    assert (row["verdict"], found["verdict"]) == ("inconclusive", "better")
    assert found["interval_95_nats"] == [row["interval_low"], row["interval_high"]]


def test_the_full_rank_alone_cannot_pay() -> None:
    arms = read_arms()
    for name in ranks(MAIN)[: SIDE - 1]:
        del arms[name]
    for name in ranks(MAIN)[SIDE - 1 :]:
        write_arm(name, 0.5, ADAM)
    assert conclusion.it_pays(read_params(), arms, MAIN) == {"state": "not measured"}


# Gradients


@pytest.mark.parametrize("needed", [1, -1])
def test_a_rank_needs_the_sign_along_every_trajectory_after_holm(needed: int) -> None:
    rows = [
        ("adam", 1, 3.0, 0.001),
        ("rank_20", 1, 4.0, 0.009),  # the larger, times 5: holds
        ("adam", 5, 2.0, 0.02),  # times 4: not shown, though it would be alone
        ("rank_20", 5, 2.0, 0.001),
        ("adam", 20, -1.0, 0.0001),  # one sign along one trajectory, the other along the other
        ("rank_20", 20, 1.0, 0.0001),
        ("adam", 40, 0.0, math.nan),  # nothing varies
        ("rank_20", 40, 1.0, 0.0001),
        ("adam", 80, -1.0, 0.0001),  # refuted
        ("rank_20", 80, -1.0, 0.009),
    ]
    table = gradients([("gain", arm, rank, "all", needed * m, p) for arm, rank, m, p in rows])
    found = conclusion.along_every_trajectory(table, "gain", needed)
    assert (found["state"], found["ranks"]) == ("holds", [1])
    assert {rank: one["state"] for rank, one in found["by_rank"].items()} == {
        1: "holds",
        5: "not shown",
        20: "not shown",
        40: "not shown",
        80: "refuted",
    }


@pytest.mark.parametrize(("p_value", "state"), [(0.025, "refuted"), (0.0251, "not shown")])
def test_a_link_is_refuted_if_every_rank_is(p_value: float, state: str) -> None:
    rows = [("gain", arm, rank, "all", -1.0, p_value) for arm in ("a", "b") for rank in (1, 5)]
    found = conclusion.along_every_trajectory(gradients(rows), "gain", 1)
    assert (found["state"], found["ranks"]) == (state, [])


def test_a_rank_is_told_along_each_trajectory_with_the_epochs_that_an_average_hides() -> None:
    rows = [
        ("gain", "adam", 1, "all", 1.5, 0.01),
        ("gain", "adam", 1, "1", -3.0, 0.9),
        ("gain", "adam", 1, "5", 0.5, 0.9),  # its interval has zero in it
        ("gain", "adam", 1, "20", 6.0, 0.9),
        ("gain", "rank_20", 1, "all", -2.0, 0.9),
        ("gain", "rank_20", 1, "5", -4.0, 0.9),
        ("gain", "adam", 5, "1", 9.0, 0.9),
        ("gain", "adam", 5, "all", 9.0, 0.9),
        ("loss", "adam", 1, "all", -9.0, 1e-9),
    ]
    found = conclusion.along_every_trajectory(gradients(rows), "gain", 1)
    assert found["by_rank"][1] == {
        "state": "not shown",
        "along": {
            "adam": {
                "mean_nats": 1.5,
                "interval_95_nats": [0.5, 2.5],
                "above_zero_after_epochs": [20],
                "below_zero_after_epochs": [1],
            },
            "rank_20": {
                "mean_nats": -2.0,
                "interval_95_nats": [-3.0, -1.0],
                "above_zero_after_epochs": [],
                "below_zero_after_epochs": [5],
            },
        },
    }


# The argument


@pytest.mark.parametrize(
    ("ranks", "broken"),
    [
        ({"b": [1, 2], "c": [2, 3], "d": [2]}, None),
        ({"b": [1, 2], "c": [2, 3], "d": [1]}, "d"),
        ({"b": [1], "c": [2], "d": [2]}, "c"),
    ],
)
def test_the_links_hold_at_one_rank_or_break(ranks: dict, broken: str | None) -> None:
    chain = {"a": {"state": "holds"}, "x": {"state": "not measured"}} | {
        name: {"state": "holds", "ranks": found} for name, found in ranks.items()
    }
    assert conclusion.first_broken_link(chain) == broken


def write_case(case: Case, broken: Sequence[int]) -> None:
    """Evidence for every link but the broken ones, which it refutes."""
    noise, cosine, step, pays = (place not in broken for place in range(4))
    less = {"adam": "noise_0", "flipped_adam": "none_flipped", "noise_double": "adam"}
    sign = -1.0 if noise else 1.0
    if case is not BATCH_NOISE:
        write_study(case.noise, [(less[case.baseline], sign, "worse", 0.01)], case.baseline)
    if case.ranks != case.noise:
        write_study(case.ranks, [(ranks(case)[0], 0.0, "worse", 0.5)], case.baseline)
    differences = ["better" if pays else "worse", *["same"] * 4]
    write_ranks(case, [0.7, 0.8, 0.9, 0.6, 0.6], differences)
    Path("metrics/studies/gradients").mkdir(exist_ok=True)
    for arm in trajectories(read_arms(), case.baseline):
        rows = [
            ("cosine_fresh", arm, 1, "all", 2.0 if cosine else -2.0, 0.001),
            ("cosine_train", arm, 1, "all", 2.0, 0.001),
            ("step_loss_fresh", arm, 1, "all", -2.0 if step else 2.0, 0.001),
            ("step_loss_train", arm, 1, "all", -2.0, 0.001),
        ]
        gradients(rows).to_csv(f"metrics/studies/gradients/{arm}.csv", index=False)


BROKEN = [(), (0,), (1,), (2,), (3,), (1, 3)]


@pytest.mark.parametrize(
    ("broken", "flipped"),
    [*((broken, ()) for broken in BROKEN), *(((), broken) for broken in BROKEN[1:])],
)
def test_the_first_link_that_does_not_hold_is_the_first_broken_one(
    broken: tuple[int, ...], flipped: tuple[int, ...]
) -> None:
    """In each setting by itself."""
    write_case(FLIPPED_LABELS, flipped)
    write_case(BATCH_NOISE, ())
    write_case(MAIN, broken)
    dial = pd.read_csv("metrics/studies/noise_dial.csv")
    write_study("noise_dial", [("noise_double", 3.0, "worse", 0.01)])
    pd.concat([dial, pd.read_csv("metrics/studies/noise_dial.csv")]).to_csv(
        "metrics/studies/noise_dial.csv", index=False
    )

    conclusion.main()

    found = json.loads(Path("metrics/conclusion.json").read_text())
    for content, lost in (
        (found, broken),
        (found["with_flipped_labels"], flipped),
        (found["with_twice_the_batch_noise"], ()),
    ):
        assert content["first_broken_link"] == (LINKS[lost[0]] if lost else None)
        assert {name: link["state"] for name, link in content["links"].items()} == {
            name: "refuted" if place in lost else "holds" for place, name in enumerate(LINKS)
        }
