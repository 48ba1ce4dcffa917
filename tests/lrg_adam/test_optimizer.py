"""LRGAdam against the literal reference and against Adam, and everything it promises on top."""

import copy
import functools
import inspect
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmark.measure.timing import peak_bytes
from lrg_adam import LRGAdam, low_rank
from reference import ReferenceLRGAdam, low_rank_gradients

METHODS = ("gram", "svd", "randomized", "subspace")
EXACT = ("gram", "svd")


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 5)).to(dtype)


def loss_of(model: nn.Module, step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(32, 9, generator=generator).to(dtype)
    target = torch.randn(32, 5, generator=generator).to(dtype)
    return nn.functional.mse_loss(model(x), target)


def train(model: nn.Module, optimizer: object, steps: int, first: int = 0) -> list[Tensor]:
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        model.zero_grad()
        loss_of(model, step, dtype).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# --- the published step -----------------------------------------------------------------------


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("rank", [1, 2, 5, 14])
def test_matches_the_literal_reference(method: str, rank: int) -> None:
    ours, theirs = network(), network()
    a = train(ours, LRGAdam(ours.parameters(), lr=0.01, rank=rank, method=method), 20)
    b = train(theirs, ReferenceLRGAdam(theirs.parameters(), rank=rank, lr=0.01), 20)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", EXACT)
def test_the_gradient_left_behind_is_the_filtered_one(method: str) -> None:
    model = network()
    loss_of(model).backward()
    expected = low_rank_gradients([p.grad for p in model.parameters()], 3)
    LRGAdam(model.parameters(), rank=3, method=method).step()
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-5, atol=1e-7)


def test_the_order_of_parameters_defines_the_matrix() -> None:
    model = network()
    loss_of(model).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    LRGAdam(reversed(list(model.parameters())), rank=3).step()
    expected = low_rank_gradients(grads[::-1], 3)[::-1]
    other = low_rank_gradients(grads, 3)
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-5, atol=1e-7)
    assert any((g - o).abs().max() > 1e-3 for g, o in zip(expected, other, strict=True))


ADAM_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    {"amsgrad": True, "betas": (0.7, 0.9), "eps": 1e-4},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"lr": torch.tensor(0.01)},
]


@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=str)
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_full_rank_is_adam_bit_for_bit(options: dict, scope: str, method: str) -> None:
    ours, theirs = network(), network()
    optimizer = LRGAdam(ours.parameters(), rank=17, scope=scope, method=method, **options)
    a = train(ours, optimizer, 5)
    assert_same(a, train(theirs, Adam(theirs.parameters(), **options), 5))
    assert optimizer.last_step_info == ()


@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_rest_of_the_step_is_adams(options: dict, method: str) -> None:
    """Adam fed with the gradients that LRGAdam leaves behind walks the same way."""
    ours, theirs = network(), network()
    optimizer = LRGAdam(ours.parameters(), rank=2, method=method, **options)
    adam = Adam(theirs.parameters(), **options)
    for step in range(5):
        ours.zero_grad()
        loss_of(ours, step).backward()
        optimizer.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.grad = p.grad.clone()
        adam.step()
    assert_same(list(ours.parameters()), list(theirs.parameters()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [1, 4, 0.3])
def test_training_reduces_the_loss(method: str, rank: float) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), lr=0.02, rank=rank, method=method)
    before = loss_of(model).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < 0.8 * before


