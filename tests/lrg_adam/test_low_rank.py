"""The numerics: optimality against a float64 SVD, failures, independence in a stack."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lrg_adam import low_rank, truncate_grad_rank_

EPS = torch.finfo(torch.float32).eps
# What the float32 SVD itself achieves on the spectra below is 5 to 10 EPS.
ROUNDING = 16 * EPS


def randomized(matrix: Tensor, k: int, iterations: int = 4, **options: bool) -> object:
    return low_rank.randomized(matrix, k, iterations, seed=0, step=0, **options)


METHODS = {"svd": low_rank.svd, "gram": low_rank.gram, "randomized": randomized}


def orthogonal(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    n = len(values)
    return (orthogonal(n, seed) * values.double()) @ orthogonal(n, seed + 1)


def best_error(matrix: Tensor, k: int) -> Tensor:
    return torch.linalg.svdvals(matrix.double())[..., k:].norm(dim=-1)


def error(matrix: Tensor, approximation: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix.double() - approximation.double())


def gap(matrix: Tensor, approximation: Tensor, k: int) -> Tensor:
    """Error beyond the smallest possible, relative to the norm."""
    norm = torch.linalg.matrix_norm(matrix.double()).clamp(min=1e-300)
    return (error(matrix, approximation) - best_error(matrix, k)) / norm


def noise(n: int, *batch: int, seed: int = 0) -> Tensor:
    return torch.randn(*batch, n, n, generator=torch.Generator().manual_seed(seed))


N, K = 60, 7
I = torch.arange(N, dtype=torch.float64)  # noqa: E741
SPECTRA = {
    "flat": torch.ones(N),
    "geometric": 0.8**I,
    "steep": 0.1**I,
    "power law": 1 / (1 + I),
    "rank below k": (I < K - 2).double(),
    "rank one": (I < 1).double(),
    "repeated at the cut": torch.where(I < K + 5, 2.0, 1.0),
    "clustered at the cut": 1 + 1e-7 * (N - I),
    "one giant": torch.where(I < 1, 1e6, 0.9**I),
    "two scales": torch.where(I < 3, 1.0, 1e-5 * 0.9**I),
}
MATRICES = {name: with_spectrum(s) for name, s in SPECTRA.items()} | {
    "zero": torch.zeros(N, N),
    "identity": torch.eye(N),
    "nilpotent": torch.diag(torch.ones(N - 1), 1),
    "zero rows": noise(N) * (I[:, None] < 9),
    "noise": noise(N),
}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("method", ["svd", "gram"])
def test_exact_methods_are_optimal_to_float32_rounding(method: str, scale: float) -> None:
    for name, matrix in MATRICES.items():
        scaled = (matrix * scale).float()
        found = METHODS[method](scaled, K).matrix
        assert found.dtype == torch.float32
        assert gap(scaled, found, K) <= ROUNDING, name
        assert torch.linalg.matrix_rank(found.double(), rtol=1e-5) <= K, name


@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (119, 119), (30, 90), (90, 30), (16, 10_000)])
def test_every_rank_of_every_shape(shape: tuple[int, int]) -> None:
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    side = min(shape)
    for k in {1, side // 5, side // 2, side - 1} - {0, side}:
        for method, approximate in METHODS.items():
            found = approximate(matrix, k)
            energy = found.matrix.double().square().sum((-2, -1))
            torch.testing.assert_close(found.energy, energy, rtol=1e-5, atol=0)
            allowed = 0.03 if method == "randomized" else ROUNDING
            assert (gap(matrix, found.matrix, k) <= allowed).all(), (method, k)


def spiked(n: int, factor: float, seed: int = 0) -> Tensor:
    """Noise with singular values up to 2, and one direction that towers over it."""
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.nn.functional.normalize(torch.randn(2, n, generator=generator))
    return torch.randn(n, n, generator=generator) / n**0.5 + factor * u[:, None] * v


def hard_matrices(n: int, seed: int) -> Tensor:
    """Spectra that lose much when float32 rounds the Gram matrix."""
    i = torch.arange(n, dtype=torch.float64)
    spectra = [ratio**i for ratio in (0.99, 0.95, 0.9, 0.8)]
    spectra += [(1 + i) ** -power for power in (0.5, 1, 2)]
    spectra += [1 + width * (n - i) for width in (1e-5, 1e-7)]
    for rest in (0.1, 0.03, 0.01):
        spectra.append(torch.where(i < 1, 1.0, rest / n**0.5))
        spectra.append(torch.where(i < n // 5, 1.0, rest))
        spectra.append(torch.where(i < n // 3, 1.0, rest * (1 - i / n)))
        spectra.append(torch.where(i < n // 6, 1.0, rest**3))
    spikes = [spiked(n, factor * n**0.5, seed) for factor in (3, 10, 30, 60, 300)]
    return torch.stack([*(with_spectrum(s, seed).float() for s in spectra), *spikes])


@pytest.mark.parametrize(
    ("n", "seeds"),
    [(20, 2), (60, 2), (119, 1)]
    + [pytest.param(n, s, marks=pytest.mark.slow) for n, s in ((40, 20), (200, 2), (400, 1))],
)
def test_the_worst_that_a_search_finds_for_the_gram_matrix(n: int, seeds: int) -> None:
    worst = 0.0
    for seed in range(seeds):
        stack = hard_matrices(n, seed)
        for matrix in (stack, stack[..., : 2 * n // 3], stack[..., : n // 2, :]):
            side = min(matrix.shape[-2:])
            for k in {1, n // 20, n // 6, n // 3, n // 2, 9 * n // 10, side - 2, side - 1} - {0}:
                if k < side:
                    found = low_rank.gram(matrix, k).matrix
                    worst = max(worst, gap(matrix, found, k).max().item())
    assert worst <= ROUNDING


def test_float64_is_used_only_where_float32_would_lose_accuracy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, dtypes, eigh = 300, [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda c: dtypes.append(c.dtype) or eigh(c))
    matrix = with_spectrum(1 / (1 + torch.arange(n))).float()
    for k in (n // 6, 9 * n // 10):
        assert gap(matrix, low_rank.gram(matrix, k).matrix, k) <= ROUNDING
    assert dtypes == [torch.float32, torch.float32, torch.float64]


def test_a_block_of_the_whole_space_finds_the_best_approximation() -> None:
    """Only the rotation that sorts the directions can lose anything here."""
    worst = 0.0
    for seed in range(30):
        matrix = noise(10, seed=seed)
        found = randomized(matrix, 4).matrix
        worst = max(worst, (error(matrix, found) / best_error(matrix, 4) - 1).item())
    assert worst < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 20])
def test_a_matrix_does_not_depend_on_its_stack(method: str, k: int) -> None:
    """Whatever the others are: hard, not finite, or simply more of them.

    But for rounding: with MKL made to round alike on all processors, as in these tests, LAPACK
    takes the alignment of a matrix in memory into account, and so its place in a stack.
    """
    n = 50
    matrix = noise(n, seed=1) * 0.9 ** torch.arange(n)
    hard = torch.eye(n)
    broken = torch.full((n, n), torch.nan)
    one_inf = noise(n, seed=2).index_put((torch.tensor(4), torch.tensor(4)), torch.tensor(math.inf))
    stacks = [
        [matrix],
        [matrix, hard],
        [broken, matrix, one_inf, hard],
        [noise(n, seed=i) for i in range(15)] + [matrix],
    ]
    results = []
    for stack in stacks:
        position = next(i for i, m in enumerate(stack) if m is matrix)
        found = METHODS[method](torch.stack(stack), k).matrix
        results.append(found[position])
        for original, result in zip(stack, found, strict=True):
            finite = bool(original.isfinite().all())
            assert result.isfinite().all() if finite else result.isnan().all()
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n=st.integers(14, 40), exponent=st.integers(-60, 60))
def test_projection_algebra(method: str, seed: int, n: int, exponent: int) -> None:
    k = n // 5
    matrix = noise(n, seed=seed)
    found = METHODS[method](matrix, k).matrix
    norm = torch.linalg.matrix_norm
    # A contraction, idempotent, with a residual that is orthogonal to it.
    assert norm(found) <= norm(matrix) * (1 + 4 * EPS)
    assert (found * (matrix - found)).sum().abs() <= 1e-5 * norm(matrix) ** 2
    again = METHODS["svd"](found, k).matrix
    assert norm(again - found) <= 1e-5 * norm(matrix)
    # Loss scaling by a power of two changes nothing but the scale.
    scaled = METHODS[method](matrix * 2.0**exponent, k).matrix
    assert norm(scaled * 2.0**-exponent - found) <= 1e-5 * norm(matrix)


class _Waits(TorchDispatchMode):
    """Note every operator whose result the host needs, so that it would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, operator: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        name = str(operator)
        if any(part in name for part in ("scalar_dense", "nonzero", "eigh", "svd")):
            self.found.add(name)
        return operator(*args, **(kwargs or {}))


