"""The numerics: optimality against a float64 SVD, proofs, failures, independence in a stack."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lrg_adam import low_rank

EPS = torch.finfo(torch.float32).eps
# What the float32 SVD itself achieves on the spectra below is 5 to 10 EPS.
ROUNDING = 16 * EPS


def orthogonal(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    n = len(values)
    return (orthogonal(n, seed) * values.double()) @ orthogonal(n, seed + 1)


def gap(matrix: Tensor, approximation: Tensor, k: int) -> Tensor:
    """Error beyond the smallest possible, relative to the norm."""
    wide = matrix.double()
    best = torch.linalg.svdvals(wide)[..., k:].square().sum(-1).sqrt()
    error = torch.linalg.matrix_norm(wide - approximation.double())
    return (error - best) / torch.linalg.matrix_norm(wide).clamp(min=1e-300)


def noise(n: int, *batch: int, seed: int = 0) -> Tensor:
    return torch.randn(*batch, n, n, generator=torch.Generator().manual_seed(seed))


def hilbert(n: int) -> Tensor:
    i = torch.arange(n, dtype=torch.float64)
    return 1 / (i[:, None] + i + 1)


N, K = 60, 7
I = torch.arange(N, dtype=torch.float64)  # noqa: E741
SPECTRA = {
    "flat": torch.ones(N),
    "geometric": 0.8**I,
    "steep": 0.1**I,
    "power law": 1 / (1 + I),
    "rank below k": (I < K - 2).double(),
    "rank k": (I < K).double(),
    "rank one": (I < 1).double(),
    "repeated at the cut": torch.where(I < K + 5, 2.0, 1.0),
    "repeated below the cut": torch.where(I < K, 2.0, 1.0),
    "clustered at the cut": 1 + 1e-7 * (N - I),
    "tight cluster at the cut": torch.where((K - 3 < I) & (I < K + 3), 1 + 1e-12 * I, 0.5**I),
    "one giant": torch.where(I < 1, 1e6, 0.9**I),
    "two scales": torch.where(I < 3, 1.0, 1e-5 * 0.9**I),
}
MATRICES = {name: with_spectrum(s) for name, s in SPECTRA.items()} | {
    "zero": torch.zeros(N, N),
    "identity": torch.eye(N),
    "hilbert": hilbert(N),
    "nilpotent": torch.diag(torch.ones(N - 1), 1),
    "one entry": torch.zeros(N, N).index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(2.0)),
    "zero rows": noise(N) * (I[:, None] < 9),
    "noise": noise(N),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("method", [low_rank.svd, low_rank.gram])
def test_exact_methods_are_optimal_to_float32_rounding(
    name: str, scale: float, method: object
) -> None:
    matrix = (MATRICES[name] * scale).float()
    found = method(matrix, K).matrix
    assert found.dtype == torch.float32
    assert gap(matrix, found, K) <= ROUNDING
    assert torch.linalg.matrix_rank(found.double(), rtol=1e-5) <= K


@pytest.mark.parametrize("n", [2, 3, 5, 24, 25, 26, 119])
def test_every_rank_is_optimal(n: int) -> None:
    matrix = noise(n, seed=n)
    for k in {1, 2, n // 5, n // 3, n // 2, n - 1} - {0, n}:
        for method in (low_rank.svd, low_rank.gram):
            assert gap(matrix, method(matrix, k).matrix, k) <= ROUNDING, (method, k)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (1, 5)])
def test_rectangular_matrices(shape: tuple[int, int]) -> None:
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    if min(shape) > 1:
        for method in (low_rank.svd, low_rank.gram):
            found = method(matrix, 3).matrix
            assert found.shape == matrix.shape
            assert (gap(matrix, found, 3) <= ROUNDING).all()


def test_float64_is_optimal_to_float64_rounding() -> None:
    matrix = with_spectrum(SPECTRA["steep"])
    found = low_rank.gram(matrix, K).matrix
    assert found.dtype == torch.float64
    assert gap(matrix, found, K) <= 1e-15


def spiked(n: int, factor: float, seed: int = 0) -> Tensor:
    """Noise with singular values up to 2, and one direction that towers over it."""
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.nn.functional.normalize(torch.randn(2, n, generator=generator))
    return torch.randn(n, n, generator=generator) / n**0.5 + factor * u[:, None] * v


def hard_matrices(n: int, seed: int) -> dict[str, Tensor]:
    """Spectra that lose much when float32 rounds the Gram matrix."""
    i = torch.arange(n, dtype=torch.float64)
    spectra = {f"geometric, {ratio}": ratio**i for ratio in (0.99, 0.95, 0.9, 0.8)}
    spectra |= {f"power law, {power}": (1 + i) ** -power for power in (0.5, 1, 2)}
    spectra |= {f"cluster, {width}": 1 + width * (n - i) for width in (1e-5, 1e-7)}
    for rest in (0.1, 0.03, 0.01):
        spectra[f"giant over a flat tail, {rest}"] = torch.where(i < 1, 1.0, rest / n**0.5)
        spectra[f"step, {rest}"] = torch.where(i < n // 5, 1.0, rest)
        spectra[f"step to a ramp, {rest}"] = torch.where(i < n // 3, 1.0, rest * (1 - i / n))
        spectra[f"low rank and tiny, {rest}"] = torch.where(i < n // 6, 1.0, rest**3)
    matrices = {name: with_spectrum(s, seed).float() for name, s in spectra.items()}
    for factor in (3, 10, 30, 60, 300):
        matrices[f"giant over noise, {factor}"] = spiked(n, factor * n**0.5, seed)
    return matrices


@pytest.mark.parametrize(
    ("n", "seeds"),
    [(20, 2), (60, 2), (119, 1)]
    + [
        pytest.param(n, seeds, marks=pytest.mark.slow)
        for n, seeds in ((40, 20), (119, 4), (200, 2), (400, 1))
    ],
)
def test_the_worst_that_a_search_finds_for_the_gram_matrix(n: int, seeds: int) -> None:
    worst = 0.0
    for seed in range(seeds):
        stack = torch.stack(list(hard_matrices(n, seed).values()))
        for matrix in (stack, stack[..., : 2 * n // 3], stack[..., : n // 2, :]):
            side = min(matrix.shape[-2:])
            values = torch.linalg.svdvals(matrix.double())
            norm = values.norm(dim=-1)
            for k in {1, n // 20, n // 6, n // 3, n // 2, 9 * n // 10, side - 2, side - 1} - {0}:
                if k < side:
                    found = low_rank.gram(matrix, k).matrix
                    error = torch.linalg.matrix_norm(matrix.double() - found.double())
                    excess = (error - values[:, k:].norm(dim=-1)) / norm
                    worst = max(worst, excess.max().item())
    assert worst <= ROUNDING


@pytest.mark.parametrize(("n", "k", "factor"), [(300, 150, 30 * 300**0.5), (100, 20, 60)])
def test_a_tolerance_holds_under_a_giant_direction(n: int, k: int, factor: float) -> None:
    matrix = spiked(n, factor)
    best = torch.linalg.svdvals(matrix.double())[k:].norm()
    found = low_rank.certified(matrix, k, subspace(matrix, k), tolerance=1e-3)
    assert found.fallbacks == 1
    for approximation in (low_rank.gram(matrix, k), found):
        error = torch.linalg.matrix_norm(matrix.double() - approximation.matrix.double())
        assert error <= (1 + 1e-5) * best


def test_the_last_resort_of_a_tolerance_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the exact method were not exact, a decomposition in float64 would take its place."""
    matrix = torch.stack([noise(N), noise(N, seed=1)])
    start = subspace(matrix, K)
    monkeypatch.setattr(
        low_rank, "gram", lambda m, k: low_rank.Approximation(low_rank.svd(m, k).matrix * 1.01)
    )
    found = low_rank.certified(matrix, K, start, tolerance=1e-6)
    assert found.fallbacks == 2
    assert (gap(matrix, found.matrix, K) <= EPS).all()