def test_signature_extends_adams() -> None:
    ours = inspect.signature(LRGAdam.__init__).parameters
    for name, parameter in inspect.signature(Adam.__init__).parameters.items():
        assert ours[name].default == parameter.default
        assert ours[name].kind == parameter.kind
    added = set(ours) - set(inspect.signature(Adam.__init__).parameters)
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in added)


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "Invalid rank: 0"),
        ({"rank": -1}, "Invalid rank: -1"),
        ({"rank": 1.0}, "Invalid rank: 1.0"),
        ({"rank": 2.5}, "Invalid rank: 2.5"),
        ({"rank": float("nan")}, "Invalid rank: nan"),
        ({"rank": True}, "Invalid rank: True"),
        ({"rank": "ten"}, "Invalid rank: 'ten', should be an int"),
        ({"method": "qr"}, "Invalid method: qr"),
        ({"scope": "layer"}, "Invalid scope: layer"),
        ({"nonfinite": "ignore"}, "Invalid nonfinite: ignore"),
        ({"batch_dims": -1}, "Invalid batch_dims: -1"),
        ({"batch_dims": 2}, "Invalid batch_dims: 2 for a parameter of shape"),
        ({"oversampling": -1}, "Invalid oversampling: -1"),
        ({"iterations": 0}, "Invalid iterations: 0"),
        ({"tolerance": 0.0}, "Invalid tolerance: 0.0"),
        ({"tolerance": float("inf")}, "Invalid tolerance: inf"),
        ({"seed": -1}, "Invalid seed: -1"),
        ({"differentiable": True}, "differentiable=True needs method='svd'"),
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
    ],
)
def test_invalid_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LRGAdam([nn.Parameter(torch.zeros(3))], **{"rank": 1, **options})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rank", 10.0, "Invalid rank: 10.0, should be an int"),
        ("rank", 0, "Invalid rank: 0"),
        ("rank", -3, "Invalid rank: -3"),
        ("method", "qr", "Invalid method: qr"),
        ("scope", "layer", "Invalid scope: layer"),
        ("nonfinite", "ignore", "Invalid nonfinite: ignore"),
        ("batch_dims", 2, "Invalid batch_dims: 2 for a parameter of shape"),
        ("oversampling", -1, "Invalid oversampling: -1"),
        ("iterations", 0, "Invalid iterations: 0"),
        ("tolerance", -0.1, "Invalid tolerance: -0.1"),
        ("seed", 0.5, "Invalid seed: 0.5"),
        ("differentiable", True, "differentiable=True needs method='svd'"),
    ],
)
def test_options_that_change_are_checked_at_each_step(
    name: str, value: object, message: str
) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2)
    before = train(model, optimizer, 1)
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, 1)
    assert_same(before, list(model.parameters()))


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_schedule(method: str) -> None:
    """Every step is that of its rank, and from the side of the matrix on it is Adam's."""
    model = network()  # 245 parameters: the matrix is 16 x 16
    optimizer = LRGAdam(model.parameters(), rank=2, method=method, oversampling=2)
    for rank, expected in ((2, 2), (9, 9), (0.25, 4), (3, 3), (16, None), (0.5, 8), (1, 1)):
        optimizer.param_groups[0]["rank"] = rank
        train(model, optimizer, 1)
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        matrix = nn.functional.pad(gradient, (0, 256 - 245)).view(16, 16)
        ranks = [info.rank for info in optimizer.last_step_info]
        assert ranks == ([] if expected is None else [expected])
        if method == "subspace" and expected is not None:
            (basis,) = [s["basis"] for s in optimizer.state.values() if "basis" in s]
            assert basis.shape == (16, min(expected + 2, 16))
        if expected is not None and method in EXACT:  # but for the padding, which is not kept
            assert torch.linalg.matrix_rank(matrix, rtol=1e-5) <= expected + 1


def test_a_basis_follows_a_changed_rank() -> None:
    """The directions that are known stay; only what is missing is drawn."""
    p = nn.Parameter(torch.zeros(40, 40))
    spectrum = 0.7 ** torch.arange(40)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(40, 40, generator=generator)).Q for _ in range(2))
    gradient = (u * spectrum) @ v.T
    options = {"method": "subspace", "oversampling": 4, "diagnostics": True, "iterations": 1}
    optimizer = LRGAdam([p], rank=10, **options)
    errors = []
    for rank in (10, 10, 10, 6, 12, 12):
        optimizer.param_groups[0]["rank"] = rank
        p.grad = gradient.clone()
        optimizer.step()
        errors.append(optimizer.last_step_info[0].excess_error.item())
    assert errors[3] < errors[2] < 0.01
    assert errors[5] < 0.02
    p.grad = gradient.clone()
    afresh = LRGAdam([p], rank=12, **options)
    afresh.step()
    assert errors[4] < afresh.last_step_info[0].excess_error


