"""What the filters do to a gradient or an update, and that replicates stay apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from experiment.optimizers import filtered_update
from experiment.optimizers.controls import (
    create,
    permuted_entries,
    random_subspace,
    rest,
    top_energy,
)
from experiment.training import optimizer
from experiment.training.arithmetic import truncate

SIDE = 7  # of the matrix of the 40 weights that `drawn` returns
OPTIMIZERS = {
    "adam": ("adam", {}),
    "lrg_adam": ("lrg_adam", {"rank": 2}),
    "lrg_adam_per_layer": ("lrg_adam", {"rank": 0.5, "scope": "parameter"}),
    "permuted": ("controls", {"keep": "permuted", "rank": 2}),
    "energy": ("controls", {"keep": "energy", "energy": 0.7}),
    "rest": ("controls", {"keep": "rest", "rank": 2}),
    "random": ("controls", {"keep": "random", "rank": 2}),
    "sgd": ("low_rank", {"base": "torch.optim.SGD", "momentum": 0.9, "rank": 2}),
    "update": ("filtered_update", {"rank": 2}),
}


def matrices() -> Tensor:
    return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))


def best(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]).float()


def drawn() -> tuple[list[Tensor], list[list[Tensor]]]:
    """Weights of three replicates, and their gradients in three steps."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(3, *shape, generator=generator) for shape in ((5, 4), (5,), (3, 5))]
    return weights, [[torch.randn(w.shape, generator=generator) for w in weights] for _ in range(3)]


def steps(name: str, replicates: slice, **hyperparameters: object) -> list[Tensor]:
    """Weights of the replicates after three steps."""
    start, gradients = drawn()
    weights = [w[replicates].clone().requires_grad_() for w in start]
    streams = {r: np.random.default_rng(r) for r in range(len(weights[0]))}
    steppers = optimizer.create(name, weights, hyperparameters, "optimizer", streams)
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient[replicates].clone()
        for stepper in steppers:
            stepper.step(lambda _: torch.zeros(()))
    return weights


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_replicates_do_not_mix(case: str) -> None:
    name, hyperparameters = OPTIMIZERS[case]
    together = steps(name, slice(None), lr=0.01, **hyperparameters)
    for replicate in range(3):
        alone = steps(name, slice(replicate, replicate + 1), lr=0.01, **hyperparameters)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[replicate], b[0], rtol=0, atol=1e-5)


def test_truncation_is_the_best_approximation_and_its_complement_the_rest() -> None:
    kept = best(matrices(), 2)
    torch.testing.assert_close(truncate(matrices(), 2), kept, rtol=0, atol=1e-5)
    torch.testing.assert_close(rest(matrices(), 2), matrices() - kept, rtol=0, atol=1e-5)


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
    filtered = permuted_entries(6, 6, generators())(matrices())
    torch.testing.assert_close(filtered, matrices(), rtol=0, atol=1e-5)
    some = permuted_entries(2, 6, generators())(matrices())
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
    first, again = random_subspace(2, generators()), random_subspace(2, generators())
    one, two = first(matrices()), first(matrices())
    assert torch.equal(one, again(matrices()))
    assert not torch.allclose(one, two)
    assert torch.linalg.matrix_rank(one).tolist() == [2, 2, 2]
    # A projection: what is left out is orthogonal to what is kept.
    torch.testing.assert_close(
        (one * (matrices() - one)).sum((-2, -1)), torch.zeros(3), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("layout", ["declared", "reversed", "transposed"])
@pytest.mark.parametrize(
    ("base", "more"),
    [
        ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True}),
        ("torch.optim.Adam", {"fused": True}),
        ("torch.optim.Adafactor", {}),
    ],
)
def test_full_rank_is_the_base_to_the_bit(base: str, more: dict[str, object], layout: str) -> None:
    plain = steps(base, slice(None), lr=0.01, **more)
    full = steps("low_rank", slice(None), lr=0.01, base=base, rank=SIDE, layout=layout, **more)
    assert all(map(torch.equal, plain, full))


LAYOUTS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "declared": lambda tensors: tensors,
    "reversed": lambda tensors: tensors[::-1],
    "transposed": lambda tensors: [t.mT if t.ndim == 3 else t for t in tensors],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_filter_before_sgd_is_the_best_approximation_of_its_layout(layout: str) -> None:
    """With SGD at a rate of 1, the three changes add up to the filtered gradients."""
    filtered, plain = (
        steps("low_rank", slice(1), lr=1.0, base="torch.optim.SGD", rank=rank, layout=layout)
        for rank in (2, SIDE)
    )
    start, gradients = drawn()
    expected = [w[:1].clone() for w in start]
    for gradient in gradients:
        laid = LAYOUTS[layout]([g[:1] for g in gradient])
        matrix = torch.cat([g.reshape(-1) for g in laid])
        padded = functional.pad(matrix, (0, SIDE**2 - len(matrix))).view(SIDE, SIDE)
        kept = best(padded, 2).flatten().split([*(g.numel() for g in laid), SIDE**2 - len(matrix)])
        back = LAYOUTS[layout]([k.view(g.shape) for k, g in zip(kept, laid, strict=False)])
        expected = [w - k for w, k in zip(expected, back, strict=True)]
    for found, other, wanted in zip(filtered, plain, expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-4)
        assert not torch.allclose(found, other, atol=0.1)


def test_the_filtered_update_is_adam_s_update_truncated() -> None:
    full, adam = (
        steps(name, slice(None), lr=0.01, **rank)
        for name, rank in (("filtered_update", {"rank": SIDE}), ("adam", {}))
    )
    assert all(map(torch.equal, full, adam))

    weight = torch.zeros(3, 6, 6, requires_grad=True)
    twin = torch.zeros(3, 6, 6, requires_grad=True)
    stepper = filtered_update.create([weight], lr=0.1, rank=2)
    adam = torch.optim.Adam([twin], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):  # the moments are those of the unfiltered gradients
        start = weight.detach().clone(), twin.detach().clone()
        weight.grad = torch.randn(3, 6, 6, generator=generator)
        twin.grad = weight.grad.clone()
        stepper.step()
        adam.step()
        if step > 0:  # the first update, of signs alone, may have equal singular values
            torch.testing.assert_close(
                weight.detach() - start[0], best(twin.detach() - start[1], 2), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "random"},
        {"keep": "permuted", "energy": 0.5},
        {"keep": "rest", "rank": 6},
        {"keep": "energy", "rank": 2},
        {"keep": "energy", "energy": 0},
    ],
)
def test_a_control_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="keep is random, permuted or rest with a rank"):
        create([torch.zeros(2, 6, 6)], lr=0.1, **options)


def test_a_diverged_replicate_leaves_the_spectra_of_the_others_alone() -> None:
    broken = matrices()
    broken[1, 0, 0] = torch.inf
    found = truncate(broken, 2)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[0], best(matrices()[0], 2), rtol=0, atol=1e-5)
    huge = truncate(matrices() * 1e25, 2)  # whose squares float32 cannot hold
    torch.testing.assert_close(huge / 1e25, best(matrices(), 2), rtol=0, atol=1e-5)
    assert not truncate(torch.zeros(1, 6, 6), 2).any()
