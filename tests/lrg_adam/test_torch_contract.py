"""What PyTorch's own test suite asks of every optimizer, asked of LRGAdam.

The suite itself is not part of the torch wheel, its database is: ``OptimizerInfo``, Adam's inputs
and ``TensorTracker``. LRGAdam is entered there with Adam's inputs crossed with ranks and methods.
"""

import copy
import functools
import io
import math
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    TensorTracker,
    optim_db,
)

from lrg_adam import LRGAdam

ADAM = next(info for info in optim_db if info.optim_cls is Adam)
FILTERS = (
    {"rank": 1},
    {"rank": 2, "method": "svd"},
    {"rank": 1, "method": "randomized"},
    {"rank": 2, "method": "subspace", "oversampling": 1},
    {"rank": 1, "scope": "parameter"},
    {"rank": 10_000},
)


def inputs(device: str, dtype: torch.dtype | None = None) -> list[OptimizerInput]:
    result = []
    for options in FILTERS:
        for adam_input in ADAM.optim_inputs_func(device, dtype):
            adam_input.kwargs |= options
            adam_input.desc += f", {options}"
            result.append(adam_input)
    return result


def error_inputs(device: str, dtype: torch.dtype) -> list[ErrorOptimizerInput]:
    result = ADAM.optim_error_inputs_func(device, dtype)
    for error in result:
        error.optimizer_error_input.kwargs.setdefault("rank", 1)
    bad = OptimizerInput(params=None, kwargs={"rank": 0}, desc="rank should be positive")
    return [*result, ErrorOptimizerInput(bad, error_type=ValueError, error_regex="Invalid rank: 0")]


INFO = OptimizerInfo(
    LRGAdam,
    optim_inputs_func=inputs,
    optim_error_inputs_func=error_inputs,
    scheduler_inputs=ADAM.scheduler_inputs,
    supported_impls=ADAM.supported_impls,
    not_og_supported_flags=ADAM.not_og_supported_flags,
    has_capturable_arg=True,
    supports_complex=False,
    supports_fused_on=("cpu", "cuda"),
)
CASE = unittest.TestCase()
CASE.assertEqual = functools.partial(torch.testing.assert_close, rtol=0, atol=0)
each_input = pytest.mark.parametrize("given", INFO.optim_inputs_func("cpu"), ids=lambda i: i.desc)


@pytest.fixture(autouse=True)
def _fresh_inputs(request: pytest.FixtureRequest) -> None:
    """Tests change the options they are given; none may see what another did."""
    if "given" in request.fixturenames:
        given = request.node.callspec.params["given"]
        request.node.funcargs["given"] = OptimizerInput(None, dict(given.kwargs), given.desc)


def least_squares(contiguous: bool = True) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        if contiguous:
            return torch.randn(*shape, generator=generator)
        return torch.randn(*shape, 2, generator=generator)[..., 0]

    weight, bias = nn.Parameter(make(10, 5)), nn.Parameter(make(10))
    x = torch.randn(5, generator=generator)

    def closure() -> Tensor:
        for p in (weight, bias):
            p.grad = None
        loss = (weight @ x + bias).pow(2).sum()
        loss.backward()
        if not contiguous:  # so that the gradients are strided too
            for p in (weight, bias):
                p.grad = torch.stack([p.grad, p.grad], -1)[..., 0]
        return loss

    return weight, bias, closure


def test_errors() -> None:
    for error in INFO.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = given.params
        if params is None:
            params = [nn.Parameter(torch.randn(3, 2))]
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                LRGAdam(params, **given.kwargs)
            continue
        assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        with pytest.raises(error.error_type, match=error.error_regex):
            LRGAdam(params, **given.kwargs)


@each_input
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("schedule", [None, *range(len(INFO.scheduler_inputs))])
def test_goes_in_the_right_direction(
    given: OptimizerInput, contiguous: bool, schedule: int | None
) -> None:
    if given.desc.startswith("maximize") and schedule is not None:
        given.kwargs["lr"] = 1e-3
    weight, bias, closure = least_squares(contiguous)
    optimizer = LRGAdam([weight, bias], foreach=False, **given.kwargs)
    makers = [] if schedule is None else INFO.scheduler_inputs[schedule]
    schedulers = [make(optimizer) for make in makers]
    first = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(loss.detach())
            else:
                scheduler.step()
    last = closure().item()
    assert last > first if given.kwargs.get("maximize") else last < first


@each_input
def test_learning_rates_of_groups(given: OptimizerInput) -> None:
    weight, bias, closure = least_squares()
    before = bias.detach().clone(), weight.detach().clone()
    options = {k: v for k, v in given.kwargs.items() if k not in ("lr", "weight_decay")}
    groups = [{"params": [weight]}, {"params": [bias], "lr": 1e-28}]
    optimizer = LRGAdam(groups, lr=0.01, **options)
    for _ in range(5):
        optimizer.step(closure)
    assert torch.equal(bias, before[0])
    assert not torch.equal(weight, before[1])