def test_numbers_of_numpy_become_plain() -> None:
    options = {
        "rank": np.int64(3),
        "batch_dims": np.int32(0),
        "oversampling": np.uint8(4),
        "seed": np.int64(5),
        "iterations": np.int64(1),
        "tolerance": np.float32(0.5),
        "diagnostics": np.bool_(True),
        "method": np.str_("subspace"),
    }
    model = network()
    optimizer = LRGAdam(model.parameters(), **options)
    for rank in (np.float64(0.25), np.float32(0.25), np.int16(3)):
        optimizer.param_groups[0]["rank"] = rank
        train(model, optimizer, 1)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        (group,) = torch.load(file, weights_only=True)["param_groups"]
        assert group["rank"] == rank
        for name in options:
            assert type(group[name]).__module__ == "builtins"
    for rank in (np.int64(0), np.float64(1.5), np.bool_(True)):
        with pytest.raises(ValueError, match="Invalid rank"):
            LRGAdam(model.parameters(), rank=rank)


def test_a_float_rank_is_a_share_of_the_side() -> None:
    model = network()  # 245 parameters: the matrix is 16 x 16
    for rank, expected in ((0.001, 1), (0.25, 4), (0.5, 8)):
        loss_of(model).backward()
        optimizer = LRGAdam(model.parameters(), rank=rank)
        optimizer.step()
        assert optimizer.last_step_info[0].rank == expected
        assert optimizer.last_step_info[0].shape == (16, 16)


def test_groups_share_one_matrix_and_differ_in_the_rest() -> None:
    model = network()
    first, second = list(model[0].parameters()), list(model[2].parameters())
    optimizer = LRGAdam([{"params": first}, {"params": second, "lr": 0.0}], rank=2)
    loss_of(model).backward()
    expected = low_rank_gradients([p.grad for p in model.parameters()], 2)
    before = [p.detach().clone() for p in second]
    optimizer.step()
    assert_same(before, second)
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="Invalid rank: 3, with scope='model'"):
        LRGAdam([{"params": first}, {"params": second, "rank": 3}], rank=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_group_added_late_extends_the_matrix(method: str) -> None:
    model = network()
    optimizer = LRGAdam(model[0].parameters(), rank=2, method=method)
    train(model, optimizer, 2)
    with pytest.raises(ValueError, match="Invalid rank: 5"):
        optimizer.add_param_group({"params": list(model[2].parameters()), "rank": 5})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": list(model[2].parameters())})
    train(model, optimizer, 2)
    assert optimizer.last_step_info[0].shape == (16, 16)


def test_scope_parameter_filters_each_matrix_alone() -> None:
    model = network()
    groups = [
        {"params": list(model[0].parameters()), "rank": 2},
        {"params": list(model[2].parameters())},
    ]
    optimizer = LRGAdam(groups, rank=1, scope="parameter")
    loss_of(model).backward()
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    after = [p.grad for p in model.parameters()]
    torch.testing.assert_close(after[0], low_rank.svd(before[0], 2).matrix, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after[2], low_rank.svd(before[2], 1).matrix, rtol=1e-4, atol=1e-6)
    assert_same([before[1], before[3]], [after[1], after[3]])
    assert [info.shape for info in optimizer.last_step_info] == [(16, 9), (5, 16)]


def test_scope_parameter_flattens_what_follows_the_first_axis() -> None:
    conv = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
    conv(torch.randn(2, 3, 6, 6)).square().sum().backward()
    expected = low_rank.svd(conv.weight.grad.reshape(8, 27), 2).matrix.view(8, 3, 3, 3)
    LRGAdam(conv.parameters(), rank=2, scope="parameter").step()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_fused_reads_gradients_in_the_layout_of_their_parameters(
    method: str, batch_dims: int, scope: str
) -> None:
    """Its kernel pairs memory, not indices: any other layout would be a silent permutation."""
    results = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        params = [
            nn.Parameter(torch.zeros(3, 2, 5, 4).to(memory_format=torch.channels_last)),
            nn.Parameter(torch.zeros(3, 4, 9)),
            nn.Parameter(torch.zeros(3, 9, 4)),
            nn.Parameter(torch.zeros(3, 6, 7).transpose(1, 2)),
            nn.Parameter(torch.zeros(3, 5)),
        ]
        for p in params:
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        LRGAdam(
            params, rank=2, method=method, scope=scope, batch_dims=batch_dims, eps=1.0, fused=fused
        ).step()
        results.append([p.detach() for p in params])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused)


