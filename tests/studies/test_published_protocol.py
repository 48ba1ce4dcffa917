"""The published protocol: what a search and a final training get, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from experiment.stage.data import Dataset, Split
from experiment.training.loop import RunConfig, Scores
from experiment.training.network import Network
from experiment.training.work import merged
from studies.published import protocol
from studies.published.protocol import SOURCES, Repetition, repeat
from studies.training.arms import ProtocolConfig

GIVEN = ProtocolConfig(
    seed=0,
    device="cpu",
    samplers=3,
    hidden=[3],
    trials=3,
    tune_samples=20,
    tune_epochs=2,
    tune_batch_size=8,
    epochs=3,
    batch_size=16,
    lr={"low": 1e-4, "high": 1e-1},
    rank={"low": 2, "high": 9},
    training_samples=[24, 40],
    offline_samples=100,
)
TASK = Repetition(GIVEN, highest_rank=9, sampler=0)
SAMPLERS = 3
SEARCHED = ("adam_lr", "lrg_adam_lr", "lrg_adam_rank")


def dataset(rows: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    train, validation = (
        Split(rng.standard_normal((60, 40)).astype(np.float32), rng.integers(10, size=60))
        for _ in range(2)
    )
    return Dataset(Split(*(array[:rows] for array in train)), validation, validation)


def longer(trials: int) -> Repetition:
    return replace(TASK, given=GIVEN.model_copy(update={"trials": trials}))


def scrambled(split: Split, kept: int) -> Split:
    """The same first samples, and others from there on."""
    x = split.x.copy()
    x[kept:] = 9 - 4 * x[kept:]
    return Split(x, split.y)


def repeated(data: Dataset, task: Repetition = TASK) -> dict[str, Tensor]:
    """The results of the first samplers, one after the other."""
    return merged([repeat(data, replace(task, sampler=number)) for number in range(SAMPLERS)])


def losses(found: dict[str, Tensor], optimizer: str, source: str, samples: int) -> Tensor:
    return found[f"loss {optimizer} {source} {samples}"]


# Real trainings of a tiny network


@pytest.fixture(scope="module")
def found() -> dict[str, Tensor]:
    return repeated(dataset())


def test_every_sampler_is_another_experiment(found: dict[str, Tensor]) -> None:
    """Of all its trainings too: the initial weights, and the order of the batches."""
    for name, values in found.items():
        if name not in ("lrg_adam_rank",) and not name.startswith("accuracy"):
            assert len({tuple(row) for row in values.view(SAMPLERS, -1).tolist()}) == SAMPLERS, name


def test_the_search_sees_neither_validation_nor_the_rows_after_its_own(
    found: dict[str, Tensor],
) -> None:
    given = dataset()
    changed = repeated(
        given._replace(
            train=scrambled(given.train, GIVEN.tune_samples),
            validation=scrambled(given.validation, 0),
        )
    )
    for name in SEARCHED:
        assert torch.equal(changed[name], found[name])
    before, after = (losses(one, "adam", "searched", 24) for one in (found, changed))
    assert not torch.isclose(after, before).any()


def test_a_final_training_gets_the_first_rows_alone(found: dict[str, Tensor]) -> None:
    given = dataset()
    changed = repeated(given._replace(train=scrambled(given.train, 24)))
    for optimizer, source in product(("adam", "lrg_adam"), SOURCES):
        before, after = (losses(one, optimizer, source, 24) for one in (found, changed))
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        before, after = (losses(one, optimizer, source, 40) for one in (found, changed))
        assert not torch.isclose(after[:, 1:], before[:, 1:]).all()


def test_both_optimizers_begin_with_the_same_weights(found: dict[str, Tensor]) -> None:
    for samples in GIVEN.training_samples:
        first, *others = (
            losses(found, optimizer, source, samples)
            for optimizer, source in product(("adam", "lrg_adam"), SOURCES)
        )
        for other in others:
            assert torch.equal(first[:, 0], other[:, 0])
            assert not torch.isclose(first[:, 1:], other[:, 1:]).all()


# A search in losses that are known


class Run(NamedTuple):
    """A training that was asked for."""

    config: RunConfig
    rows: Split
    replicates: list[int]


class Repeated(NamedTuple):
    """What one sampler trained, what it found, and on what it was scored."""

    runs: list[Run]
    found: dict[str, Tensor]
    scored: list[Split]


Loss = Callable[[np.ndarray, int], np.ndarray]


def run(
    monkeypatch: pytest.MonkeyPatch,
    loss: Loss,
    task: Repetition = TASK,
    samplers: Sequence[int] = range(SAMPLERS),
) -> list[Repeated]:
    """Repeat the protocol with losses of the learning rate and the epoch, without training."""
    runs: list[Run] = []
    scored: list[Split] = []

    def train(
        config: RunConfig, network: Network, rows: Split, replicates: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, int]]:
        assert network.matrix_side == 13  # of 163 weights
        runs.append(Run(config, rows, list(replicates)))
        for epoch in range(config.epochs + 1):
            yield np.array([config.hyperparameters["lr"]]), epoch

    def evaluate(_: object, weights: tuple[np.ndarray, int], rows: Split) -> Scores:
        scored.append(rows)
        value = torch.from_numpy(loss(*weights).astype(float))
        return Scores(value, value)

    monkeypatch.setattr(protocol, "train", train)
    monkeypatch.setattr(protocol, "evaluate", evaluate)
    found = []
    for sampler in samplers:
        result = repeat(dataset(), replace(task, sampler=sampler))
        found.append(Repeated(runs.copy(), result, scored.copy()))
        runs.clear()
        scored.clear()
    return found


def searched(one: Repeated, optimizer: str) -> list[Run]:
    return [
        training
        for training in one.runs
        if "trial" in training.config.batches and training.config.optimizer == optimizer
    ]


def rates(runs: Sequence[Run]) -> np.ndarray:
    return np.array([one.config.hyperparameters["lr"] for one in runs])


def distance(lr: np.ndarray, _: int = 0) -> np.ndarray:
    return np.abs(np.log(lr / 3e-3))


def lowest_in_the_first_epoch(lr: np.ndarray, epoch: int) -> np.ndarray:
    return [np.zeros_like(lr), distance(lr), 50 + lr][epoch if epoch < 3 else 2]


def diverging_after_an_epoch(lr: np.ndarray, epoch: int) -> np.ndarray:
    return distance(lr) if epoch == 1 else np.full_like(lr, np.nan)


def diverging_afar(lr: np.ndarray, _: int) -> np.ndarray:
    return np.where(distance(lr) > 1, np.nan, distance(lr))


@pytest.mark.parametrize(
    "loss",
    [
        lowest_in_the_first_epoch,
        diverging_after_an_epoch,
        diverging_afar,
    ],
)
def test_the_best_point_has_the_lowest_loss_of_any_epoch_of_training(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in run(monkeypatch, loss, longer(12)):
        for optimizer in ("adam", "lrg_adam"):
            trials = searched(one, optimizer)
            point = trials[distance(rates(trials)).argmin()].config.hyperparameters
            assert one.found[f"{optimizer}_lr"].tolist() == [point["lr"]]
            if optimizer == "lrg_adam":
                assert one.found["lrg_adam_rank"].tolist() == [point["rank"]]


def test_every_sampler_proposes_points_of_its_own_within_the_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = run(monkeypatch, distance, longer(25))
    for optimizer in ("adam", "lrg_adam"):
        lr = np.stack([rates(searched(one, optimizer)) for one in found], axis=1)
        assert lr.shape == (25, 3)
        assert len(np.unique(lr)) == lr.size
        assert (lr.min() >= 1e-4, lr.max() <= 1e-1) == (True, True)
        assert np.median(lr[:10]) < 0.02  # on a log scale: the middle of the interval is 0.003
    ranks = {
        training.config.hyperparameters["rank"]
        for one in found
        for training in searched(one, "lrg_adam")
    }
    assert ranks == set(range(2, 10))


def test_trials_and_final_trainings_have_their_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    ((runs, found, scored),) = run(monkeypatch, distance, samplers=[4])
    sizes = [
        (one.config.epochs, one.config.batch_size, len(one.rows.x), len(one.rows.y)) for one in runs
    ]
    whole = [(2, 8, 20, 20)] * 3 + [(3, 16, 24, 24)] * 2 + [(3, 16, 40, 40)] * 2
    assert sizes == whole * 2
    assert all(one.replicates == [4] for one in runs)
    reported = {"adam": {"lr": 0.0059}, "lrg_adam": {"lr": 0.0064, "rank": 20}}
    for optimizer, finals in (("adam", runs[3:7]), ("lrg_adam", runs[10:])):
        for final in finals[::2]:
            for name, value in final.config.hyperparameters.items():
                assert [value] == found[f"{optimizer}_{name}"].tolist()
        for final in finals[1::2]:
            assert final.config.hyperparameters == reported[optimizer]
    # A trial is scored on what it trains on, a final training on the rows of the validation.
    validation = dataset().validation
    ends = [rows for rows in scored if len(rows.y) == len(validation.y)]
    assert len(ends) == 8 * (GIVEN.epochs + 1)
    assert all(np.array_equal(rows.x, validation.x) for rows in ends)
    assert len(scored) - len(ends) == 6 * (GIVEN.tune_epochs + 1)
