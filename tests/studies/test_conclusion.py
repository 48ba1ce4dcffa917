"""The conclusion: which evidence makes a link of the argument hold, and which link breaks first."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from experiment.report.measures import MEASURES
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from studies.report import conclusion
from studies.report.conclusion import FLIPPED_LABELS, MAIN, Setting
from studies.report.tables import comparisons
from studies.training import shared
from studies.training.arms import STUDIES, Arms, ArmTraining, read_arms

ROOT = Path(__file__).parents[2]
STATES = {
    "better": "holds",
    "equivalent": "refuted",
    "worse": "refuted",
    "inconclusive": "not shown",
}
LINKS = ("noise hurts", "the top subspace is cleaner", "cleaner survives Adam", "it pays")
SETTINGS = pytest.mark.parametrize("setting", [MAIN, FLIPPED_LABELS], ids=["main", "flipped"])


def train(rank: int | None = None, noise: float = 1, **data: float) -> dict[str, Any]:
    """How an arm trains: Adam, or LRG-Adam with a rank."""
    given = {"optimizer": "lrg_adam", "hyperparameters": {"rank": rank}} if rank else {}
    return {"optimizer": "adam", "model": "mlp", "noise": noise, "data": data} | given


# The arms by their studies; every one is compared with the baseline of its setting.
TRAIN = {
    "rank_sweep": {"adam": train(), **{f"rank_{rank}": train(rank) for rank in range(1, 6)}},
    "noise_dial": {
        "noise_0": train(noise=0),
        "noise_half": train(noise=0.5),
        "noise_double": train(noise=2),
    },
    "flipped_labels": {
        "flipped_adam": train(flipped=0.2),
        "half_flipped": train(flipped=0.1),
        "none_flipped": train(flipped=0),
        "more_flipped": train(flipped=0.3),
        "more_of_one": train(noise=2, flipped=0),
        "more_of_the_other": train(noise=0, flipped=0.3),
        **{f"flipped_rank_{rank}": train(rank, flipped=0.2) for rank in range(1, 6)},
    },
}
SIDE = 4  # of the gradient matrix: the rank 4 keeps all


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of a training, and an arms.yaml with these arms."""
    monkeypatch.chdir(tmp_path)
    for file in ("params.yaml", "constraints.txt"):
        shutil.copy2(ROOT / file, file)
    shared.write()
    write_arms()


def write_arms() -> None:
    content: dict[str, Any] = {
        "defaults": {"lrs": [0.01], "tuning_replicates": 1, "replicates": 2, "group": 1},
        "grids": {},
        **{study: {} for study in STUDIES},
        "gradients": {
            "trajectories": {"adam": {}, "rank_1": {}, "flipped_adam": {}, "flipped_rank_1": {}},
            "look": {},
        },
        "search_budget": {},
        "published": {},
    }
    for study, arms in TRAIN.items():
        base = FLIPPED_LABELS.baseline if study == "flipped_labels" else MAIN.baseline
        content[study] = {
            name: {"label": name, "train": given, "against": [] if name == base else [base]}
            for name, given in arms.items()
        }
    Path("stages/studies").mkdir(parents=True, exist_ok=True)
    Path("stages/studies/arms.yaml").write_text(yaml.safe_dump(content))


def write_study(study: str, rows: Sequence[tuple[str, float, str]], against: str = "adam") -> None:
    """Comparisons: arm, difference and verdict in test loss; the opposite in accuracy."""
    table = pd.DataFrame(rows, columns=["arm", "difference", "verdict"])
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
        interval_low=both["difference"] - 0.25,
        interval_high=both["difference"] + 0.5,
    )
    Path("metrics/studies").mkdir(parents=True, exist_ok=True)
    both.to_csv(f"metrics/studies/{study}.csv", index=False)


def gradients(rows: Sequence[tuple[str, str, int, str, float, float]]) -> pd.DataFrame:
    names = ["quantity", "trajectory", "rank", "epoch", "mean", "p_value_uncorrected"]
    table = pd.DataFrame(rows, columns=names).assign(unit="nats", energy_of_pure_noise_share=0.5)
    return table.assign(low=table["mean"] - 1, high=table["mean"] + 1)