# --- stacks of models -------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_stacked_models_train_as_if_alone(method: str, scope: str) -> None:
    """Bit for bit, also next to a model that diverges."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 12, 7), (4, 12), (4, 3, 12), (4,)]
    start = [torch.randn(s, generator=generator) for s in shapes]
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(4)]
    for step in (2, 3):
        gradients[step][0][1, 3, 3] = float("nan")
        gradients[step][2][1] = float("inf")

    def run(models: slice) -> list[Tensor]:
        params = [nn.Parameter(p[models].clone()) for p in start]
        optimizer = LRGAdam(
            params,
            rank=2,
            method=method,
            scope=scope,
            batch_dims=1,
            nonfinite="propagate",
            foreach=False,
        )
        for grads in gradients:
            for p, g in zip(params, grads, strict=True):
                p.grad = g[models].clone()
            optimizer.step()
        return [p.detach() for p in params]

    together = run(slice(None))
    for model in range(4):
        alone = run(slice(model, model + 1))
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[model].nan_to_num(7), b[0].nan_to_num(7))
    assert together[0][1].isnan().all()
    assert all(p[[0, 2, 3]].isfinite().all() for p in together)


@pytest.mark.parametrize("method", METHODS)
def test_a_diverged_model_recovers_its_basis(method: str) -> None:
    p = nn.Parameter(torch.zeros(2, 20))
    optimizer = LRGAdam([p], rank=1, method=method, batch_dims=1, nonfinite="propagate")
    for value in (float("nan"), 1.0):
        p.grad = torch.randn(2, 20)
        p.grad[0, 0] *= value
        optimizer.step()
    assert p.grad.isfinite().all()


# --- gradients of every kind ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_gradients_are_named_and_change_nothing(method: str) -> None:
    model = network()
    optimizer = LRGAdam(model.named_parameters(), rank=2, method=method)
    train(model, optimizer, 1)
    before = [p.detach().clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for value in (float("nan"), float("inf"), -float("inf")):
        loss_of(model).backward()
        model[2].weight.grad[1, 1] = value
        grads = [p.grad for p in model.parameters()]
        with pytest.raises(RuntimeError, match=r"non-finite gradient in parameter 2\.weight"):
            optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert_same(before, list(model.parameters()))
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"rank": 2, "scope": "parameter"}, {"rank": 99, "scope": "model"}]
)
def test_nonfinite_gradients_outside_every_matrix_are_seen_too(options: dict) -> None:
    model = network()
    for nonfinite in ("raise", "skip", "propagate"):
        optimizer = LRGAdam(model.named_parameters(), nonfinite=nonfinite, **options)
        loss_of(model).backward()
        model[2].bias.grad[1] = math.nan
        before = model[2].bias.detach().clone()
        if nonfinite == "raise":
            with pytest.raises(RuntimeError, match=r"non-finite gradient in parameter 2\.bias"):
                optimizer.step()
        else:
            optimizer.step()
        assert optimizer.skipped_steps == (nonfinite == "skip")
        assert torch.equal(model[2].bias, before) == (nonfinite != "propagate")


@pytest.mark.parametrize("method", EXACT)
def test_a_filtered_entry_beyond_the_range_of_half_precision_stays_finite(method: str) -> None:
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float16))
    p.grad = torch.tensor([[60000, 60000], [60000, 0]], dtype=torch.float16)
    LRGAdam([p], rank=1, method=method).step()
    assert p.grad.max() == torch.finfo(torch.float16).max
    assert p.isfinite().all()


@pytest.mark.parametrize("nonfinite", ["raise", "skip", "propagate"])
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_an_overflow_is_seen(method: str, scope: str, nonfinite: str) -> None:
    """Finite gradients whose approximation would not be."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        p, q = (nn.Parameter(torch.zeros(30, 30)) for _ in range(2))
        p.grad = torch.randn(30, 30, generator=generator).sign() * 1e38
        q.grad = torch.randn(30, 30, generator=generator)
        optimizer = LRGAdam([p, q], rank=3, method=method, scope=scope, nonfinite=nonfinite)
        if nonfinite == "raise":
            with pytest.raises(RuntimeError, match="finite, but too large"):
                optimizer.step()
        else:
            optimizer.step()
        assert optimizer.skipped_steps == (nonfinite == "skip")
        if nonfinite == "propagate":
            assert p.grad.isnan().all()
            assert q.grad.isnan().all() == (scope == "model")
        else:
            assert p.grad.isfinite().all()
            assert (p == 0).all()
            assert not optimizer.state


