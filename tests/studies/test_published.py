"""The study of the published protocol: what each sampler gets, and how samplers are summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiment.datasets import mnist1d
from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from studies.published import repeat as published
from studies.published.protocol import Repetition
from studies.published.reported import OUTCOMES
from studies.training.arms import SETTINGS, ProtocolConfig

CONFIG: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "samplers": 2,
    "hidden": [4],
    "trials": 2,
    "tune_samples": 20,
    "tune_epochs": 1,
    "tune_batch_size": 8,
    "epochs": 1,
    "batch_size": 16,
    "lr": {"low": 1e-5, "high": 0.1},
    "rank": {"low": 2, "high": 5},
    "training_samples": [50, 60],
    "offline_samples": 100,
}


def test_the_protocol_is_repeated_on_published_and_on_generated_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    files.write_json(SETTINGS / "published.json", CONFIG)

    published.main()

    train, test = mnist1d.published()
    generated, rest = mnist1d.generated(num_samples=100)
    data_sets = {
        "published": (Dataset(train, test, test), [50, 60]),
        "offline": (Dataset(generated, rest, rest), [80]),  # all of them are trained on
    }
    table = pd.read_csv("metrics/studies/published.csv")
    assert len(table) == 2 * 2 * 3
    for name, (dataset, samples) in data_sets.items():
        given = ProtocolConfig.model_validate({**CONFIG, "training_samples": samples})
        found = published.repeat(dataset, Repetition(given, highest_rank=5, sampler=1))
        rows = table.query(f"data == '{name}' and sampler == 1 and hyperparameters == 'searched'")
        assert list(rows["training_samples"]) == samples
        for row in rows.itertuples():
            run = f"lrg_adam searched {row.training_samples}"
            assert row.lrg_adam_last_loss_nats == pytest.approx(found[f"loss {run}"][0, -1].item())
            assert row.lrg_adam_rank == found["lrg_adam_rank"].item()


def test_a_rank_beyond_the_matrix_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_json(SETTINGS / "published.json", CONFIG | {"rank": {"low": 2, "high": 16}})
    with pytest.raises(UserError, match=r"published.rank.high = 16; allowed: at most 15"):
        published.main()
    assert not Path("metrics").exists()


@pytest.mark.parametrize(
    ("hyperparameters", "lr", "rank"),
    [
        ("searched", {"adam": [0.1, 0.2], "lrg_adam": [0.3, 0.4]}, [7, 9]),
        ("reported", {"adam": [0.0059] * 2, "lrg_adam": [0.0064] * 2}, [20, 20]),
    ],
)
def test_a_sampler_ends_with_its_last_and_its_best_epoch(
    hyperparameters: str, lr: dict[str, list[float]], rank: list[int]
) -> None:
    curves = np.array([[3.0, 1.0, 2.0], [3.0, 2.0, 1.5]])
    other = "reported" if hyperparameters == "searched" else "searched"
    adam, lrg_adam = (f"{name} {hyperparameters} 24" for name in ("adam", "lrg_adam"))
    table = published.samplers(
        {
            "adam_lr": np.array([0.1, 0.2]),
            "lrg_adam_lr": np.array([0.3, 0.4]),
            "lrg_adam_rank": np.array([7.0, 9.0]),
            f"loss {adam}": curves,
            f"loss {lrg_adam}": curves + 10,
            f"loss adam {hyperparameters} 40": curves + 50,
            f"loss adam {other} 24": curves + 60,
            f"accuracy {adam}": np.array([0.5, 0.6]),
            f"accuracy {lrg_adam}": np.array([0.7, 0.8]),
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
        for outcome in OUTCOMES
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
        for outcome in OUTCOMES:
            treatment, baseline = part[f"lrg_adam_{outcome}"], part[f"adam_{outcome}"]
            interval = stats.ttest_rel(treatment, baseline).confidence_interval()
            expected = {
                "difference": treatment.mean() - baseline.mean(),
                "difference_low": interval.low,
                "difference_high": interval.high,
            }
            for key, value in expected.items():
                assert row[f"{outcome}_{key}"] == pytest.approx(value)


def test_quantiles_leave_a_twentieth_at_each_end() -> None:
    given = table(21, "published", 24).assign(lrg_adam_rank=np.arange(10, 31))
    row = published.summary(given, highest_rank=30)["published_24_training_samples_searched"]
    names = ("5th_percentile", "median", "95th_percentile")
    assert [row[f"lrg_adam_rank_{name}"] for name in names] == [11, 20, 29]
    assert row["highest_rank_share"] == 1 / 21
    assert (row["adam_lr_reported"], row["lrg_adam_lr_reported"]) == (0.0059, 0.0064)