# Noise hurts


@pytest.mark.parametrize(
    ("none", "half", "state"),
    [
        ("better", "worse", "holds"),
        ("worse", "better", "holds"),
        ("worse", "equivalent", "refuted"),
        ("worse", "inconclusive", "not shown"),
        ("inconclusive", "worse", "not shown"),
    ],
)
@pytest.mark.parametrize("more", ["better", "inconclusive", "worse"])
@pytest.mark.parametrize(
    ("setting", "less"),
    [(MAIN, ("noise_half", "noise_0")), (FLIPPED_LABELS, ("half_flipped", "none_flipped"))],
    ids=["main", "flipped"],
)
def test_noise_hurts_where_adam_is_better_with_less_of_it(
    setting: Setting, less: tuple[str, str], none: str, half: str, more: str, state: str
) -> None:
    rows = [(less[0], -3.0, half), (less[1], -2.0, none)]
    others = set(TRAIN[setting.noise]) - {*less, setting.baseline}
    write_study(setting.noise, [*rows, *((arm, 1.0, more) for arm in others)], setting.baseline)
    found = conclusion.noise_hurts(read_arms(), setting)
    assert found["state"] == state
    assert found["less_noise_minus_adam"] == {
        arm: {
            "difference_nats": difference,
            "interval_95_nats": [difference - 0.25, difference + 0.5],
            "verdict": verdict,
        }
        for arm, difference, verdict in rows
    }


@pytest.mark.parametrize(
    ("setting", "arm"), [(MAIN, "noise_double"), (FLIPPED_LABELS, "more_of_one")]
)
def test_a_dial_without_less_noise_is_refused(setting: Setting, arm: str) -> None:
    write_study(setting.noise, [(arm, 1.0, "worse")], setting.baseline)
    with pytest.raises(UserError, match=f"{setting.noise}; allowed: .* that has less noise"):
        conclusion.noise_hurts(read_arms(), setting)


# It pays


def ranks(setting: Setting) -> list[str]:
    """The arms of the ranks 1 to 5 in a setting."""
    return [name for name in TRAIN[setting.ranks] if name.removeprefix("flipped_")[:4] == "rank"]


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
# Differences from Adam in the replicates, whose verdicts alone are these.
DIFFERENCES = {
    # 16 of the 1024 flips of signs are as far from zero: 0.016, which a family of five takes away.
    "better": np.array([-0.1] * 7 + [0.03] * 3),
    "worse": np.array([0.1] * 7 + [-0.03] * 3),
    "equivalent": np.array([1e-4, -1e-4] * 5),
    "inconclusive": np.array([0.1, -0.1] * 5),
}


def write_ranks(setting: Setting, validation: Sequence[float], verdicts: Sequence[str]) -> None:
    """The ranks from 1 on, each with its validation loss and its verdict against Adam."""
    write_arm(setting.baseline, 0.5, ADAM)
    for name, loss, verdict in zip(ranks(setting), validation, verdicts, strict=False):
        write_arm(name, loss, ADAM + DIFFERENCES[verdict])


def pays(setting: Setting) -> dict[str, Any]:
    return conclusion.it_pays(read_params(), read_arms(), setting)


@SETTINGS
@pytest.mark.parametrize("verdict", STATES)
def test_whether_it_pays_is_the_verdict_of_the_rank_that_validation_chooses(
    setting: Setting, verdict: str
) -> None:
    """Whatever the test losses of the other ranks."""
    other = "worse" if verdict == "better" else "better"
    write_ranks(setting, [0.9, 0.8, 0.85, 0.7, 0.7], [other, verdict, other, other, other])
    found = pays(setting)
    assert found["rank_chosen_on_validation"] == 2
    assert found["validation_loss_nats"] == 0.8
    assert found["verdict"] == verdict
    assert found["state"] == STATES[verdict]
    assert found["ranks"] == ([2] if verdict == "better" else [])
    assert found["difference_nats"] == pytest.approx(DIFFERENCES[verdict].mean())


