"""The study of the published protocol: groups of samplers, and how samplers are summed up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from experiment.params import Params, read_params
from studies import published

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def params() -> Params:
    return read_params(published.READS, PARAMS)


def in_groups(params: Params, samplers: int, group: int) -> Params:
    changed = params.studies.published.model_copy(update={"samplers": samplers, "group": group})
    studies = params.studies.model_copy(update={"published": changed})
    return params.model_copy(update={"studies": studies})


@given(st.integers(2, 40), st.integers(1, 50))
def test_every_sampler_is_in_one_group_and_none_is_too_large(
    params: Params, samplers: int, group: int
) -> None:
    tasks = published.protocols(in_groups(params, samplers, group), "published")
    assert [number for task in tasks for number in task.samplers] == list(range(samplers))
    assert all(task.size == group for task in tasks[:-1])
    assert 1 <= tasks[-1].size <= group


def test_only_offline_data_is_generated_and_all_of_it_trained_on(params: Params) -> None:
    (rows,) = published.protocols(in_groups(params, 4, 4), "published")
    assert (rows.offline_samples, rows.training_samples) == (None, (2000, 4000))
    (offline,) = published.protocols(in_groups(params, 4, 4), "offline")
    assert (offline.offline_samples, offline.training_samples) == (2000, (1600,))


@pytest.mark.parametrize(
    ("hyperparameters", "infix", "lr", "rank"),
    [
        ("searched", "", {"adam": [0.1, 0.2], "lrg_adam": [0.3, 0.4]}, [7, 9]),
        ("reported", "_reported", {"adam": [0.0059] * 2, "lrg_adam": [0.0064] * 2}, [20, 20]),
    ],
)
def test_a_sampler_ends_with_its_last_and_its_best_epoch(
    hyperparameters: str, infix: str, lr: dict[str, list[float]], rank: list[int]
) -> None:
    curves = np.array([[3.0, 1.0, 2.0], [3.0, 2.0, 1.5]])
    table = published.samplers(
        {
            "adam_lr": np.array([0.1, 0.2]),
            "lrg_adam_lr": np.array([0.3, 0.4]),
            "lrg_adam_rank": np.array([7.0, 9.0]),
            f"adam{infix}_loss_24": curves,
            f"lrg_adam{infix}_loss_24": curves + 10,
            f"adam{infix}_loss_40": curves + 50,
            f"adam{infix}_accuracy_24": np.array([0.5, 0.6]),
            f"lrg_adam{infix}_accuracy_24": np.array([0.7, 0.8]),
        },
        "published",
        24,
        hyperparameters,
    )
    assert table.to_dict("list") == {
        "data": ["published"] * 2,
        "training_samples": [24, 24],
        "hyperparameters": [hyperparameters] * 2,
        "sampler": [0, 1],
        "adam_lr": lr["adam"],
        "lrg_adam_lr": lr["lrg_adam"],
        "lrg_adam_rank": rank,
        "adam_last_loss_nats": [2.0, 1.5],
        "adam_best_loss_nats": [1.0, 1.5],
        "adam_last_accuracy_share": [0.5, 0.6],
        "lrg_adam_last_loss_nats": [12.0, 11.5],
        "lrg_adam_best_loss_nats": [11.0, 11.5],
        "lrg_adam_last_accuracy_share": [0.7, 0.8],
    }


def table(
    samplers: int, data_set: str, training_samples: int, hyperparameters: str = "searched"
) -> pd.DataFrame:
    rng = np.random.default_rng(training_samples)
    columns = {
        "adam_lr": np.geomspace(1e-3, 1e-1, samplers),
        "lrg_adam_lr": np.geomspace(2e-3, 1e-1, samplers),
        "lrg_adam_rank": rng.integers(15, 21, samplers),
    } | {
        f"{optimizer}_{outcome}": rng.normal(1.3 + (optimizer == "adam") * 0.3, 0.2, samplers)
        for optimizer in ("adam", "lrg_adam")
        for outcome in published.OUTCOMES
    }
    described = {"data": data_set, "training_samples": training_samples}
    return pd.DataFrame(described | {"hyperparameters": hyperparameters} | columns)


def test_summary_of_each_data_set_is_that_of_independent_references() -> None:
    parts = [
        table(21, "published", 24),
        table(12, "published", 40),
        table(9, "offline", 24),
        table(9, "offline", 24, "reported"),
    ]
    found = published.summary(pd.concat(parts, ignore_index=True), highest_rank=20)
    assert list(found) == [
        "published_24_training_samples_searched",
        "published_40_training_samples_searched",
        "offline_24_training_samples_searched",
        "offline_24_training_samples_reported",
    ]
    for (name, row), part in zip(found.items(), parts, strict=True):
        assert row["samplers"] == len(part)
        if name.endswith("reported"):
            assert not any("_lr_" in key or "rank" in key for key in row)
        else:
            assert row["highest_rank_share"] == sum(part["lrg_adam_rank"] == 20) / len(part)
            assert row["adam_lr_median"] == pytest.approx(part["adam_lr"].median())
        for outcome in published.OUTCOMES:
            treatment, baseline = part[f"lrg_adam_{outcome}"], part[f"adam_{outcome}"]
            test = stats.ttest_rel(treatment, baseline)
            interval = test.confidence_interval()
            lower = int((treatment < baseline).sum())
            share = proportion_confint(lower, len(part), method="beta")
            expected = {
                "difference": treatment.mean() - baseline.mean(),
                "difference_low": interval.low,
                "difference_high": interval.high,
                "lrg_adam_lower_share": lower / len(part),
                "lrg_adam_lower_share_low": share[0],
                "lrg_adam_lower_share_high": share[1],
            }
            for key, value in expected.items():
                assert row[f"{outcome}_{key}"] == pytest.approx(value)


def test_shares_count_what_is_reported_and_quantiles_leave_a_twentieth_at_each_end() -> None:
    given = table(21, "published", 24)
    given["lrg_adam_rank"] = np.arange(10, 31)
    given["adam_lr"] = 0.0059
    given["lrg_adam_lr"] = math.nextafter(0.0064, 1)
    given["adam_last_loss_nats"] = given["lrg_adam_last_loss_nats"]
    row = published.summary(given, highest_rank=30)["published_24_training_samples_searched"]
    names = ("5th_percentile", "median", "95th_percentile")
    assert [row[f"lrg_adam_rank_{name}"] for name in names] == [
        11,
        20,
        29,
    ]
    assert row["lrg_adam_rank_share_at_most_reported"] == 11 / 21
    assert row["highest_rank_share"] == 1 / 21
    assert row["adam_lr_share_at_most_reported"] == 1
    assert row["lrg_adam_lr_share_at_most_reported"] == 0
    assert (row["adam_lr_reported"], row["lrg_adam_lr_reported"]) == (0.0059, 0.0064)
    assert row["last_loss_nats_lrg_adam_lower_share"] == 0  # a tie is not lower
