"""The filter by itself and before any optimizer of torch."""

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.measure.timing import peak_bytes
from lrg_adam import LRGAdam, low_rank, truncate_grad_rank_
from reference import low_rank_gradients

METHODS = ("gram", "svd", "randomized")
EXACT = ("gram", "svd")
# Everything in torch.optim that takes a plain step on matrices. LBFGS evaluates a closure itself.
BASES = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "LBFGS", "SparseAdam")
}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 16, bias=False), nn.Tanh(), nn.Linear(16, 5, bias=False)).to(
        dtype
    )


def backward(model: nn.Module, step: int = 0) -> Tensor:
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(32, 9, generator=generator).to(dtype)
    target = torch.randn(32, 5, generator=generator).to(dtype)
    model.zero_grad()
    loss = nn.functional.mse_loss(model(x), target)
    loss.backward()
    return loss


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def base(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return BASES[name](model.parameters(), lr=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("name", BASES)
def test_a_full_rank_is_the_base_optimizer_bit_for_bit(
    name: str, scope: str, dtype: torch.dtype
) -> None:
    plain, full = network(dtype), network(dtype)
    first, second = base(name, plain), base(name, full)
    for step in range(5):
        backward(plain, step)
        first.step()
        backward(full, step)
        truncate_grad_rank_(full.parameters(), 17, scope=scope)
        second.step()
    assert all(
        torch.equal(p, q) for p, q in zip(plain.parameters(), full.parameters(), strict=True)
    )


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("name", BASES)
def test_the_step_of_every_base_is_that_on_the_literal_gradients(name: str, method: str) -> None:
    ours, literal = network(torch.float64), network(torch.float64)
    first, second = base(name, ours), base(name, literal)
    for step in range(5):
        backward(ours, step)
        truncate_grad_rank_(ours.parameters(), 3, method=method)
        first.step()
        backward(literal, step)
        expected = low_rank_gradients(gradients(literal), 3)
        for p, g in zip(literal.parameters(), expected, strict=True):
            p.grad = g
        second.step()
    for p, q in zip(ours.parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_share_that_was_kept(method: str) -> None:
    p = nn.Parameter(torch.zeros(3, 20, 5))
    p.grad = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0))
    p.grad[2] = 0
    s = torch.linalg.svdvals(p.grad[:2].reshape(2, 10, 10).double()).square()
    best = s[:, :4].sum(-1) / s.sum(-1)
    kept = truncate_grad_rank_(p, 4, method=method, batch_dims=1)
    assert kept.shape == (3,)
    assert kept[2] == 1
    tolerance = 1e-5 if method in EXACT else 1e-2
    torch.testing.assert_close(kept[:2], best, rtol=tolerance, atol=0)


def test_the_share_over_several_matrices_and_of_none() -> None:
    model = network()
    backward(model)
    before = sum(g.square().sum() for g in gradients(model))
    kept = truncate_grad_rank_(model.parameters(), 1, scope="parameter")
    after = sum(g.square().sum() for g in gradients(model))
    torch.testing.assert_close(kept, (after / before).double(), rtol=1e-5, atol=0)
    assert truncate_grad_rank_(model.parameters(), 17) == 1
    assert truncate_grad_rank_([], 1) == 1
    model.zero_grad()
    assert truncate_grad_rank_(model.parameters(), 1) == 1


def test_parameters_come_as_for_clipping_and_gradients_are_replaced() -> None:
    results = []
    for kind in (list, iter):
        model = network()
        backward(model)
        old = [(p.grad, p.grad.clone()) for p in model.parameters()]
        truncate_grad_rank_(kind(model.parameters()), 2)
        for p, (grad, value) in zip(model.parameters(), old, strict=True):
            assert p.grad is not grad
            assert torch.equal(grad, value)
        results.append(gradients(model))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# --- gradients that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
@pytest.mark.parametrize("method", METHODS)
def test_what_becomes_of_gradients_that_are_not_finite(method: str, value: float) -> None:
    def filtered(**options: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
        model = network()
        backward(model)
        list(model.parameters())[1].grad[:2] = value
        before = gradients(model)
        kept = truncate_grad_rank_(model.parameters(), 2, method=method, **options)
        return before, gradients(model), kept

    _, after, kept = filtered()
    assert kept.isnan()
    assert all(g.isnan().all() for g in after)
    before, after, kept = filtered(scope="parameter")
    assert kept.isnan()
    assert after[0].isfinite().all()
    assert after[1].isnan().all()
    before, after, kept = filtered(nonfinite="skip")
    assert kept.isnan()
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)
    )
    expected = "too large" if value == -1e38 else r"parameter 1 of shape \(5, 16\)"
    with pytest.raises(RuntimeError, match=expected):
        filtered(nonfinite="raise")