@SETTINGS
def test_one_rank_is_tested_and_so_nothing_is_corrected(setting: Setting) -> None:
    write_ranks(setting, [0.9, 0.8, 0.85, 0.7, 0.7], ["inconclusive", "better", *["worse"] * 3])
    arms = read_arms()
    family = {name: arms[name] for name in (setting.baseline, *ranks(setting))}
    table = comparisons(read_params(), setting.ranks, family)
    row = table[table["measure"] == "test_loss_nats"].set_index("arm").loc[ranks(setting)[1]]

    found = pays(setting)

    assert (row["verdict"], found["verdict"]) == ("inconclusive", "better")
    assert found["difference_nats"] == row["difference"]
    assert found["interval_95_nats"] == [row["interval_low"], row["interval_high"]]


@SETTINGS
def test_the_full_rank_alone_cannot_pay(setting: Setting) -> None:
    arms = read_arms()
    for name in ranks(setting)[: SIDE - 1]:
        del arms[name]
    for name in ranks(setting)[SIDE - 1 :]:
        write_arm(name, 0.5, ADAM)
    with pytest.raises(UserError, match=f"{setting.ranks}; allowed: with a rank short of the full"):
        conclusion.it_pays(read_params(), arms, setting)


@SETTINGS
def test_every_rank_has_its_place_among_the_verdicts(setting: Setting) -> None:
    verdicts = ["worse", "inconclusive", "better", "equivalent", "worse"]
    rows = [(name, 1.0, v) for name, v in zip(ranks(setting), verdicts, strict=True)]
    rows += [(name, 1.0, "better") for name in TRAIN[setting.noise] if "rank" not in name]
    write_study(setting.ranks, rows, setting.baseline)
    found = conclusion.ranks_by_verdict(read_arms(), setting)
    assert found == {"better": [3], "equivalent": [4], "inconclusive": [2], "worse": [1, 5]}


@SETTINGS
@pytest.mark.parametrize("link", [conclusion.noise_hurts, conclusion.ranks_by_verdict])
def test_comparisons_with_another_arm_than_adam_do_not_count(
    setting: Setting, link: Callable[[Arms, Setting], dict]
) -> None:
    for study in {setting.noise, setting.ranks}:
        rows = [(name, 0.5, "worse") for name in TRAIN[study] if name != setting.baseline]
        write_study(study, rows, setting.baseline)
    before = link(read_arms(), setting)
    for study in {setting.noise, setting.ranks}:
        path = Path(f"metrics/studies/{study}.csv")
        table = pd.read_csv(path)
        other = table.assign(against="rank_20", difference=-9.0, verdict="better")
        pd.concat([other, table]).to_csv(path, index=False)
    assert link(read_arms(), setting) == before


# Gradients


@pytest.mark.parametrize("below", [False, True])
def test_another_quantity_or_a_single_epoch_is_no_evidence(below: bool) -> None:
    good, bad = (-1.0, 1.0) if below else (1.0, -1.0)
    table = gradients(
        [
            ("gain", "adam", 1, "all", good, 0.01),
            ("gain", "adam", 1, "5", bad, 1e-9),
            ("gain", "adam", 5, "all", bad, 1e-9),
            ("gain", "adam", 5, "20", good, 1e-9),
            ("loss", "adam", 20, "all", good, 1e-9),
        ]
    )
    found = conclusion.along_every_trajectory(table, "gain", below)
    assert found["ranks"] == [1]
    assert found["by_rank"][1]["p_value_holm"] == 0.02  # a family of two ranks


@pytest.mark.parametrize("below", [False, True])
def test_ranks_hold_along_every_trajectory_after_holm(below: bool) -> None:
    rows = [
        ("adam", 1, 3.0, 0.001),
        ("rank_20", 1, 4.0, 0.012),  # the larger, times 4: holds
        ("adam", 5, 2.0, 0.02),  # times 3: does not, though it would alone
        ("rank_20", 5, 2.0, 0.001),
        ("adam", 20, -1.0, 0.0001),  # beyond zero on the wrong side
        ("rank_20", 20, 1.0, 0.0001),
        ("adam", 40, 0.0, math.nan),  # nothing varies
        ("rank_20", 40, 1.0, 0.0001),
    ]
    sign = -1 if below else 1
    table = gradients([("gain", arm, rank, "all", sign * mean, p) for arm, rank, mean, p in rows])
    found = conclusion.along_every_trajectory(table, "gain", below)
    assert (found["state"], found["ranks"]) == ("holds", [1])
    assert found["by_rank"][1]["p_value_holm"] == pytest.approx(0.048)