def test_an_overflow_under_the_fused_grad_scaler_skips_the_step() -> None:
    p = nn.Parameter(torch.zeros(30, 30))
    optimizer = LRGAdam([p], rank=3, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    p.grad = torch.full((30, 30), 1e38)
    p.grad[::2, ::2] = -1e38
    scaler.step(optimizer)
    assert (p == 0).all()


def test_a_zero_gradient_does_not_blind_the_steps_after_it() -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), lr=0.01, rank=3, method="subspace", diagnostics=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    train(model, optimizer, 3)
    assert optimizer.last_step_info[0].excess_error < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_steps_can_be_skipped_and_are_counted(method: str) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2, method=method, nonfinite="skip")
    train(model, optimizer, 1)
    before = [p.detach().clone() for p in model.parameters()]
    model[0].bias.grad[0] = float("nan")
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert_same(before, list(model.parameters()))
    assert optimizer.skipped_steps == 1
    train(model, optimizer, 1)
    assert optimizer.skipped_steps == 1


def test_a_matrix_mixes_the_rows_of_an_embedding() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(50_000, 64)
    embedding(torch.randperm(50_000)[:40]).square().sum().backward()
    LRGAdam(embedding.parameters(), rank=20, method="subspace").step()
    assert (embedding.weight.grad != 0).any(1).sum() == 1966  # as the page says


def test_missing_gradients_are_zeros_in_the_matrix() -> None:
    model = network()
    loss_of(model).backward()
    model[0].bias.grad = None
    bias = model[0].bias.detach().clone()
    filled = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    expected = low_rank_gradients(filled, 3)
    optimizer = LRGAdam(model.parameters(), rank=3)
    optimizer.step()
    assert torch.equal(bias, model[0].bias)
    assert model[0].bias.grad is None
    assert model[0].bias not in optimizer.state
    for index, p in enumerate(model.parameters()):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[index], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_basis_survives_freezing_and_unfreezing(method: str) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2, method=method)
    for frozen in (True, False, True, False):
        for p in model[0].parameters():
            p.requires_grad_(not frozen)
        train(model, optimizer, 2)
    if method == "subspace":
        holders = [p for p in model.parameters() if "basis" in optimizer.state[p]]
        assert len(holders) == 1
    assert all({"step", "exp_avg", "exp_avg_sq"} <= set(s) for s in optimizer.state.values())


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_parameters(method: str) -> None:
    shapes = [(), (0,), (3, 0, 2), (1,), (5, 3)]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    for scope in ("model", "parameter"):
        optimizer = LRGAdam(params, rank=1, method=method, scope=scope)
        optimizer.step()  # no gradient at all
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
    for empty in ([nn.Parameter(torch.zeros(0))], [nn.Parameter(torch.zeros(()))]):
        empty[0].grad = torch.ones_like(empty[0])
        LRGAdam(empty, rank=1, method=method).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_filtered_in_float32(dtype: torch.dtype, method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.zeros(12, 12, dtype=dtype))
    q = nn.Parameter(torch.zeros(12, 12))
    p.grad = torch.randn(12, 12, generator=generator).to(dtype)
    q.grad = p.grad.float()
    for x in (p, q):
        LRGAdam([x], rank=3, method=method, eps=1e-3).step()
    assert p.grad.dtype == dtype
    assert torch.equal(p.grad, q.grad.to(dtype))


