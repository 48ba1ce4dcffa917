"""The conclusion: which evidence makes a link of the argument hold, and which link breaks first."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiment.stage.errors import UserError
from studies.report import conclusion
from studies.training.arms import STUDIES, Arms, read_arms

VERDICTS = ("better", "equivalent", "inconclusive", "worse")
STATES = {
    "better": "holds",
    "equivalent": "refuted",
    "worse": "refuted",
    "inconclusive": "not shown",
}
LINKS = ("noise hurts", "the top subspace is cleaner", "cleaner survives Adam", "it pays")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("metrics/studies").mkdir(parents=True)


def write_study(study: str, rows: Sequence[tuple[str, float, str]], **columns: object) -> None:
    """Comparisons with Adam: arm, difference and verdict in test loss; the opposite in accuracy."""
    table = pd.DataFrame(rows, columns=["arm", "difference", "verdict"]).assign(**columns)
    opposite = table.assign(
        measure="test_accuracy_share",
        unit="share",
        difference=-table["difference"],
        verdict=table["verdict"].replace({"better": "worse", "worse": "better"}),
    )
    both = pd.concat([opposite, table.assign(measure="test_loss_nats", unit="nats")])
    both = both.assign(
        label=both["arm"],
        against="adam",
        interval_low=both["difference"] - 0.25,
        interval_high=both["difference"] + 0.5,
    )
    both.to_csv(f"metrics/studies/{study}.csv", index=False)


def gradients(rows: Sequence[tuple[str, str, int, str, float, float]]) -> pd.DataFrame:
    names = ["quantity", "trajectory", "rank", "epoch", "mean", "p_value_uncorrected"]
    table = pd.DataFrame(rows, columns=names).assign(unit="nats", energy_of_pure_noise_share=0.5)
    return table.assign(low=table["mean"] - 1, high=table["mean"] + 1)


# Arms of the noise dial, and the one that they are compared with.
NOISES = {"adam": 1, "noise_0": 0, "noise_half": 0.5, "noise_double": 2}


def arms() -> Arms:
    """The arms of an arms.yaml that is written here."""
    train = {"optimizer": "adam", "model": "mlp"}
    content = {
        "defaults": {"lrs": [0.01], "tuning_replicates": 1, "replicates": 2, "group": 1},
        "grids": {},
        **{study: {} for study in STUDIES},
        "noise_dial": {
            name: {"label": name, "train": {**train, "noise": noise}}
            for name, noise in NOISES.items()
        },
        "gradients": {"trajectories": {"noise_0": {}, "noise_half": {}}, "look": {}},
        "published": {},
    }
    Path("stages/studies").mkdir(parents=True, exist_ok=True)
    Path("stages/studies/arms.yaml").write_text(yaml.safe_dump(content))
    return read_arms()


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
@pytest.mark.parametrize("double", ["better", "inconclusive", "worse"])
def test_noise_hurts_where_adam_is_better_with_less_of_it(
    none: str, half: str, double: str, state: str
) -> None:
    rows = [("noise_half", -3.0, half), ("noise_0", -2.0, none), ("noise_double", 1.0, double)]
    write_study("noise_dial", rows)
    found = conclusion.noise_hurts(arms())
    assert found["state"] == state
    assert found["less_noise_minus_adam"] == {
        arm: {
            "difference_nats": difference,
            "interval_95_nats": [difference - 0.25, difference + 0.5],
            "verdict": verdict,
        }
        for arm, difference, verdict in rows[:2]
    }


def test_a_dial_without_less_noise_is_refused() -> None:
    write_study("noise_dial", [("noise_double", 1.0, "worse")])
    with pytest.raises(UserError, match="whose noise is below 1"):
        conclusion.noise_hurts(arms())


def write_sweep(verdicts: Sequence[str], differences: Sequence[float]) -> None:
    ranks = range(1, len(verdicts) + 1)
    rows = [
        (f"rank_{rank}", difference, verdict)
        for rank, difference, verdict in zip(ranks, differences, verdicts, strict=True)
    ]
    write_study("rank_sweep", rows, rank=list(ranks), matrix_side=4)


@pytest.mark.parametrize("study", ["noise_dial", "rank_sweep"])
def test_comparisons_with_another_arm_than_adam_do_not_count(study: str) -> None:
    write_study("noise_dial", [("noise_0", 0.5, "worse")])
    write_sweep(["worse", "inconclusive"], [0.5, 0.1])
    before = (conclusion.noise_hurts(arms()), conclusion.it_pays(), conclusion.ranks_by_verdict())
    path = Path(f"metrics/studies/{study}.csv")
    table = pd.read_csv(path)
    other = table.assign(against="rank_20", difference=-9.0, verdict="better")
    pd.concat([other, table]).to_csv(path, index=False)
    after = (conclusion.noise_hurts(arms()), conclusion.it_pays(), conclusion.ranks_by_verdict())
    assert after == before


def test_it_pays_at_the_ranks_that_are_better() -> None:
    write_sweep(["worse", "better", "better", "inconclusive"], [0.5, -0.2, -0.1, -0.3])
    found = conclusion.it_pays()
    assert (found["state"], found["ranks"]) == ("holds", [2, 3])


@pytest.mark.parametrize("verdict", ["equivalent", "inconclusive", "worse"])
def test_it_does_not_pay_where_no_rank_is_better(verdict: str) -> None:
    write_sweep([verdict] * 3, [0.1, -0.2, 0.3])
    found = conclusion.it_pays()
    assert (found["state"], found["ranks"]) == (STATES[verdict], [])
    assert (found["closest"]["rank"], found["closest"]["difference_nats"]) == (2, -0.2)


def test_the_full_rank_is_not_the_closest_to_pay() -> None:
    write_sweep(["worse", "worse", "equivalent", "inconclusive"], [0.3, 0.1, 0.2, -0.5])
    found = conclusion.it_pays()
    assert found["state"] == "refuted"
    assert found["closest"] == {
        "rank": 2,
        "difference_nats": 0.1,
        "interval_95_nats": [0.1 - 0.25, 0.6],
        "verdict": "worse",
    }


def test_a_sweep_of_the_full_rank_alone_is_refused() -> None:
    write_study("rank_sweep", [("rank_4", 0.0, "equivalent")], rank=4, matrix_side=4)
    with pytest.raises(UserError, match="short of the full one"):
        conclusion.it_pays()


def test_every_rank_has_its_place_among_the_verdicts() -> None:
    write_sweep(["worse", "inconclusive", "better", "equivalent", "worse"], [2, 1, -1, 0, 3])
    found = conclusion.ranks_by_verdict()
    assert found == {"better": [3], "equivalent": [4], "inconclusive": [2], "worse": [1, 5]}


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
    assert found["closest"]["p_value_holm"] == 0.02  # a family of two ranks


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
    closest = found["closest"]
    assert (closest["rank"], closest["trajectory"]) == (1, "adam")
    assert closest["mean_nats"] == sign * 3
    assert closest["p_value_holm"] == pytest.approx(0.048)


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


def test_the_closest_rank_is_one_that_holds_where_any_does() -> None:
    rows = [("gain", "adam", 1, "all", 1.0, 0.001), ("gain", "adam", 5, "all", 9.0, 0.5)]
    found = conclusion.along_every_trajectory(gradients(rows), "gain", below=False)
    assert (found["ranks"], found["closest"]["rank"]) == ([1], 1)


def test_the_closest_rank_is_the_best_in_its_worst_trajectory() -> None:
    table = gradients(
        [
            ("gain", "adam", 1, "all", 9.0, 0.9),
            ("gain", "rank_20", 1, "all", -3.0, 0.9),
            ("gain", "adam", 5, "all", -1.0, 0.9),
            ("gain", "rank_20", 5, "all", -2.0, 0.9),
            ("gain", "rank_20", 5, "1", -4.0, 0.9),
            ("gain", "rank_20", 5, "20", 0.5, 0.9),
            ("gain", "adam", 5, "1", 7.0, 0.9),
            ("gain", "rank_20", 1, "1", 8.0, 0.9),
        ]
    )
    found = conclusion.along_every_trajectory(table, "gain", below=False)
    assert (found["state"], found["ranks"]) == ("not shown", [])
    assert found["closest"] == {
        "rank": 5,
        "trajectory": "rank_20",
        "mean_nats": -2.0,
        "interval_95_nats": [-3.0, -1.0],
        "p_value_holm": 1.0,
        "mean_by_epoch_nats": {"1": -4.0, "20": 0.5},
    }


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


@pytest.mark.parametrize("broken", [(), (0,), (1,), (2,), (3,), (1, 3), (2, 3), (0, 1, 2, 3)])
def test_the_first_link_that_does_not_hold_is_the_first_broken_one(broken: tuple[int, ...]) -> None:
    noise, cosine, step, pays = (place not in broken for place in range(4))
    write_study("noise_dial", [("noise_0", -0.1, "better" if noise else "worse")])
    write_sweep(["better" if pays else "worse", "equivalent"], [-0.1, 0.0])
    Path("metrics/studies/gradients").mkdir()
    arms()
    for arm in ("noise_0", "noise_half"):
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
    Path("metrics/studies/arms").mkdir()
    for arm in NOISES:
        tuned = {"lr": 0.01, "on_boundary": arm == "noise_double", "matrix_side": 4, "train": {}}
        Path(f"metrics/studies/arms/{arm}.json").write_text(json.dumps(tuned))
    for study in ("controls", "elsewhere", "approximate"):
        write_study(study, [(study, 1.0, "worse")])
    lower = {"last_loss_nats": 0.25, "best_loss_nats": 0.75, "last_accuracy_share": 0.5}
    shares = {f"{name}_lrg_adam_lower_share": share for name, share in lower.items()}
    published = {"published_2000_training_samples": shares | {"samplers": 16}}
    Path("metrics/studies/published.json").write_text(json.dumps(published))

    conclusion.main()

    found = json.loads(Path("metrics/conclusion.json").read_text())
    assert found["first_broken_link"] == (LINKS[broken[0]] if broken else None)
    states = [link["state"] for link in found["links"].values()]
    assert states == ["holds" if kept else "refuted" for kept in (noise, cosine, step, pays)]
    assert tuple(found["links"]) == LINKS
    assert found["lr_on_boundary"] == ["noise_double"]
    assert found["noise_dial"] == {"noise_0 against adam": "better" if noise else "worse"}
    assert found["controls"] == {"controls against adam": "worse"}
    assert found["published_protocol"] == {"published_2000_training_samples": shares}