@each_input
def test_weight_decay_of_groups(given: OptimizerInput) -> None:
    start = torch.randn(4, 3)
    params = [nn.Parameter(start.clone()) for _ in range(2)]
    options = {k: v for k, v in given.kwargs.items() if k not in ("weight_decay", "maximize")}
    groups = [{"params": [params[0]]}, {"params": [params[1]], "weight_decay": 0.5}]
    optimizer = LRGAdam(groups, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(params[0], start)
    assert params[1].norm() < start.norm()


@each_input
def test_tensor_learning_rate(given: OptimizerInput) -> None:
    lr = float(given.kwargs.pop("lr", 1e-3))
    runs = []
    for kind in (lr, torch.tensor(lr), torch.tensor([lr])):
        weight, bias, closure = least_squares()
        optimizer = LRGAdam([weight, bias], lr=kind, foreach=False, **given.kwargs)
        for _ in range(5):
            optimizer.step(closure)
        runs.append(weight)
    for other in runs[1:]:
        torch.testing.assert_close(runs[0], other)


def eventful_run(optimizer: Optimizer, params: list[Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Seven steps: one without gradients, two with a frozen layer."""
    generator = torch.Generator().manual_seed(1)
    for step in range(7):
        for index, p in enumerate(params):
            noise = torch.randn(p.shape, generator=generator).to(dtype)
            frozen = step == 2 or (step in (3, 4) and index < 2)
            p.grad = None if frozen else noise
        optimizer.step()
        yield


@each_input
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["foreach", "fused"])
def test_implementations_agree(
    given: OptimizerInput, implementation: str, dtype: torch.dtype
) -> None:
    """Parameters and every state tensor, after every step."""
    if isinstance(given.kwargs.get("lr"), Tensor) and implementation == "foreach":
        return
    if dtype == torch.float16:  # Adam's default epsilon is zero there; this one is its database's
        given.kwargs["eps"] = 0.1
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-5}.get(dtype, 2e-2)
    tracker = TensorTracker({"rtol": tolerance, "atol": tolerance})
    for flag in (False, True):
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3), (4,), (1, 4), (), (2, 2)]
        params = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
        optimizer = LRGAdam(params, **given.kwargs, **{implementation: flag})
        for _ in eventful_run(optimizer, params, dtype):
            tensors = [*params]
            for p in params:
                if p in optimizer.state:
                    state = optimizer.state[p]
                    tensors += [state[key] for key in sorted(state) if key != "basis"]
            for tensor in tensors:
                if flag:
                    tracker.pop_check_set(tensor, CASE)
                else:
                    tracker.add(tensor)
    assert tracker.all_popped()


@each_input
def test_no_gradients_no_change(given: OptimizerInput) -> None:
    params = [nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
    before = [p.detach().clone() for p in params]
    optimizer = LRGAdam(params, **given.kwargs)
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert not optimizer.state


@each_input
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_gradients_no_change(given: OptimizerInput, dtype: torch.dtype) -> None:
    given.kwargs["weight_decay"] = 0.0
    p = nn.Parameter(torch.randn(5, 4).to(dtype))
    before = p.detach().clone()
    optimizer = LRGAdam([p], **given.kwargs)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert torch.equal(p, before)


@each_input
def test_gradients_are_never_written_to(given: OptimizerInput) -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], **given.kwargs)
    for _ in range(5):
        closure()
        grads = [weight.grad, bias.grad]
        before = [(g._version, g.clone()) for g in grads]
        optimizer.step()
        for g, (version, value) in zip(grads, before, strict=True):
            assert g._version == version
            assert torch.equal(g, value)


@each_input
@pytest.mark.parametrize("named", [True, False])
def test_a_loaded_copy_walks_the_same_way(given: OptimizerInput, named: bool) -> None:
    weight, bias, closure = least_squares()
    params = [("w", weight), ("b", bias)] if named else [weight, bias]
    optimizer = LRGAdam(params, **given.kwargs)
    for _ in range(3):
        optimizer.step(closure)
    other_weight, other_bias, other_closure = least_squares()
    with torch.no_grad():
        other_weight.copy_(weight)
        other_bias.copy_(bias)
    other_params = [("w", other_weight), ("b", other_bias)] if named else [other_weight, other_bias]
    other = LRGAdam(other_params, **(given.kwargs | {"lr": 17.0}))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for _ in range(10):
        optimizer.step(closure)
        other.step(other_closure)
        assert torch.equal(weight, other_weight)
        assert torch.equal(bias, other_bias)
    first, second = optimizer.state_dict(), other.state_dict()
    assert first["param_groups"] == second["param_groups"]
    torch.testing.assert_close(first["state"], second["state"], rtol=0, atol=0)


@each_input
def test_loading_does_not_alias(given: OptimizerInput) -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], **given.kwargs)
    optimizer.step(closure)
    state_dict = optimizer.state_dict()
    loaded = LRGAdam([weight, bias], **given.kwargs)
    loaded.load_state_dict(state_dict)
    for p in (weight, bias):
        if "basis" in optimizer.state.get(p, {}):
            assert loaded.state[p]["basis"] is not optimizer.state[p]["basis"]
    before = copy.deepcopy(state_dict["state"])
    LRGAdam.step(loaded, closure)
    if "basis" in before[0]:
        assert torch.equal(before[0]["basis"], optimizer.state[weight]["basis"])


def test_older_and_foreign_state_dicts_load() -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], rank=2, method="subspace")
    optimizer.step(closure)
    old = copy.deepcopy(optimizer.state_dict())
    for name in (*INFO.not_og_supported_flags, "rank", "method", "scope", "batch_dims", "seed"):
        del old["param_groups"][0][name]
    for state in old["state"].values():
        state["step"] = float(state["step"])  # as torch kept it once
    adam = Adam([weight, bias])
    adam.step(closure)
    for state_dict in (old, adam.state_dict()):
        fresh = LRGAdam([weight, bias], rank=3, method="subspace")
        fresh.load_state_dict(state_dict)
        fresh.step(closure)
        assert fresh.param_groups[0]["rank"] == 3
        assert fresh.state[weight]["step"] == 2


def test_names_follow_the_convention_of_torch() -> None:
    weight, bias, closure = least_squares()
    named = LRGAdam([("w", weight), ("b", bias)], rank=1)
    plain = LRGAdam([weight, bias], rank=1)
    named.step(closure)
    plain.step(closure)
    plain.load_state_dict(named.state_dict())
    assert plain.param_groups[0]["param_names"] == ["w", "b"]
    named.load_state_dict(LRGAdam([weight, bias], rank=1).state_dict())
    assert named.param_groups[0]["param_names"] == ["w", "b"]


def test_state_dict_hooks_run_in_order() -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], rank=1, method="subspace")
    optimizer.step(closure)
    order: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: order.append("save pre"))

    def post(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        order.append("save post")
        return {**state_dict, "note": 1}

    optimizer.register_state_dict_post_hook(post)
    state_dict = optimizer.state_dict()
    assert state_dict["note"] == 1

    def load_pre(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        order.append("load pre")
        changed = copy.deepcopy(given)
        changed["state"][0]["basis"] += 1
        return changed

    optimizer.register_load_state_dict_pre_hook(load_pre)
    optimizer.register_load_state_dict_post_hook(lambda _: order.append("load post"))
    optimizer.load_state_dict(state_dict)
    assert order == ["save pre", "save post", "load pre", "load post"]
    assert torch.equal(optimizer.state[weight]["basis"], state_dict["state"][0]["basis"] + 1)
    optimizer._optimizer_load_state_dict_pre_hooks.clear()
    optimizer.load_state_dict(state_dict)
    assert torch.equal(optimizer.state[weight]["basis"], state_dict["state"][0]["basis"])


@each_input
def test_step_hooks_run_once(given: OptimizerInput) -> None:
    """Also when an Adam is alive, whose step torch has wrapped as well."""
    other = Adam([nn.Parameter(torch.zeros(2))])
    other.step()
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], **given.kwargs)
    order: list[int] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: order.append(0)),
        register_optimizer_step_post_hook(lambda *_: order.append(5)),
    ]
    optimizer.register_step_pre_hook(lambda *_: order.append(1))
    optimizer.register_step_post_hook(lambda *_: order.append(2))
    try:
        optimizer.step(closure)
    finally:
        for handle in handles:
            handle.remove()
    assert order == [0, 1, 2, 5]


@each_input
def test_deepcopy_keeps_public_attributes(given: OptimizerInput) -> None:
    optimizer = LRGAdam([nn.Parameter(torch.zeros(2, 3))], **given.kwargs)
    clone = copy.deepcopy(optimizer)

    def public(o: Optimizer) -> set[str]:
        return {name for name in vars(o) if not name.startswith("_")}

    assert public(clone) == public(optimizer)


@each_input
def test_printing(given: OptimizerInput) -> None:
    text = repr(LRGAdam([nn.Parameter(torch.zeros(2, 3))], **given.kwargs))
    assert text.startswith("LRGAdam (")
    assert f"rank: {given.kwargs['rank']}" in text


@each_input
def test_state_is_tensors_by_parameter(given: OptimizerInput) -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], **given.kwargs)
    optimizer.step(closure)
    assert set(optimizer.state) == {weight, bias}
    for state in optimizer.state.values():
        assert all(isinstance(value, Tensor) for value in state.values())


@each_input
def test_the_closure_can_differentiate(given: OptimizerInput) -> None:
    weight, bias, closure = least_squares()
    optimizer = LRGAdam([weight, bias], **given.kwargs)
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.requires_grad
    assert math.isfinite(loss.detach())


def test_pickles_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(LRGAdam([nn.Parameter(torch.zeros(2, 3))], rank=1))