def test_no_rank_holds_that_is_beyond_zero_only_without_correction() -> None:
    table = gradients([("gain", "adam", rank, "all", 1.0, 0.03) for rank in (1, 5)])
    found = conclusion.along_every_trajectory(table, "gain", below=False)
    assert (found["state"], found["ranks"]) == ("not shown", [])


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize(("p_value", "refuted"), [(0.025, True), (0.0251, False)])
def test_it_is_refuted_where_every_rank_fails_along_one_trajectory(
    p_value: float, refuted: bool, below: bool
) -> None:
    rows = [
        ("adam", 1, -1.0, p_value),  # times 2, the trajectories
        ("rank_20", 1, 1.0, 1e-9),
        ("adam", 5, 1.0, 1e-9),
        ("rank_20", 5, -1.0, 0.001),
    ]
    sign = -1 if below else 1
    table = gradients([("gain", arm, rank, "all", sign * mean, p) for arm, rank, mean, p in rows])
    found = conclusion.along_every_trajectory(table, "gain", below)
    assert (found["state"], found["ranks"]) == ("refuted" if refuted else "not shown", [])


@pytest.mark.parametrize(("p_value", "holds"), [(0.025, True), (0.0251, False)])
def test_a_rank_holds_up_to_the_level_and_not_beyond(p_value: float, holds: bool) -> None:
    table = gradients(
        [("gain", "adam", 1, "all", 1.0, p_value), ("gain", "adam", 5, "all", 1.0, 0.5)]
    )
    found = conclusion.along_every_trajectory(table, "gain", below=False)
    assert found["state"] == ("holds" if holds else "not shown")