def test_mixed_dtypes_use_the_widest() -> None:
    params = [
        nn.Parameter(torch.randn(6, 7).to(dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    grads = [torch.randn(6, 7).to(p.dtype) for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    LRGAdam(params, rank=2).step()
    for p, g in zip(params, low_rank_gradients(grads, 2), strict=True):
        assert p.grad.dtype == p.dtype
        torch.testing.assert_close(p.grad, g)


def test_sparse_and_complex_gradients_are_refused() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        LRGAdam(embedding.parameters(), rank=1).step()
    p = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="does not support complex gradients"):
        LRGAdam([p], rank=1).step()


def test_differentiable_follows_the_projection() -> None:
    """The derivative of the updated parameter with respect to the gradient, by autograd."""

    def updated(grad: Tensor) -> Tensor:
        p = torch.ones(4, 4, dtype=torch.float64, requires_grad=True)
        leaf = p.clone()
        leaf.grad = grad
        leaf.retain_grad()
        optimizer = LRGAdam([leaf], lr=0.1, rank=2, method="svd", differentiable=True, eps=1e-3)
        optimizer.step()
        return leaf

    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(updated, grad, atol=1e-4)


# --- what Adam takes --------------------------------------------------------------------------


def test_lazy_modules() -> None:
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(5))
    optimizer = LRGAdam(lazy.parameters(), rank=2)
    lazy(torch.zeros(1, 9))
    plain = network()
    plain.load_state_dict(lazy.state_dict())
    assert_same(train(lazy, optimizer, 3), train(plain, LRGAdam(plain.parameters(), rank=2), 3))
    optimizer = LRGAdam(nn.LazyLinear(16).parameters(), rank=2, batch_dims=1)
    with pytest.raises(ValueError, match="Invalid batch_dims: 1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(()))]})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fused", [False, True])
def test_meta_tensors_go_as_with_adam(method: str, fused: bool) -> None:
    outcomes = []
    for kind in (Adam, functools.partial(LRGAdam, rank=2, method=method)):
        model = network().to("meta")
        optimizer = kind(model.parameters(), fused=fused)
        model(torch.zeros(3, 9, device="meta")).sum().backward()
        try:
            optimizer.step()
        except RuntimeError as error:
            outcomes.append(str(error))
        else:
            outcomes.append([sorted(s) for s in optimizer.state.values()])
    assert outcomes[0] == outcomes[1]


@pytest.mark.slow
def test_closures_type_check(tmp_path: Path) -> None:
    from mypy import api

    (tmp_path / "uses.py").write_text(
        "import torch\n"
        "from lrg_adam import LRGAdam\n"
        "def loss() -> torch.Tensor: return torch.zeros(())\n"
        "def number() -> float: return 0.0\n"
        "optimizer = LRGAdam([torch.nn.Parameter(torch.zeros(2))], rank=1)\n"
        "a: torch.Tensor = optimizer.step(loss)\n"
        "b: float = optimizer.step(number)\n"
        "c: None = optimizer.step()\n"
        "d: torch.optim.Optimizer = optimizer\n"
    )
    cache = f"--cache-dir={tmp_path / 'cache'}"
    output, _, status = api.run(["--strict", cache, str(tmp_path / "uses.py")])
    assert status == 0, output


# --- memory -----------------------------------------------------------------------------------

# The most gradients that a step holds besides parameters, gradients and state: what the class says.
MEMORY = {
    "randomized": ({"method": "randomized"}, 1.3),
    "subspace": ({"method": "subspace"}, 1.3),
    "svd": ({"method": "svd"}, 6),
    "gram": ({"rank": 100}, 6),
    "gram, filtered": ({}, 9),
    "tolerance": ({"method": "subspace", "tolerance": 100.0}, 6),
    "tolerance, fallback": ({"method": "subspace", "tolerance": 1e-9}, 14),
    "diagnostics": ({"method": "randomized", "diagnostics": True}, 6),
}


@pytest.mark.parametrize("name", MEMORY)
def test_the_memory_of_a_step(name: str) -> None:
    options, most = MEMORY[name]
    n = 600
    p = nn.Parameter(torch.zeros(n, n))
    optimizer = LRGAdam([p], fused=True, **{"rank": 5, **options})
    for step in range(2):  # the first also makes Adam's two moments, after the filter
        p.grad = torch.randn(n, n, generator=torch.Generator().manual_seed(step))
        assert peak_bytes(optimizer.step) / (4 * n * n) <= max(most, 0 if step else 3.1)


# --- information ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_diagnostics(method: str) -> None:
    p = nn.Parameter(torch.zeros(3, 20, 5))
    p.grad = torch.randn(3, 20, 5)
    squares = p.grad.reshape(3, 10, 10).double()
    s = torch.linalg.svdvals(squares).square()
    optimizer = LRGAdam([p], rank=4, method=method, batch_dims=1, diagnostics=True)
    optimizer.step()
    (info,) = optimizer.last_step_info
    assert (info.shape, info.rank, info.retries) == ((3, 10, 10), 4, 0)
    best = s[:, :4].sum(-1) / s.sum(-1)
    if method in EXACT:
        torch.testing.assert_close(info.captured_energy, best, rtol=1e-5, atol=0)
        assert (info.excess_error == 0).all()
    else:
        assert (info.captured_energy <= best * (1 + 1e-6)).all()
        ratio = ((1 - info.captured_energy) / (1 - best)).sqrt() - 1
        assert (ratio <= info.excess_error + 1e-6).all()


@pytest.mark.parametrize("method", ["randomized", "subspace"])
def test_tolerance_bounds_the_error(method: str) -> None:
    model = network()
    optimizer = LRGAdam(
        model.parameters(), rank=3, method=method, tolerance=0.02, oversampling=2, diagnostics=True
    )
    for step in range(5):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        flat = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).double()
        s = torch.linalg.svdvals(nn.functional.pad(flat, (0, 256 - len(flat))).view(16, 16))
        optimizer.step()
        found = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).double()
        assert (flat - found).norm() <= 1.02 * s[3:].norm() + 1e-6 * s.norm()
        assert (optimizer.last_step_info[0].excess_error <= 0.02).all()


