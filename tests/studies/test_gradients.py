"""The analysis of gradients: independent replicates, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiment.stage.data import Dataset, Split
from experiment.training.loop import RunConfig
from studies.gradients import analysis
from studies.gradients.analysis import GradientTask, analyse, flat_gradient

CONFIG = RunConfig("adam", {"lr": 0.01}, "mlp", {"hidden": (3,)}, 1, 8, "cpu", 0, "test")
RANKS = (1, 3)


def samples() -> Dataset:
    rng = np.random.default_rng(0)
    train, fresh = (
        Split(rng.standard_normal((64, 40)).astype(np.float32), rng.integers(10, size=64))
        for _ in range(2)
    )
    return Dataset(train, train, fresh)


NETWORK = CONFIG.network(samples().train)


def batch_gradients(first: int, size: int) -> torch.Tensor:
    """Gradients (R, batches, P) of replicates that all have the same weights."""
    weights = NETWORK.initial_weights([np.random.default_rng(1)])
    shared = {name: w.expand(size, *w.shape[1:]).clone() for name, w in weights.items()}
    task = GradientTask(CONFIG, first, size, (0,), RANKS, 2)
    found = analysis._batches(samples(), task, NETWORK, 0, shared)
    return torch.stack([flat for flat, _, _ in found], dim=1)


def test_every_replicate_draws_its_own_batches() -> None:
    first, second = batch_gradients(0, 2)
    assert not torch.isclose(first, second).all(dim=1).any()


def test_a_replicate_has_the_same_batches_in_every_group() -> None:
    torch.testing.assert_close(batch_gradients(0, 3)[2], batch_gradients(2, 1)[0])


def test_gradient_of_own_samples_is_that_of_shared_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = NETWORK.initial_weights([np.random.default_rng(i) for i in range(2)])
    x, y = map(torch.from_numpy, samples().train)
    whole = flat_gradient(NETWORK, weights, x, y)
    monkeypatch.setattr(analysis, "CHUNK", 10)
    for parts in ((x, y), (x.expand(2, -1, -1), y.expand(2, -1))):
        torch.testing.assert_close(flat_gradient(NETWORK, weights, *parts), whole)


def test_the_null_of_the_cosine_is_that_of_another_order_of_the_entries() -> None:
    rng = np.random.default_rng(2)
    flat, population = (torch.from_numpy(rng.standard_normal((1, 30))).float() for _ in range(2))
    order = np.random.default_rng(3).permutation(30)
    matrix = np.pad(flat[0].double().numpy()[order], (0, 6)).reshape(6, 6)
    u, s, vh = np.linalg.svd(matrix)
    put_back = np.empty(30)
    put_back[order] = ((u[:, :2] * s[:2]) @ vh[:2]).ravel()[:30]

    orders = torch.from_numpy(order)[None]
    found = analysis._truncation(flat, population, population, (2,), orders)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    target = population[0].double().numpy()
    raw = cosine(flat[0].double().numpy(), target)
    assert found["cosine_permuted"].item() == pytest.approx(
        cosine(put_back, target) - raw, abs=1e-5
    )
    share = (s[:2] ** 2).sum() / (s**2).sum()
    assert found["energy_permuted"].item() == pytest.approx(share, abs=1e-5)


def test_every_replicate_has_an_order_of_its_own_in_any_group() -> None:
    three, last = (
        analysis._orders(GradientTask(CONFIG, first, size, (1,), RANKS, 1), NETWORK)
        for first, size in ((0, 3), (2, 1))
    )
    assert (three.sort(dim=1).values == torch.arange(three.shape[1])).all()
    assert not (three[0] == three[1]).all()
    assert torch.equal(three[2:], last)


def test_the_noise_of_a_batch_is_scaled_as_in_training() -> None:
    """Twice the distance from the gradient of all samples, which itself stays."""
    given, weights = samples(), NETWORK.initial_weights([np.random.default_rng(1)])
    (plain, bar, _), (noisy, same, _) = (
        next(
            analysis._batches(
                given,
                GradientTask(replace(CONFIG, noise=noise), 0, 1, (0,), RANKS, 1),
                NETWORK,
                0,
                weights,
            )
        )
        for noise in (1, 2)
    )
    assert torch.equal(bar, same)
    torch.testing.assert_close(noisy - bar, 2 * (plain - bar))


def test_fresh_samples_stand_for_the_population_and_are_not_trained_on() -> None:
    """They decide what is said of them, and neither the trajectory nor what is said of it."""
    given, task = samples(), GradientTask(CONFIG, 0, 2, (1,), RANKS, 2)
    found = analyse(given, task)
    fresh = given.test
    other = analyse(given._replace(test=Split(fresh.x[::-1] * 2, fresh.y)), task)
    of_fresh = {name for name in found if "fresh" in name} | {"cosine_permuted"}
    for name, values in found.items():
        assert torch.equal(values, other[name]) == (name not in of_fresh), name
