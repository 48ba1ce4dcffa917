"""The search: what it proposes, that it can be repeated, and where its best point lies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from project import ROOT

from experiment.stage.params import Params, read_params
from experiment.stage.schema import checked
from experiment.training.optimizer import Hyperparameters
from experiment.training.search import (
    Trial,
    hyperparameters,
    on_boundary,
    search,
    search_space,
    table,
)

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "rank": IntDistribution(1, 118, log=True),
}


def params(**changes: object) -> Params:
    given = read_params(ROOT / "params.yaml").model_dump()
    return checked(Params, {**given, **changes}, "")


@pytest.mark.parametrize(
    ("optimizer", "changes", "fixed", "space"),
    [
        ("adam", {}, {"weight_decay": 0}, {"lr": SPACE["lr"]}),
        ("lrg_adam", {}, {"weight_decay": 0, "method": "gram"}, SPACE),
        ("lrg_adam", {"rank": 5, "lrg_adam": {}}, {"rank": 5}, {"lr": SPACE["lr"]}),
        (
            "lrg_adam",
            {"lrg_adam": {"eps": {"low": 0, "high": 0.1}, "iterations": {"low": 1, "high": 8}}},
            {},
            {**SPACE, "eps": FloatDistribution(0, 0.1), "iterations": IntDistribution(1, 8)},
        ),
    ],
)
def test_what_the_parameters_do_not_fix_is_searched(
    optimizer: str, changes: dict, fixed: dict, space: dict
) -> None:
    found, searched = hyperparameters(params(**changes), optimizer)
    assert found == fixed
    assert search_space(searched, side=119) == space


def bowl(points: Sequence[Hyperparameters]) -> list[float]:
    return [
        math.log(p["lr"] / 3e-3) ** 2 + 0.1 * math.log(p.get("rank", 20) / 20) ** 2 for p in points
    ]


def test_a_search_that_is_repeated_proposes_the_same_points() -> None:
    first, second = (search(SPACE, bowl, trials=15, wave=4, seed=1) for _ in range(2))
    assert first == second
    assert search(SPACE, bowl, trials=15, wave=4, seed=2) != first


@pytest.mark.parametrize("trials", [1, 4, 6, 8, 11])  # whole waves, and waves that are cut short
def test_more_trials_begin_with_those_of_fewer(trials: int) -> None:
    short = search(SPACE, bowl, trials=trials, wave=4, seed=1)
    assert search(SPACE, bowl, trials=12, wave=4, seed=1)[:trials] == short


def test_a_table_has_a_row_per_trial_and_the_best_loss_so_far() -> None:
    losses = [1.5, math.inf, 1.25, 2.0]
    trials = [Trial({"lr": 10.0**-number}, loss) for number, loss in enumerate(losses)]
    rows = table(trials, rank=5)
    assert list(rows["trial"]) == [0, 1, 2, 3]
    assert list(rows["lr"]) == [1, 0.1, 0.01, 0.001]
    assert list(rows["rank"]) == [5] * 4
    assert list(rows["trial_loss_nats"]) == losses
    assert list(rows["best_so_far_nats"]) == [1.5, 1.5, 1.25, 1.25]


def test_the_search_learns_from_what_it_was_told() -> None:
    trials = search(SPACE, bowl, trials=60, wave=4, seed=0)
    early, late = trials[:8], trials[-20:]
    mean = lambda ts: sum(t.validation_loss for t in ts) / len(ts)  # noqa: E731
    assert mean(late) < mean(early) / 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_trial_is_finished_with_an_infinite_loss(bad: float) -> None:
    def losses(points: Sequence[Hyperparameters]) -> list[float]:
        return [
            bad if p["lr"] > 1e-2 else value for p, value in zip(points, bowl(points), strict=True)
        ]

    trials = search(SPACE, losses, trials=12, wave=3, seed=0)

    assert len(trials) == 12
    diverged = [t for t in trials if t.hyperparameters["lr"] > 1e-2]
    assert diverged
    assert all(t.validation_loss == math.inf for t in diverged)
    assert min(trials, key=lambda t: t.validation_loss).validation_loss < math.inf


@given(
    lr=st.floats(1e-4, 1e-1),
    rank=st.integers(1, 118),
)
def test_points_stay_in_the_space_and_the_edge_is_five_percent(lr: float, rank: int) -> None:
    at = on_boundary(SPACE, Trial({"lr": lr, "rank": rank}, 0).hyperparameters)
    depth = min(math.log(lr / 1e-4), math.log(1e-1 / lr)) / math.log(1e3)
    if abs(depth - 0.05) > 1e-9:
        assert ("lr" in at) == (depth < 0.05)
    if rank in (1, 2, 117, 118):
        assert "rank" in at
    if 2 < rank < 90:
        assert "rank" not in at