# --- layouts and dtypes -----------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_shapes_at_the_edge(method: str, scope: str) -> None:
    options = {"method": method, "scope": scope}
    params = [nn.Parameter(torch.ones(shape)) for shape in [(), (0,), (3, 0, 2), (1,), (5, 3)]]
    for p in params:
        p.grad = torch.ones_like(p)
    truncate_grad_rank_(params, 1, **options)
    no_models = nn.Parameter(torch.zeros(0, 5, 3))
    no_models.grad = torch.zeros_like(no_models)
    assert truncate_grad_rank_(no_models, 1, batch_dims=1, **options).shape == (0,)
    assert no_models.grad.shape == (0, 5, 3)
    for shape in ((16, 10_000), (10_000, 16)):
        wide = nn.Parameter(torch.zeros(shape))
        wide.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        expected = low_rank.svd(wide.grad, 3).energy / wide.grad.square().sum()
        kept = truncate_grad_rank_(wide, 3, **(options | {"scope": "parameter"}))
        torch.testing.assert_close(kept.item(), expected.item(), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_filtered_in_float32(dtype: torch.dtype, method: str) -> None:
    half, single = (nn.Parameter(torch.zeros(12, 12, dtype=d)) for d in (dtype, torch.float32))
    half.grad = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    single.grad = half.grad.float()
    for p in (half, single):
        truncate_grad_rank_(p, 3, method=method)
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, single.grad.to(dtype))


def test_missing_gradients_are_zeros_in_the_matrix() -> None:
    model = network()
    backward(model)
    first, second = model.parameters()
    first.grad = None
    expected = low_rank_gradients([torch.zeros_like(first), second.grad], 3)
    truncate_grad_rank_(model.parameters(), 3)
    assert first.grad is None
    torch.testing.assert_close(second.grad, expected[1], rtol=1e-5, atol=1e-7)


def test_scope_parameter_flattens_what_follows_the_first_axis() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
    conv(torch.randn(2, 3, 6, 6)).square().sum().backward()
    expected = low_rank.svd(conv.weight.grad.reshape(8, 27), 2).matrix.view(8, 3, 3, 3)
    truncate_grad_rank_(conv.weight, 2, scope="parameter")
    torch.testing.assert_close(conv.weight.grad, expected, rtol=1e-4, atol=1e-4)
    assert conv.weight.grad.stride() == conv.weight.stride()


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_autocast_around_it_changes_nothing(method: str, scope: str) -> None:
    results = []
    for enabled in (False, True):
        model = network()
        backward(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            truncate_grad_rank_(model.parameters(), 3, method=method, scope=scope)
            LRGAdam(model.parameters(), rank=2, method=method, scope=scope).step()
        results.append([*gradients(model), *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class _TensorFloat32(TorchDispatchMode):
    """Round the factors of products to ten bits where a GPU in TF32 would."""

    def __torch_dispatch__(
        self, operator: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        name = str(operator)
        if ("mm." in name) and torch.backends.cuda.matmul.fp32_precision == "tf32":
            args = tuple(
                a.view(torch.int32).bitwise_and(-(2**13)).view(torch.float32)
                if isinstance(a, Tensor) and a.dtype == torch.float32
                else a
                for a in args
            )
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_tf32_around_it_changes_nothing(method: str) -> None:
    results, products = [], []
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            model = network()
            backward(model)
            with _TensorFloat32():
                truncate_grad_rank_(model.parameters(), 3, method=method)
                products.append(model[0].weight @ model[0].weight.mT)
            assert torch.get_float32_matmul_precision() == precision
            results.append(gradients(model))
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(*products)  # the mode does round, outside


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "rank", "most"),
    [("svd", 5, 6.1), ("gram", 5, 6.1), ("gram", 300, 6.1)]
    + [("randomized", k, 1.05 + 8 * (k + 8) / 600) for k in (5, 60, 150)],
)
def test_the_memory_that_the_page_promises(method: str, rank: int, most: float) -> None:
    """Beyond the gradient, in copies of it; the result is one of them."""
    n = 600
    p = nn.Parameter(torch.zeros(n, n))
    p.grad = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    grad = p.grad  # held by the caller
    used = peak_bytes(lambda: truncate_grad_rank_(p, rank, method=method)) / (4 * n * n)
    assert grad is not p.grad
    assert used <= most


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("rank", r, "should be an int >= 1 or a float in") for r in (0, -1, 1.0, 2.5, True)),
        ("rank", "ten", "Invalid rank: 'ten'"),
        ("method", "qr", "Invalid method: qr, should be one of gram, svd, randomized"),
        ("method", "subspace", "Invalid method: subspace"),
        ("scope", "layer", "Invalid scope: layer"),
        ("nonfinite", "ignore", "Invalid nonfinite: ignore"),
        ("batch_dims", -1, "Invalid batch_dims: -1"),
        ("batch_dims", 3, "Invalid batch_dims: 3 for a parameter of shape"),
        ("iterations", 0, "Invalid iterations: 0"),
        ("seed", 0.5, "Invalid seed: 0.5"),
    ],
)
def test_bad_options(name: str, value: object, message: str) -> None:
    model = network()
    backward(model)
    before = gradients(model)
    with pytest.raises(ValueError, match=message):
        truncate_grad_rank_(model.parameters(), **{"rank": 2, name: value})
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(model), strict=True))
    with pytest.raises(ValueError, match=message):
        LRGAdam(model.parameters(), **{"rank": 2, name: value})
    optimizer = LRGAdam(model.parameters(), rank=2)
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=message):
        optimizer.step()


def test_sparse_and_complex_gradients_are_refused() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        truncate_grad_rank_(embedding.parameters(), 1)
    p = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="does not support complex gradients"):
        truncate_grad_rank_(p, 1)
