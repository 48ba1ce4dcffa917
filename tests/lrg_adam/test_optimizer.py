"""LRGAdam against the literal reference and against Adam, and what it promises on top."""

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lrg_adam import LRGAdam
from reference import ReferenceLRGAdam, low_rank_gradients

METHODS = ("gram", "svd", "randomized")
EXACT = ("gram", "svd")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 5))


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(32, 9, generator=generator)
    return nn.functional.mse_loss(model(x), torch.randn(32, 5, generator=generator))


def train(model: nn.Module, optimizer: object, steps: int, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        model.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# --- the published step -----------------------------------------------------------------------


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("rank", [1, 5, 14])
def test_matches_the_literal_reference(method: str, rank: int) -> None:
    ours, theirs = network(), network()
    a = train(ours, LRGAdam(ours.parameters(), lr=0.01, rank=rank, method=method), 20)
    b = train(theirs, ReferenceLRGAdam(theirs.parameters(), rank=rank, lr=0.01), 20)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


ADAM_OPTIONS = [
    {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    {"amsgrad": True, "betas": (0.7, 0.9), "eps": 1e-4},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"lr": torch.tensor(0.01)},
]


@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_rest_of_the_step_is_adams(options: dict, method: str) -> None:
    """Adam fed with the gradients that LRGAdam leaves behind walks the same way."""
    ours, theirs, full = network(), network(), network()
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
    plain = network()
    a = train(full, LRGAdam(full.parameters(), rank=17, method=method, **options), 5)
    assert_same(a, train(plain, Adam(plain.parameters(), **options), 5))


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tolerance": 0.01}, "tolerance was removed: method='gram' is exact"),
        ({"oversampling": 4}, "oversampling was removed: .* 8 directions"),
        ({"diagnostics": True}, "diagnostics was removed: .*captured_energy"),
    ],
)
def test_options_that_are_gone_name_what_replaces_them(option: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LRGAdam(network().parameters(), rank=2, **option)


def test_differentiable_needs_svd() -> None:
    with pytest.raises(ValueError, match="differentiable=True needs method='svd'"):
        LRGAdam(network().parameters(), rank=2, differentiable=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_schedule(method: str) -> None:
    """Every step is that of its rank, and from the side of the matrix on it is Adam's."""
    model = network()  # 245 parameters: the matrix is 16 x 16
    optimizer = LRGAdam(model.parameters(), rank=2, method=method)
    for rank, expected in ((2, 2), (9, 9), (0.25, 4), (16, 16), (0.001, 1), (3, 3)):
        optimizer.param_groups[0]["rank"] = rank
        loss_of(model).backward()
        before = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).double()
        optimizer.step()
        s = torch.linalg.svdvals(nn.functional.pad(before, (0, 256 - 245)).view(16, 16)).square()
        share = s[:expected].sum() / s.sum()
        tolerance = 1e-5 if method in EXACT else 1e-2
        torch.testing.assert_close(optimizer.captured_energy, share, rtol=tolerance, atol=0)
        optimizer.zero_grad()


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
    with pytest.raises(ValueError, match="Invalid rank: 3, another group has 2"):
        LRGAdam([{"params": first}, {"params": second, "rank": 3}], rank=2)


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

    options = {"rank": 2, "method": method, "scope": scope, "batch_dims": 1, "foreach": False}

    def run(models: slice) -> list[Tensor]:
        params = [nn.Parameter(p[models].clone()) for p in start]
        optimizer = LRGAdam(params, nonfinite="propagate", **options)
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


# --- gradients that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("options", [{"rank": 2}, {"rank": 2, "scope": "parameter"}, {"rank": 99}])
@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_gradients_are_named_and_change_nothing(method: str, options: dict) -> None:
    model = network()
    optimizer = LRGAdam(model.named_parameters(), method=method, **options)
    train(model, optimizer, 1)
    before = [p.detach().clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for value, name in ((float("nan"), "2.weight"), (-float("inf"), "2.bias")):
        model.zero_grad()
        loss_of(model).backward()
        model.get_parameter(name).grad.view(-1)[1] = value
        grads = [p.grad for p in model.parameters()]
        with pytest.raises(RuntimeError, match=f"non-finite gradient in parameter {name}"):
            optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert_same(before, list(model.parameters()))
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), 1e38])
@pytest.mark.parametrize("method", METHODS)
def test_a_skipped_step_changes_nothing_and_is_counted(method: str, value: float) -> None:
    p = nn.Parameter(torch.zeros(30, 30))
    p.grad = torch.full((30, 30), value)
    optimizer = LRGAdam([p], rank=3, method=method, nonfinite="skip")
    assert optimizer.step(lambda: 3.0) == 3.0
    assert optimizer.skipped_steps == 1
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


# --- what torch asks of an optimizer ----------------------------------------------------------


def test_without_a_gradient_nothing_changes() -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert_same(before, list(model.parameters()))
    assert not optimizer.state
    loss_of(model).backward()
    model[0].bias.grad = None
    optimizer.step()
    assert torch.equal(before[1], model[0].bias)
    assert model[0].bias not in optimizer.state


@pytest.mark.parametrize("method", METHODS)
def test_hooks_run_once_and_the_state_is_adams(method: str) -> None:
    """Also when an Adam is alive, whose step torch has wrapped as well."""
    Adam([nn.Parameter(torch.zeros(2))]).step()
    model, order = network(), []
    optimizer = LRGAdam(model.parameters(), rank=2, method=method)
    handles = [
        register_optimizer_step_pre_hook(lambda *_: order.append(0)),
        register_optimizer_step_post_hook(lambda *_: order.append(5)),
    ]
    optimizer.register_step_pre_hook(lambda *_: order.append(1))
    optimizer.register_step_post_hook(lambda *_: order.append(2))
    try:
        train(model, optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert order == [0, 1, 2, 5]
    for p in model.parameters():
        assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"}
    assert repr(optimizer).startswith("LRGAdam (")


@pytest.mark.parametrize("method", METHODS)
def test_the_closure_can_differentiate(method: str) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), lr=0.02, rank=4, method=method)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure) for _ in range(60)]
    assert losses[0].requires_grad
    assert losses[-1] < 0.8 * losses[0]


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


def test_lazy_modules() -> None:
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(5))
    optimizer = LRGAdam(lazy.parameters(), rank=2)
    lazy(torch.zeros(1, 9))
    plain = network()
    plain.load_state_dict(lazy.state_dict())
    assert_same(train(lazy, optimizer, 3), train(plain, LRGAdam(plain.parameters(), rank=2), 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_walk_the_same_way(method: str, clone: Callable) -> None:
    model = network()
    optimizer = LRGAdam(model.parameters(), rank=2, method=method, seed=3)
    train(model, optimizer, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other_model, other = clone((model, optimizer))
    assert other.captured_energy == optimizer.captured_energy
    other.param_groups[0]["params"] = list(other_model.parameters())
    assert_same(train(model, optimizer, 3, 3), train(other_model, other, 3, 3))


def test_randomness_is_a_function_of_the_seed_and_the_step() -> None:
    runs = []
    for seed in (0, 0, 1):
        model = network()
        torch.manual_seed(len(runs))
        before = torch.get_rng_state()
        options = {"rank": 1, "method": "randomized", "iterations": 1}
        runs.append(train(model, LRGAdam(model.parameters(), seed=seed, **options), 3))
        assert torch.equal(before, torch.get_rng_state())
    assert_same(*runs[:2])
    assert not torch.equal(runs[0][0], runs[2][0])
