"""The controls of the experiment: what each does to a gradient, and that replicates stay apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from experiment.optimizers.controls import (
    FilteredAdam,
    PermutedEntries,
    RandomSubspace,
    create,
    rest,
    top_energy,
)
from experiment.training import optimizer
from experiment.training.arithmetic import truncated

OPTIMIZERS = {
    "adam": ("adam", {}),
    "lrg_adam": ("lrg_adam", {"rank": 2}),
    "lrg_adam_per_layer": ("lrg_adam", {"rank": 0.5, "scope": "parameter"}),
    "permuted": ("controls", {"keep": "permuted", "rank": 2}),
    "energy": ("controls", {"keep": "energy", "energy": 0.7}),
    "rest": ("controls", {"keep": "rest", "rank": 2}),
    "random": ("controls", {"keep": "random", "rank": 2}),
}


def matrices() -> Tensor:
    return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))


def best(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]).float()


def steps(name: str, replicates: slice, **hyperparameters: object) -> list[Tensor]:
    """Weights of the replicates after three steps."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(3, *shape, generator=generator) for shape in ((5, 4), (5,), (3, 5))]
    gradients = [[torch.randn(w.shape, generator=generator) for w in drawn] for _ in range(3)]
    weights = [w[replicates].clone().requires_grad_() for w in drawn]
    stepper = optimizer.create(name, weights, hyperparameters, "optimizer")
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient[replicates].clone()
        stepper.step()
    return weights


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_replicates_do_not_mix(case: str) -> None:
    name, hyperparameters = OPTIMIZERS[case]
    together = steps(name, slice(None), lr=0.01, **hyperparameters)
    for replicate in range(3):
        alone = steps(name, slice(replicate, replicate + 1), lr=0.01, **hyperparameters)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[replicate], b[0], rtol=0, atol=1e-5)


def test_truncation_is_the_best_approximation() -> None:
    torch.testing.assert_close(truncated(matrices(), 2), best(matrices(), 2), rtol=0, atol=1e-5)


def test_the_complement_is_the_rest() -> None:
    found = rest(matrices(), 2)
    torch.testing.assert_close(found, matrices() - best(matrices(), 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95, 1.0])
def test_the_energy_is_reached_by_no_more_rank_than_needed(energy: float) -> None:
    kept = top_energy(matrices(), energy)
    for matrix, found in zip(matrices(), kept, strict=True):
        shares = torch.linalg.svdvals(matrix).square().cumsum(0)
        rank = 1 + int((shares < energy * shares[-1] * (1 - 1e-6)).sum())
        torch.testing.assert_close(found, best(matrix, rank), rtol=0, atol=1e-4)


def generators() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(3)]


def test_permuting_the_entries_puts_them_back() -> None:
    filtered = PermutedEntries(6, 6, generators())(matrices())
    torch.testing.assert_close(filtered, matrices(), rtol=0, atol=1e-5)
    some = PermutedEntries(2, 6, generators())(matrices())
    assert not torch.allclose(some, best(matrices(), 2), atol=0.1)


@pytest.mark.parametrize("keep", ["random", "permuted"])
def test_replicates_draw_otherwise(keep: str) -> None:
    """Two replicates with the same gradients, and initial weights that differ in one number."""
    weight = torch.zeros(2, 6, 6)
    weight[1, 0, 0] = 1
    before = weight.clone()
    stepper = create([weight.requires_grad_()], lr=0.1, keep=keep, rank=2)
    weight.grad = matrices()[:1].repeat(2, 1, 1)
    stepper.step()
    one, other = weight.detach() - before
    assert not torch.allclose(one, other, atol=0.01)


def test_random_directions_are_new_each_time_and_the_same_each_run() -> None:
    first, again = RandomSubspace(2, generators()), RandomSubspace(2, generators())
    one, two = first(matrices()), first(matrices())
    assert torch.equal(one, again(matrices()))
    assert not torch.allclose(one, two)
    assert torch.linalg.matrix_rank(one).tolist() == [2, 2, 2]
    # A projection: what is left out is orthogonal to what is kept.
    torch.testing.assert_close(
        (one * (matrices() - one)).sum((-2, -1)), torch.zeros(3), rtol=0, atol=1e-4
    )


def test_a_filter_that_changes_nothing_is_adam_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(3, 5, 4, generator=generator)
    gradient = torch.randn(3, 5, 4, generator=generator)
    results = []
    for make in (
        lambda weights: FilteredAdam(weights, lr=0.1, gradient_filter=lambda matrix: matrix),
        lambda weights: torch.optim.Adam(weights, lr=0.1, fused=True),
    ):
        weight = drawn.clone().requires_grad_()
        weight.grad = gradient.clone()
        make([weight]).step()
        results.append(weight)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "top", "rank": 2},
        {"keep": "random"},
        {"keep": "permuted", "energy": 0.5},
        {"keep": "rest", "rank": 6},
        {"keep": "rest", "rank": 2, "energy": 0.5},
        {"keep": "energy", "rank": 2},
        {"keep": "energy", "energy": 0},
        {"keep": "energy", "energy": 1.1},
    ],
)
def test_a_control_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="keep is random, permuted or rest with a rank"):
        create([torch.zeros(2, 6, 6)], lr=0.1, **options)


def test_a_diverged_replicate_leaves_the_spectra_of_the_others_alone() -> None:
    broken = matrices()
    broken[1, 0, 0] = torch.inf
    found = truncated(broken, 2)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[0], best(matrices()[0], 2), rtol=0, atol=1e-5)
    huge = truncated(matrices() * 1e25, 2)  # whose squares float32 cannot hold
    torch.testing.assert_close(huge / 1e25, best(matrices(), 2), rtol=0, atol=1e-5)
    assert not truncated(torch.zeros(1, 6, 6), 2).any()