def test_the_randomized_method_does_not_wait_for_a_device() -> None:
    p = torch.nn.Parameter(noise(N))
    p.grad = noise(N)
    with _Waits() as waits:
        low_rank.randomized(noise(N), K, 4, seed=0, step=torch.tensor(3.0))
        truncate_grad_rank_(p, K, method="randomized")
    assert not waits.found
    with _Waits() as waits:  # the mode does see one
        low_rank.gram(noise(N), K)
    assert waits.found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_overflow_is_not_a_number_throughout(method: str, dtype: torch.dtype) -> None:
    large = 1e38 if dtype == torch.float32 else 1e307
    matrix = noise(N, 3).to(dtype)
    matrix[1] *= large / matrix[1].abs().max()
    found = METHODS[method](matrix, K)
    assert found.matrix[1].isnan().all()
    assert found.matrix[[0, 2]].isfinite().all()


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_failed_decompositions_are_repeated_another_way(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, broken = noise(40, 3), []

    def failing(*_: object, **__: object) -> object:
        broken.append(True)
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, {"svd": "svd", "gram": "eigh"}[method], failing)
    found = METHODS[method](stack, 20).matrix
    assert broken
    assert (gap(stack, found, 20) <= ROUNDING).all()


def test_random_signs_are_a_pure_function_of_seed_and_step() -> None:
    before = torch.get_rng_state()
    like = torch.empty(())
    a = low_rank.random_signs(200, 50, 3, 7, like)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, low_rank.random_signs(200, 50, 3, torch.tensor(7.0), like))
    assert set(a.unique().tolist()) == {-1.0, 1.0}
    for seed, step in ((4, 7), (3, 8)):
        other = low_rank.random_signs(200, 50, seed, step, like)
        assert abs((a * other).mean()) < 0.04  # 4 standard deviations of independent signs
    # Singular values of independent entries lie within sqrt(rows) -+ sqrt(columns), roughly.
    s = torch.linalg.svdvals(a)
    assert s[0] < 200**0.5 + 50**0.5 + 1
    assert s[-1] > 200**0.5 - 50**0.5 - 1
