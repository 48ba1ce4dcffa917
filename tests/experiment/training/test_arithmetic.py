"""Arithmetic that is the same on every processor, and nothing of what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._ops import OpOverload
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from experiment.stage.data import Dataset, Split
from experiment.training.arithmetic import linear, matmul, sqrt
from experiment.training.loop import Group, RunConfig, train_group
from studies.gradients import analysis
from studies.published import protocol
from studies.training.arms import ProtocolConfig

PROTOCOL = ProtocolConfig(
    seed=0,
    device="cpu",
    samplers=2,
    hidden=[5],
    trials=2,
    tune_samples=40,
    tune_epochs=1,
    tune_batch_size=16,
    epochs=1,
    batch_size=16,
    lr={"low": 1e-3, "high": 1e-2},
    rank={"low": 2, "high": 4},
    training_samples=[48],
    offline_samples=100,
)
CONFIG = RunConfig("adam", {"lr": 0.01}, "mlp", {"hidden": (5,)}, 1, 16, "cpu", 0, "test")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_root_is_made_of_what_ieee_754_defines(dtype: type, count: int) -> None:
    x = np.random.default_rng(0).random(count).astype(dtype) ** 8
    one = dtype(1)

    found = sqrt(torch.from_numpy(x)).numpy()

    assert np.array_equal(found, one / (one / np.sqrt(x)))
    assert (np.abs(found - np.sqrt(x)) <= np.spacing(np.sqrt(x))).all()


def test_the_root_of_what_has_no_finite_one_is_that_of_torch() -> None:
    x = torch.tensor([0.0, 1.0, torch.inf, torch.nan, -1.0])
    torch.testing.assert_close(sqrt(x), torch.sqrt(x), rtol=0, atol=0, equal_nan=True)


def test_a_product_is_that_of_torch() -> None:
    a, b = torch.randn(3, 5, 4), torch.randn(3, 7, 4)
    torch.testing.assert_close(matmul(a, b.mT), a @ b.mT)
    torch.testing.assert_close(matmul(a.mT, a), a.mT @ a)
    torch.testing.assert_close(matmul(a[:1].expand(3, 5, 4), b.mT), a[:1] @ b.mT)


@pytest.mark.parametrize("broken", [torch.inf, torch.nan, 3e38])
def test_a_product_that_is_not_finite_is_no_news(broken: float) -> None:
    a = torch.ones(2, 3, 3)
    a[1] = broken
    found = matmul(a, a)
    assert (found[0] == 3).all()
    assert not found[1].isfinite().any()


def test_stacked_linear_layers_are_those_of_torch_with_their_gradients() -> None:
    x, weight, bias = torch.randn(3, 6, 4), torch.randn(3, 5, 4), torch.randn(3, 5)
    given = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    found = linear(*given)
    for r in range(3):
        torch.testing.assert_close(found[r], functional.linear(*(tensor[r] for tensor in given)))
    assert torch.autograd.gradcheck(linear, given)


class Watch(TorchDispatchMode):
    """The names of all operations of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        name = func.overloadpacket.__name__.removesuffix("_")
        half = name == "pow" and 0.5 in args[1:]
        self.names.add("sqrt" if half else name)
        return func(*args, **(kwargs or {}))


# What torch hands to the vector mathematics of MKL, in ways of its own on each make of processor
# (aten/src/ATen/cpu/vml.h).
OF_EACH_PROCESSOR = {
    *("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log"),
    *("log10", "log1p", "log2", "sin", "sqrt", "tan", "tanh"),
}


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        *(
            Split(rng.standard_normal((48, 40)).astype(np.float32), rng.integers(10, size=48))
            for _ in range(3)
        )
    )


def trained(optimizer: str, **hyperparameters: float | str) -> Callable[[], object]:
    config = replace(
        CONFIG, optimizer=optimizer, hyperparameters={"lr": 0.01, **hyperparameters}, noise=0.5
    )
    return lambda: train_group(dataset(), Group(config, 0, 2))


COMPUTED = {
    "adam": trained("adam"),
    "lrg_adam": trained("lrg_adam", rank=2),
    "randomized": trained("lrg_adam", rank=2, method="randomized"),
    "layout": trained("low_rank", base="torch.optim.Adam", fused=True, rank=2, layout="reversed"),
    "sgd": trained("low_rank", base="torch.optim.SGD", momentum=0.9, rank=2),
    "update": trained("filtered_update", rank=2),
    "schedule": lambda: train_group(
        dataset(), Group(replace(CONFIG, schedule="cosine", warmup=0.5), 0, 2)
    ),
    "per_layer": trained("lrg_adam", rank=0.5, scope="parameter"),
    "permuted": trained("controls", keep="permuted", rank=2),
    "energy": trained("controls", keep="energy", energy=0.7),
    "rest": trained("controls", keep="rest", rank=2),
    "random": trained("controls", keep="random", rank=2),
    "cnn": lambda: train_group(dataset(), Group(replace(CONFIG, model="cnn"), 0, 2)),
    "logistic": lambda: train_group(dataset(), Group(replace(CONFIG, model="logistic"), 0, 2)),
    "gradients": lambda: analysis.analyse(
        dataset(),
        analysis.GradientTask(CONFIG, 0, 2, (1,), ranks=(1, 3), batches=2),
    ),
    "published": lambda: protocol.repeat(
        dataset(),
        protocol.Repetition(PROTOCOL, highest_rank=4, sampler=0),
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_nothing_is_computed_in_a_way_of_each_processor_s_own(name: str) -> None:
    with Watch() as watch:
        COMPUTED[name]()
    assert "_log_softmax" in watch.names
    assert not watch.names & OF_EACH_PROCESSOR


def test_what_is_forbidden_is_seen() -> None:
    with Watch() as watch:
        torch.rand(2).sqrt_().exp() ** 0.5
    assert watch.names & OF_EACH_PROCESSOR == {"sqrt", "exp"}