# --- life cycle -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_walk_the_same_way(method: str, clone: Callable) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2, method=method, seed=3)
    train(model, optimizer, 3)
    other_model, other = clone((model, optimizer))
    other.param_groups[0]["params"] = list(other_model.parameters())
    assert_same(train(model, optimizer, 3, 3), train(other_model, other, 3, 3))


@pytest.mark.parametrize("method", METHODS)
def test_the_global_generator_is_not_touched(method: str) -> None:
    runs = []
    for seed in (1, 2):
        model = network()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(train(model, LRGAdam(model.parameters(), rank=2, method=method), 3))
        assert torch.equal(before, torch.get_rng_state())
    assert_same(*runs)


def test_the_seed_matters_to_the_randomized_method() -> None:
    runs = []
    for seed in (0, 1):
        model = network()
        options = {"rank": 2, "method": "randomized", "iterations": 1, "oversampling": 0}
        runs.append(train(model, LRGAdam(model.parameters(), seed=seed, **options), 1))
    assert not torch.equal(runs[0][0], runs[1][0])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_grad_scaler(method: str, fused: bool) -> None:
    """Steps with an infinity are skipped, the others are those of training without scaling."""
    scaled, plain = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    first = LRGAdam(scaled.parameters(), rank=2, method=method, fused=fused)
    second = LRGAdam(plain.parameters(), rank=2, method=method, fused=fused)
    for step in range(4):
        scaled.zero_grad()
        scaler.scale(loss_of(scaled, step)).backward()
        if step == 2:
            scaled[0].weight.grad[0, 0] = float("inf")
        scaler.step(first)
        scaler.update()
        if step != 2:
            train(plain, second, 1, step)
    for p, q in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert first.state[scaled[0].weight]["step"] == 3


def test_memory_does_not_grow() -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2, method="subspace")
    sizes = set()
    for step in range(20):
        train(model, optimizer, 1, step)
        sizes.add(len(pickle.dumps(optimizer.state_dict())))
    assert len(sizes) == 1