@pytest.mark.parametrize("below", [False, True])
def test_every_rank_is_told_with_the_trajectory_on_which_it_is_worst(below: bool) -> None:
    sign = -1 if below else 1
    rows = [
        ("adam", 1, "all", 9.0, 0.9),
        ("rank_20", 1, "all", 3.0, 0.01),
        ("adam", 5, "all", -2.0, 0.9),
        ("rank_20", 5, "all", -1.0, 0.9),
        ("rank_20", 5, "1", -4.0, 0.9),
        ("adam", 1, "1", -8.0, 0.9),
    ]
    table = gradients([("gain", *one, sign * mean, p) for *one, mean, p in rows])
    found = conclusion.along_every_trajectory(table, "gain", below)
    assert (found["state"], found["ranks"]) == ("not shown", [])
    assert found["by_rank"] == {
        rank: {
            "trajectory": trajectory,
            "mean_nats": sign * mean,
            "interval_95_nats": [sign * mean - 1, sign * mean + 1],
            "p_value_holm": 1.0,
        }
        for rank, trajectory, mean in ((1, "rank_20", 3.0), (5, "adam", -2.0))
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
    chain = {"a": {"state": "holds"}} | {
        name: {"state": "holds", "ranks": found} for name, found in ranks.items()
    }
    assert conclusion.first_broken_link(chain) == broken


def write_setting(setting: Setting, broken: Sequence[int]) -> None:
    """Evidence for every link but the broken ones, which it refutes."""
    noise, cosine, step, pays = (place not in broken for place in range(4))
    less = "noise_0" if setting is MAIN else "none_flipped"
    rows = [(less, -0.1, "better" if noise else "worse")]
    write_study(setting.noise, rows, setting.baseline)
    if setting.ranks != setting.noise:
        write_study(setting.ranks, [(ranks(setting)[0], 0.0, "worse")], setting.baseline)
    verdict = "better" if pays else "worse"
    write_ranks(setting, [0.7, 0.8, 0.9, 0.6, 0.6], [verdict, *["equivalent"] * 4])
    Path("metrics/studies/gradients").mkdir(exist_ok=True)
    for arm in (setting.baseline, ranks(setting)[0]):
        looked = gradients(
            [
                ("cosine_fresh", arm, 1, "all", 0.1 if cosine else -0.1, 0.001),
                ("cosine_train", arm, 1, "all", 0.2, 0.001),
                ("step_loss_fresh", arm, 1, "all", -0.1 if step else 0.1, 0.001),
                ("step_loss_train", arm, 1, "all", -0.2, 0.001),
                ("step_cosine", arm, 1, "all", 0.3, 0.001),
            ]
        )
        looked.to_csv(f"metrics/studies/gradients/{arm}.csv", index=False)


BROKEN = [(), (0,), (1,), (2,), (3,), (1, 3), (2, 3), (0, 1, 2, 3)]


@pytest.mark.parametrize(
    ("broken", "flipped"),
    [*((broken, ()) for broken in BROKEN), *(((), broken) for broken in BROKEN[1:])],
)
def test_the_first_link_that_does_not_hold_is_the_first_broken_one(
    broken: tuple[int, ...], flipped: tuple[int, ...]
) -> None:
    """In each setting by itself."""
    write_setting(MAIN, broken)
    write_setting(FLIPPED_LABELS, flipped)
    for study in set(STUDIES) - {MAIN.noise, MAIN.ranks, FLIPPED_LABELS.noise}:
        write_study(study, [(study, 1.0, "worse")])
    for arm in [*TRAIN["noise_dial"], *TRAIN["flipped_labels"]]:
        if not Path(f"metrics/studies/arms/{arm}.json").exists():
            write_arm(arm, 0.5, ADAM, on_boundary=arm == "noise_double")
    lower = {"last_loss_nats": 0.25, "best_loss_nats": 0.75, "last_accuracy_share": 0.5}
    shares = {f"{name}_lrg_adam_lower_share": share for name, share in lower.items()}
    published = {"published_2000_training_samples": shares | {"samplers": 16}}
    files.write_json(Path("metrics/studies/published.json"), published)
    searched = {"difference": 0.1, "difference_low": -0.2, "difference_high": 0.4}
    searched["lrg_adam_lower_share"] = 0.2
    searches = {"15_trials": searched | {"adam_best_loss_nats": 1.2}}
    files.write_json(Path("metrics/studies/search_budget.json"), searches)

    conclusion.main()

    found = json.loads(Path("metrics/conclusion.json").read_text())
    for content, lost in ((found, broken), (found["with_flipped_labels"], flipped)):
        assert content["first_broken_link"] == (LINKS[lost[0]] if lost else None)
        assert {name: link["state"] for name, link in content["links"].items()} == {
            name: "refuted" if place in lost else "holds" for place, name in enumerate(LINKS)
        }
        assert tuple(content["links"]) == LINKS
    assert found["lr_on_boundary"] == ["noise_double"]
    less = "worse" if 0 in broken else "better"
    assert found["noise_dial"] == {"noise_0 against adam": less}
    assert found["controls"] == {"controls against adam": "worse"}
    assert found["search_budget"] == {"15_trials": searched}
    assert found["published_protocol"] == {"published_2000_training_samples": shares}


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({"noise": 0.5}, True),
        ({"data": {"flipped": 0.1}}, True),
        ({"data": {}}, True),
        ({"noise": 0.5, "data": {"flipped": 0.1}}, True),
        ({}, False),
        ({"noise": 0.5, "data": {"flipped": 0.3}}, False),
        ({"noise": 2, "data": {"flipped": 0.1}}, False),
        ({"noise": 0.5, "optimizer": "lrg_adam"}, False),
        ({"noise": 0.5, "model": "cnn"}, False),
        ({"data": {"name": "digits", "flipped": 0.1}}, False),
    ],
)
def test_less_noise_is_less_of_one_kind_no_more_of_the_other_and_nothing_else(
    changes: dict[str, Any], less: bool
) -> None:
    adam = {"optimizer": "adam", "model": "mlp", "data": {"flipped": 0.2}}
    group = {"lrs": [0.01], "tuning_replicates": 1, "replicates": 2, "group": 1}
    arm, baseline = (ArmTraining(**group | adam | one) for one in (changes, {}))
    assert conclusion.is_less_noisy(arm, baseline, read_params().data) is less
