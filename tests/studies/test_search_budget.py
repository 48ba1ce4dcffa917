"""The budget of the search: what the searches are, and what is compared after how many trials."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import SMALL, set_params
from scipy import stats

import tune
from experiment.datasets import mnist1d
from experiment.stage import files
from experiment.stage.data import Dataset, Split
from studies.training import search_budget

from .small import SMALL_STUDIES

ROOT = Path(__file__).parents[2]
FOUND = Path("metrics/studies/search_budget.csv")


BUDGET = {**SMALL_STUDIES["search_budget"], "seed": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small params.yaml, and data in the place of MNIST-1D's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    shutil.copy2(ROOT / "params.yaml", "params.yaml")
    set_params(Path("params.yaml"), SMALL)
    split = Split(*mnist1d.fresh(100, 0))
    for name in ("mnist1d", "studies/mnist1d"):
        Dataset(split, split, split).write(name, "MNIST-1D")


def searched(samplers: int, *trials: int) -> pd.DataFrame:
    content = {**BUDGET, "samplers": samplers, "trials": trials}
    files.write_json(Path("data/settings/search_budget.json"), content)
    search_budget.main()
    return pd.read_csv(FOUND)


def table(losses: dict[str, list[list[float]]]) -> pd.DataFrame:
    """The losses of an optimizer's searches, one after the other."""
    rows = [
        {"optimizer": optimizer, "sampler": sampler, "trial": trial, "best_so_far_nats": min(best)}
        for optimizer, searches in losses.items()
        for sampler, found in enumerate(searches)
        for trial, best in enumerate(found[: end + 1] for end in range(len(found)))
    ]
    return pd.DataFrame(rows)


LOSSES = {
    "adam": [[1.5, 1.75, 1.0], [2.0, 1.25, 1.5], [1.75, 1.75, 1.5]],
    "lrg_adam": [[1.25, 1.0, 2.0], [1.5, 1.5, 1.125], [2.0, 1.25, 3.0]],
}
# Of each search, by the number of trials.
BEST = {
    1: {"adam": [1.5, 2.0, 1.75], "lrg_adam": [1.25, 1.5, 2.0]},
    2: {"adam": [1.5, 1.25, 1.75], "lrg_adam": [1.0, 1.5, 1.25]},
    3: {"adam": [1.0, 1.25, 1.5], "lrg_adam": [1.0, 1.125, 1.25]},
}


def test_the_best_losses_so_far_are_compared_in_pairs_of_samplers() -> None:
    rows = table(LOSSES).sample(frac=1, random_state=0)  # whatever their order
    found = search_budget.summary(rows, [1, 3])
    assert list(found) == ["1_trials", "3_trials"]
    for budget in (1, 3):
        adam, lrg_adam = (BEST[budget][name] for name in ("adam", "lrg_adam"))
        differences = [one - other for one, other in zip(lrg_adam, adam, strict=True)]
        interval = stats.ttest_1samp(differences, 0).confidence_interval()
        assert found[f"{budget}_trials"] == pytest.approx(
            {
                "adam_best_loss_nats": sum(adam) / 3,
                "lrg_adam_best_loss_nats": sum(lrg_adam) / 3,
                "difference": sum(differences) / 3,
                "difference_low": interval.low,
                "difference_high": interval.high,
                "lrg_adam_lower_share": 2 / 3,
            }
        )


def test_what_fewer_trials_find_does_not_depend_on_those_after_them() -> None:
    short = {name: [found[:2] for found in searches] for name, searches in LOSSES.items()}
    assert (
        search_budget.summary(table(LOSSES), [2, 3])["2_trials"]
        == search_budget.summary(table(short), [2])["2_trials"]
    )


def test_a_longer_search_begins_with_a_shorter_one() -> None:
    short = searched(2, 1, 3)
    summary = json.loads(FOUND.with_suffix(".json").read_text())
    long = searched(3, 1, 5)
    both = ["optimizer", "sampler", "trial"]
    assert long.groupby(both[:2]).size().to_dict() == {
        (optimizer, sampler): 5 for optimizer in ("adam", "lrg_adam") for sampler in range(3)
    }
    kept = long[(long["sampler"] < 2) & (long["trial"] < 3)]
    pd.testing.assert_frame_equal(kept.set_index(both), short.set_index(both))
    again = search_budget.summary(long[long["sampler"] < 2], [1, 3])
    assert again["1_trials"] == pytest.approx(summary["1_trials"])
    assert again["3_trials"] == pytest.approx(summary["3_trials"])


def test_the_searches_of_the_first_sampler_are_those_of_the_main_pipeline() -> None:
    table = searched(2, 2, 5).set_index(["optimizer", "sampler"])
    for optimizer in ("adam", "lrg_adam"):
        tune.main(optimizer)
        trials = pd.DataFrame(
            json.loads(Path(f"metrics/tune_{optimizer}.json").read_text())["trials"]
        )
        assert len(trials) == SMALL["tune.trials"] < 5
        ours, others = (table.loc[(optimizer, sampler)] for sampler in range(2))
        columns = ["trial", "lr", "trial_loss_nats", "best_so_far_nats"]
        columns += ["rank"] if optimizer == "lrg_adam" else []
        first = ours[columns].iloc[: len(trials)].reset_index(drop=True)
        pd.testing.assert_frame_equal(first, trials[columns], check_dtype=False)
        assert not set(others["lr"]) & set(ours["lr"])