def test_a_certificate_is_never_given_to_a_poor_basis() -> None:
    """The leading direction is orthogonal to every block that the iteration starts from."""
    n, k = 60, 4
    start = low_rank.random_signs(n, k + 8, seed=0, step=0).double()
    hidden = torch.linalg.qr(start, mode="complete").Q[:, -1]
    others = torch.linalg.qr(torch.cat([hidden[:, None], orthogonal(n, 3)], -1)).Q[:, 1:n]
    rest = (others * 0.5 ** torch.arange(n - 1)) @ others.T
    gram = rest + 4 * hidden[:, None] * hidden
    # One step in exact arithmetic keeps the block orthogonal to the hidden direction.
    block = torch.linalg.qr(rest @ (start - hidden[:, None] * (hidden @ start))).Q
    theta, rotation = torch.linalg.eigh(block.T @ gram @ block)
    v = block @ rotation[:, -k:]
    middle = (theta[-k] + theta[-k - 1]) / 2
    assert low_rank.excess_energy(gram, v, middle) == math.inf
    # And a threshold that does let the hidden direction pass gives a bound that covers it.
    best = torch.linalg.eigvalsh(gram)[-k:].sum()
    bound = low_rank.excess_energy(gram, v, torch.tensor(4.0001, dtype=torch.float64))
    assert best - theta[-k:].sum() <= bound < math.inf


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(3, 30),
    fraction=st.floats(0.05, 0.95),
    decay=st.floats(0.3, 1.0),
    disturbance=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_bounds_hold(
    n: int, fraction: float, decay: float, disturbance: float, seed: int
) -> None:
    k = min(n - 1, max(1, round(fraction * n)))
    matrix = with_spectrum(decay ** torch.arange(n), seed)
    u = torch.linalg.svd(matrix).U[:, :k]
    other = orthogonal(n, seed + 2)[:, :k]
    left = torch.linalg.qr(u + disturbance**4 * other).Q
    found = left @ (left.T @ matrix)
    error = torch.linalg.matrix_norm(matrix - found)
    best = torch.linalg.svdvals(matrix)[k:].square().sum().sqrt()
    bound = low_rank.excess_error(matrix, found, k)
    assert error <= (1 + bound) * best + 4 * EPS * torch.linalg.matrix_norm(matrix)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_smallest_error_is_a_lower_bound(name: str, scale: float) -> None:
    matrix = (MATRICES[name] * scale).float()
    wide = matrix.double()
    best = torch.linalg.svdvals(wide)[K:].square().sum().sqrt()
    norm = torch.linalg.matrix_norm(wide)
    bound = low_rank.smallest_error(matrix, K)
    assert bound <= best * (1 + 1e-12)
    # Tight, unless rounding hides what is left out.
    assert best**2 - bound**2 <= 64 * EPS * norm**2


