"""The published protocol: what a search and a final training get, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from experiment import data, protocol
from experiment.data import Dataset, Split
from experiment.protocol import Protocol, repeat
from experiment.training import Scores, Setting

TASK = Protocol(
    seed=0,
    first=0,
    size=3,
    hidden=(3,),
    trials=3,
    tune_samples=20,
    tune_epochs=2,
    tune_batch_size=8,
    epochs=3,
    batch_size=16,
    lr=(1e-4, 1e-1),
    rank=(2, 9),
    training_samples=(24, 40),
)
SEARCHED = ("adam_lr", "lrg_adam_lr", "lrg_adam_rank")


def dataset(rows: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    train, validation = (
        Split(rng.standard_normal((60, 40)).astype(np.float32), rng.integers(10, size=60))
        for _ in range(2)
    )
    return Dataset(Split(*(array[:rows] for array in train)), validation, validation)


def scrambled(split: Split, kept: int) -> Split:
    """The same first samples, and others from there on."""
    x = split.x.copy()
    x[kept:] = 9 - 4 * x[kept:]
    return Split(x, split.y)


# Real trainings of a tiny network


@pytest.fixture(scope="module")
def found() -> dict[str, Tensor]:
    return repeat(dataset(), TASK)


def test_results_have_a_value_a_sampler_and_a_loss_an_epoch(found: dict[str, Tensor]) -> None:
    shapes = dict.fromkeys(SEARCHED, (3,))
    for optimizer in ("adam", "adam_reported", "lrg_adam", "lrg_adam_reported"):
        for samples in TASK.training_samples:
            shapes |= {
                f"{optimizer}_loss_{samples}": (3, 4),
                f"{optimizer}_accuracy_{samples}": (3,),
            }
    assert {name: tuple(values.shape) for name, values in found.items()} == shapes


def test_a_sampler_is_the_same_in_every_group(found: dict[str, Tensor]) -> None:
    alone = repeat(dataset(), replace(TASK, first=2, size=1))
    for name, values in found.items():
        torch.testing.assert_close(alone[name], values[2:], rtol=1e-4, atol=1e-5)


def test_another_seed_is_another_experiment(found: dict[str, Tensor]) -> None:
    other = repeat(dataset(), replace(TASK, seed=1, size=1))
    assert other["adam_lr"][0] not in found["adam_lr"]


def test_the_search_sees_neither_validation_nor_the_rows_after_its_own(
    found: dict[str, Tensor],
) -> None:
    given = dataset()
    changed = repeat(
        given._replace(
            train=scrambled(given.train, TASK.tune_samples),
            validation=scrambled(given.validation, 0),
        ),
        TASK,
    )
    for name in SEARCHED:
        assert torch.equal(changed[name], found[name])
    assert not torch.isclose(changed["adam_loss_24"], found["adam_loss_24"]).any()


def test_a_final_training_gets_the_first_rows_alone(found: dict[str, Tensor]) -> None:
    given = dataset()
    changed = repeat(given._replace(train=scrambled(given.train, 24)), TASK)
    for optimizer in ("adam", "lrg_adam"):
        name = f"{optimizer}_loss_24"
        torch.testing.assert_close(changed[name], found[name], rtol=0, atol=0)
        name = f"{optimizer}_loss_40"
        assert not torch.isclose(changed[name][:, 1:], found[name][:, 1:]).all()


def test_both_optimizers_begin_with_the_same_weights(found: dict[str, Tensor]) -> None:
    names = ("adam", "lrg_adam", "adam_reported", "lrg_adam_reported")
    for samples in TASK.training_samples:
        first, *others = (found[f"{name}_loss_{samples}"] for name in names)
        for other in others:
            assert torch.equal(first[:, 0], other[:, 0])
            assert not torch.isclose(first[:, 1:], other[:, 1:]).all()


def test_all_trainings_of_a_sampler_begin_alike_and_none_has_the_batches_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, _, _ = run(monkeypatch, distance)
    assert {one.setting.purpose for one in runs} == {"published"}
    found = [one.setting.batches for one in runs]
    # A final training with the published hyperparameters has the batches of that with its own.
    assert len(set(found)) == len(found) - 2 * len(TASK.training_samples)


# A search in losses that are known


class Run(NamedTuple):
    """A training that was asked for."""

    setting: Setting
    rows: Split
    replicates: list[int]


Loss = Callable[[np.ndarray, int], np.ndarray]


def run(
    monkeypatch: pytest.MonkeyPatch, loss: Loss, task: Protocol = TASK
) -> tuple[list[Run], dict[str, Tensor], list[Split]]:
    """Repeat the protocol with losses of the learning rates and the epoch, without training.

    Returns:
        What was trained, what was found, and on what it was validated.

    """
    runs: list[Run] = []
    scored: list[Split] = []

    def train(
        setting: Setting, rows: Split, replicates: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, int]]:
        runs.append(Run(setting, rows, list(replicates)))
        for epoch in range(setting.epochs + 1):
            yield np.array(setting.hyperparameters["lr"]), epoch

    def evaluate(_: object, weights: tuple[np.ndarray, int], rows: Split) -> Scores:
        scored.append(rows)
        value = torch.from_numpy(loss(*weights).astype(float))
        return Scores(value, value)

    monkeypatch.setattr(protocol, "train", train)
    monkeypatch.setattr(protocol, "evaluate", evaluate)
    result = repeat(dataset(), task)
    return runs, result, scored


def searched(runs: Sequence[Run], optimizer: str) -> list[Run]:
    return [
        one
        for one in runs
        if "trial" in one.setting.batches
        and ("rank" in one.setting.hyperparameters) == (optimizer == "lrg_adam")
    ]


def rates(runs: Sequence[Run]) -> np.ndarray:
    return np.array([one.setting.hyperparameters["lr"] for one in runs])


def distance(lr: np.ndarray, _: int = 0) -> np.ndarray:
    return np.abs(np.log(lr / 3e-3))


def lowest_in_the_first_epoch(lr: np.ndarray, epoch: int) -> np.ndarray:
    return [np.zeros_like(lr), distance(lr), 50 + lr][epoch if epoch < 3 else 2]


def lowest_in_the_last_epoch(lr: np.ndarray, epoch: int) -> np.ndarray:
    return [np.zeros_like(lr), 50 + lr, distance(lr)][epoch if epoch < 3 else 2]


def diverging_after_an_epoch(lr: np.ndarray, epoch: int) -> np.ndarray:
    return distance(lr) if epoch == 1 else np.full_like(lr, np.nan)


def diverging_afar(lr: np.ndarray, _: int) -> np.ndarray:
    return np.where(distance(lr) > 1, np.nan, distance(lr))


@pytest.mark.parametrize(
    "loss",
    [
        lowest_in_the_first_epoch,
        lowest_in_the_last_epoch,
        diverging_after_an_epoch,
        diverging_afar,
    ],
)
def test_the_best_point_has_the_lowest_loss_of_any_epoch_of_training(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, found, _ = run(monkeypatch, loss, replace(TASK, trials=12))
    for optimizer in ("adam", "lrg_adam"):
        trials = searched(runs, optimizer)
        best = distance(rates(trials)).argmin(axis=0)
        for sampler, trial in enumerate(best):
            point = trials[trial].setting.hyperparameters
            assert found[f"{optimizer}_lr"][sampler] == point["lr"][sampler]
            if optimizer == "lrg_adam":
                assert found["lrg_adam_rank"][sampler] == point["rank"][sampler]


def test_a_search_whose_every_trial_diverges_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, found, _ = run(monkeypatch, lambda lr, _: np.full_like(lr, np.nan))
    assert torch.equal(found["adam_lr"], torch.from_numpy(rates(searched(runs, "adam"))[0]))


def test_ten_trials_are_random_and_the_next_ones_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, trials=11)
    one, other = (
        rates(searched(run(monkeypatch, lambda lr, _, sign=sign: sign * lr, task)[0], "adam"))
        for sign in (-1, 1)
    )
    np.testing.assert_array_equal(one[:10], other[:10])
    assert (one[10] != other[10]).all()


def test_every_sampler_proposes_points_of_its_own_within_the_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, _, _ = run(monkeypatch, distance, replace(TASK, trials=40))
    for optimizer in ("adam", "lrg_adam"):
        lr = rates(searched(runs, optimizer))
        assert lr.shape == (40, 3)
        assert len(np.unique(lr)) == lr.size
        assert (lr.min() >= 1e-4, lr.max() <= 1e-1) == (True, True)
        assert np.median(lr[:10]) < 0.02  # on a log scale: the middle of the interval is 0.003
    ranks = [one.setting.hyperparameters["rank"] for one in searched(runs, "lrg_adam")]
    assert {rank for trial in ranks for rank in trial} == set(range(2, 10))


def test_trials_and_final_trainings_have_their_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, found, _ = run(monkeypatch, distance, replace(TASK, first=4))
    sizes = [
        (one.setting.epochs, one.setting.batch_size, len(one.rows.x), len(one.rows.y))
        for one in runs
    ]
    whole = [(2, 8, 20, 20)] * 3 + [(3, 16, 24, 24)] * 2 + [(3, 16, 40, 40)] * 2
    assert sizes == whole * 2
    assert all(one.replicates == [4, 5, 6] for one in runs)
    reported = {"adam": {"lr": 0.0059}, "lrg_adam": {"lr": 0.0064, "rank": 20}}
    for optimizer, finals in (("adam", runs[3:7]), ("lrg_adam", runs[10:])):
        for final in finals[::2]:
            for name, values in final.setting.hyperparameters.items():
                assert list(values) == found[f"{optimizer}_{name}"].tolist()
        for final in finals[1::2]:
            same = {name: (value,) * 3 for name, value in reported[optimizer].items()}
            assert final.setting.hyperparameters == same


def test_offline_samples_take_the_place_of_the_published_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = replace(TASK, offline_samples=100, training_samples=(80,))
    runs, _, scored = run(monkeypatch, distance, task)
    train, test = data.offline(100)
    for one in runs:
        np.testing.assert_array_equal(one.rows.x, train.x[: len(one.rows.x)])
        np.testing.assert_array_equal(one.rows.y, train.y[: len(one.rows.y)])
    assert {len(one.rows.x) for one in runs} == {20, 80}
    np.testing.assert_array_equal(scored[-1].x, test.x)