@pytest.fixture
def filter_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send matrices to the filtered iteration that are too small for it to pay."""
    monkeypatch.setattr(low_rank, "_FILTER_MIN_SIDE", 2)
    monkeypatch.setattr(low_rank, "_FILTER_MIN_SHARE", 2)


@pytest.mark.usefixtures("filter_small_matrices")
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_filtered_iteration_is_optimal_too(name: str, scale: float) -> None:
    matrix = (MATRICES[name] * scale).float()
    assert gap(matrix, low_rank.gram(matrix, K).matrix, K) <= ROUNDING


@pytest.mark.usefixtures("filter_small_matrices")
def test_the_filtered_iteration_proves_most_of_its_results() -> None:
    decaying = torch.stack(
        [with_spectrum(torch.exp(-torch.arange(119) / 25), seed=3 * i) for i in range(8)]
    )
    assert low_rank.gram(decaying.float(), 20).fallbacks == 0
    nearly_flat = with_spectrum(1 + torch.arange(119) / 1e5).float()
    assert low_rank.gram(nearly_flat, 20).fallbacks == 1


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_large_matrices_are_optimal_without_a_full_decomposition(decay: float) -> None:
    matrix = with_spectrum(1 / torch.arange(1, 1001) ** decay).float()
    found = low_rank.gram(matrix, 20)
    assert found.fallbacks == 0
    assert gap(matrix, found.matrix, 20) <= ROUNDING


def subspace(matrix: Tensor, k: int) -> low_rank.Approximation:
    return low_rank.subspace(matrix, k, low_rank.random_signs(matrix.shape[-1], k + 4, 0, 0), 2)


METHODS = {"svd": low_rank.svd, "gram": low_rank.gram, "subspace": subspace}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 5, 20])
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
    tolerance = 1e-5 * norm(matrix)
    assert norm(scaled * 2.0**-exponent - found) <= tolerance


def test_subspace_iteration_converges_to_the_best_approximation() -> None:
    matrix = with_spectrum(SPECTRA["geometric"]).float()
    basis = low_rank.random_signs(N, K + 4, 0, 0)
    gaps = []
    for _ in range(12):
        found = low_rank.subspace(matrix, K, basis)
        basis = found.basis
        gaps.append(gap(matrix, found.matrix, K).item())
    assert gaps[0] > 1e-4
    assert gaps[-1] <= ROUNDING
    norms = basis.norm(dim=-2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("spectrum", "k"),
    [
        (lambda i: 0.5**i, 20),
        (lambda i: 0.8**i, 50),
        (lambda i: torch.where(i < 1, 1, torch.where(i < 21, 1e-4, 1e-7)), 21),
        (lambda i: (1 + i) ** -3.0, 30),
    ],
    ids=["0.5^i", "0.8^i", "two steps", "power law"],
)
def test_small_directions_are_found_beside_large_ones(
    spectrum: Callable, k: int, dtype: torch.dtype
) -> None:
    matrix = with_spectrum(spectrum(torch.arange(200, dtype=torch.float64))).to(dtype)
    best = torch.linalg.svdvals(matrix.double())[k:].norm()
    basis = low_rank.random_signs(200, k + 8, 0, 0)
    for _ in range(5):
        found = low_rank.subspace(matrix, k, basis)
        basis = found.basis
    error = torch.linalg.matrix_norm(matrix.double() - found.matrix.double())
    assert error <= (1.1 if dtype == torch.float32 else 1.001) * best


def test_float64_finds_what_float64_can_hold() -> None:
    matrix = with_spectrum(0.3**I)  # the best error is 1e-13 of the norm
    basis = low_rank.random_signs(N, 33, 0, 0)
    for _ in range(3):
        found = low_rank.subspace(matrix, 25, basis)
        basis = found.basis
    best = torch.linalg.svdvals(matrix)[25:].norm()
    assert torch.linalg.matrix_norm(matrix - found.matrix) <= 1.1 * best


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


def test_subspace_iteration_does_not_wait_for_a_device() -> None:
    matrix, basis = noise(N), low_rank.random_signs(N, K + 4, 0, 0)
    with _Waits() as waits:
        start = low_rank.completed(basis[..., :-2], basis.shape[-1], seed=0, step=torch.tensor(3.0))
        low_rank.subspace(matrix, K, start, iterations=2)
    assert not waits.found
    with _Waits() as waits:  # the mode does see one
        low_rank.gram(matrix, K)
    assert waits.found


@pytest.mark.parametrize("method", ["svd", "gram", "subspace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_overflow_is_not_a_number_throughout(method: str, dtype: torch.dtype) -> None:
    large = 1e38 if dtype == torch.float32 else 1e307
    matrix = noise(N, 3).to(dtype)
    matrix[1] *= large / matrix[1].abs().max()
    found = METHODS[method](matrix, K)
    assert found.matrix[1].isnan().all()
    assert found.matrix[[0, 2]].isfinite().all()
    if method == "subspace":
        assert found.basis.isfinite().all()


@pytest.mark.parametrize("method", ["gram", "subspace"])
def test_a_result_may_take_the_place_of_its_matrix(method: str) -> None:
    for batch in ((), (3,)):
        matrix = noise(N, *batch)
        extra = [low_rank.random_signs(N, K + 4, 0, 0)] if method == "subspace" else []
        expected = getattr(low_rank, method)(matrix, K, *extra).matrix
        found = getattr(low_rank, method)(matrix, K, *extra, overwrite=True).matrix
        assert found.data_ptr() == matrix.data_ptr()
        assert torch.equal(found, expected)


def test_fresh_directions_find_what_the_basis_is_blind_to() -> None:
    a = with_spectrum(0.5 ** torch.arange(N))
    u, _, vh = torch.linalg.svd(a)
    basis = vh[: K + 4].T.contiguous()
    changed = a + 10 * u[:, -1:] * vh[-1]  # a new leading direction, orthogonal to the basis
    blind = low_rank.subspace(changed, K, basis).basis
    for step in range(3):
        start = low_rank.completed(basis[..., :-2], basis.shape[-1], seed=0, step=step)
        found = low_rank.subspace(changed, K, start)
        basis = found.basis
    assert gap(changed, found.matrix, K) < 1e-3
    assert (blind.T @ vh[-1]).abs().max() < 1e-2


def test_directions_that_a_matrix_lacks_are_found_when_another_has_them() -> None:
    basis = low_rank.random_signs(N, K + 4, 0, 0)
    for step, columns in enumerate([slice(0), slice(0, 15), *3 * [slice(30, 45)]]):
        matrix = torch.zeros(2, N, N)
        matrix[0, :, columns] = noise(N)[:, columns]
        matrix[1] = noise(N, seed=1)  # a neighbour that has them all
        start = low_rank.completed(basis[..., :-1], basis.shape[-1], seed=0, step=step)
        found = low_rank.subspace(matrix, K, start)
        basis = found.basis
    assert (gap(matrix, found.matrix, K) < 0.05).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e19, 1e30])
def test_iterations_keep_within_the_range_of_float32(scale: float) -> None:
    matrix = noise(N)
    basis = low_rank.random_signs(N, K + 4, 0, 0)
    found = low_rank.subspace(matrix, K, basis, iterations=3).matrix
    scaled = low_rank.subspace(matrix * scale, K, basis, iterations=3).matrix
    torch.testing.assert_close(scaled.double() / scale, found.double(), rtol=1e-3, atol=1e-3)


def test_certified_results_keep_their_promise() -> None:
    matrix = torch.stack([noise(N), with_spectrum(SPECTRA["geometric"]).float()])
    start = subspace(matrix, K)
    poor = 1 + gap(matrix, start.matrix, K)
    found = low_rank.certified(matrix, K, start, tolerance=0.01)
    best = torch.linalg.svdvals(matrix.double())[..., K:].square().sum(-1).sqrt()
    error = torch.linalg.matrix_norm(matrix.double() - found.matrix.double())
    assert poor[0] > 1.01  # the test has something to improve
    assert (error <= 1.01 * best).all()
    assert low_rank.certified(matrix, K, subspace(matrix, K), tolerance=0.1).fallbacks == 0


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_failed_decompositions_are_repeated_another_way(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    k, stack = 20, noise(40, 3)
    name = {"svd": "svd", "gram": "eigh"}[method]
    working = getattr(torch.linalg, name)
    inputs = []

    def watching(matrix: Tensor, **options: object) -> object:
        inputs.append(matrix)
        return working(matrix, **options)

    monkeypatch.setattr(torch.linalg, name, watching)
    METHODS[method](stack, k)
    poisoned = inputs[0][1]

    def failing(matrix: Tensor, **options: object) -> object:
        if any(torch.equal(m, poisoned) for m in matrix.reshape(-1, 40, 40)):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return working(matrix, **options)

    expected = METHODS[method](stack, k)
    monkeypatch.setattr(torch.linalg, name, failing)
    found = METHODS[method](stack, k)
    assert (expected.retries, found.retries) == (0, 1)
    assert (gap(stack, found.matrix, k) <= ROUNDING).all()
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=0, atol=1e-4)


def test_random_signs_are_a_pure_function_of_seed_and_step() -> None:
    before = torch.get_rng_state()
    a = low_rank.random_signs(200, 50, seed=3, step=7)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, low_rank.random_signs(200, 50, seed=3, step=torch.tensor(7.0)))
    assert set(a.unique().tolist()) == {-1.0, 1.0}
    for other in (
        low_rank.random_signs(200, 50, seed=4, step=7),
        low_rank.random_signs(200, 50, seed=3, step=8),
    ):
        assert abs((a * other).mean()) < 0.04  # 4 standard deviations of independent signs
    # Singular values of independent entries lie within sqrt(rows) -+ sqrt(columns), roughly.
    s = torch.linalg.svdvals(a)
    assert s[0] < 200**0.5 + 50**0.5 + 1
    assert s[-1] > 200**0.5 - 50**0.5 - 1


def test_captured_energy() -> None:
    matrix = with_spectrum(torch.tensor([2.0, 1.0, 1.0])).expand(2, 3, 3).contiguous()
    matrix[1] = 0
    found = low_rank.svd(matrix, 1).matrix
    torch.testing.assert_close(
        low_rank.captured_energy(matrix, found), torch.tensor([4 / 6, 1.0], dtype=torch.float64)
    )
