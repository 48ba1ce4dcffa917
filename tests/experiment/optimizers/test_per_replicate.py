"""Any optimizer of torch's, one for each replicate: as in a plain loop over single models."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiment.datasets import digits
from experiment.networks.mlp import MLP
from experiment.optimizers import muon
from experiment.stage.errors import UserError
from experiment.training import optimizer
from experiment.training.loop import RunConfig, train
from plain_loop import alone, perceptron, trained
from reference import ReferenceLRGAdam

DATA = digits.load(rng=np.random.default_rng(0))
HIDDEN = (12,)
NETWORK = MLP(64, 10, hidden=HIDDEN)
SIDE = 31  # of the 910 weights
CONFIG = RunConfig(
    optimizer="",
    hyperparameters={},
    model="mlp",
    options={"hidden": HIDDEN},
    epochs=2,
    batch_size=64,
    device="cpu",
    seed=1,
    purpose="test",
)


# What makes each, its hyperparameters, and the bound on rounding.
OPTIMIZERS: dict[str, tuple[Callable[..., object], dict[str, object], float]] = {
    # Muon computes in bfloat16, whose last bit is 2^-8, and then scales by 1.6: a few such bits.
    "adam": (torch.optim.Adam, {"lr": 0.01}, 1e-5),
    "lrg_adam": (ReferenceLRGAdam, {"lr": 0.01, "rank": 4}, 1e-5),
    "muon": (muon.create, {"lr": 0.02}, 4 * 0.02 * 2**-8),
    "torch.optim.SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}, 1e-5),
    "torch.optim.NAdam": (torch.optim.NAdam, {"lr": 0.005, "weight_decay": 0.01}, 1e-5),
    "torch.optim.Adafactor": (torch.optim.Adafactor, {"lr": 0.02}, 1e-5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_replicate_is_the_model_that_a_plain_loop_trains(name: str) -> None:
    make, hyperparameters, bound = OPTIMIZERS[name]
    config = replace(CONFIG, optimizer=name, hyperparameters=hyperparameters)
    optimizer.check(name, hyperparameters, NETWORK, "train")

    first, *_, stacked = trained(config, NETWORK, DATA.train, range(3))

    for replicate in range(3):
        single = alone(config, DATA.train, replicate, perceptron(NETWORK), make)
        for key, theirs in zip(stacked, single.parameters(), strict=True):
            ours = stacked[key][replicate]
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=bound)
            assert (ours - first[key][replicate]).abs().max() > 100 * bound  # it did train


@pytest.mark.parametrize("name", ["adam", "lrg_adam", "muon", "torch.optim.NAdam"])
def test_a_diverged_replicate_leaves_the_others_alone(name: str) -> None:
    _, hyperparameters, bound = OPTIMIZERS[name]
    config = replace(CONFIG, optimizer=name, hyperparameters=hyperparameters)
    untouched = trained(config, NETWORK, DATA.train, range(3))[-1]
    epochs = train(config, NETWORK, DATA.train, range(3))
    with torch.no_grad():
        next(epochs)["layers.0.weight"][1, 0, 0] = torch.inf
    *_, weights = epochs

    assert weights["layers.1.weight"][1].isnan().any()
    for key, tensor in weights.items():
        for other in (0, 2):
            torch.testing.assert_close(
                tensor[other].detach(), untouched[key][other], rtol=1e-4, atol=bound
            )


def test_muon_trains_matrices_and_adam_all_other_weights() -> None:
    shapes = [(5, 3), (5,), (2, 5), (4, 1, 3), ()]
    weights = [torch.ones(shape, requires_grad=True) for shape in shapes]
    made = muon.create(iter(weights), lr=0.1)
    assert [type(one) for one in made] == [torch.optim.Muon, torch.optim.Adam]
    for one, expected in zip(made, ({(5, 3), (2, 5)}, {(5,), (4, 1, 3), ()}), strict=True):
        (group,) = one.param_groups
        assert {tuple(weight.shape) for weight in group["params"]} == expected
        assert group["lr"] == 0.1


# Optimizers as people write them


def own(rule: Callable[[Tensor, float], object]) -> type[torch.optim.Optimizer]:
    """An optimizer that applies a rule to each parameter."""

    class Own(torch.optim.Optimizer):
        def __init__(self, params: list[Tensor], lr: float) -> None:
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    rule(p, group["lr"])

    return Own


class Regrouping(torch.optim.SGD):
    """It puts new parameters in the place of those that it was given."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        group["params"] = [
            nn.Parameter(p if p.grad is None else p - group["lr"] * p.grad) for p in group["params"]
        ]


def assign(p: Tensor, lr: float) -> None:
    p.data = p - lr * p.grad


def run(monkeypatch: pytest.MonkeyPatch, made: object, replicates: range) -> dict[str, Tensor]:
    """The last weights that an optimizer of the user's trains."""
    monkeypatch.setitem(sys.modules, "brought", SimpleNamespace(made=made))
    config = replace(CONFIG, optimizer="brought.made", hyperparameters={"lr": 0.1})
    optimizer.check(config.optimizer, config.hyperparameters, NETWORK, "train")
    return trained(config, NETWORK, DATA.train, replicates)[-1]


REPLACING = {
    "p.data": assign,
    "set_": lambda p, lr: p.set_(p - lr * p.grad),
    "swap_tensors": lambda p, lr: torch.utils.swap_tensors(p, nn.Parameter(p - lr * p.grad)),
}


@pytest.mark.parametrize("rule", REPLACING.values(), ids=REPLACING)
def test_a_parameter_may_be_replaced(
    rule: Callable[[Tensor, float], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place = run(monkeypatch, own(lambda p, lr: p.sub_(lr * p.grad)), range(3))
    replaced = run(monkeypatch, own(rule), range(3))
    assert all(torch.equal(replaced[key], in_place[key]) for key in in_place)


DRAWING = {
    "torch": lambda p, _: p.fill_(float(torch.rand(()))),
    "NumPy": lambda p, _: p.fill_(np.random.rand()),
    "Python": lambda p, _: p.fill_(random.random()),
}


@pytest.mark.parametrize("rule", DRAWING.values(), ids=DRAWING)
def test_draws_are_a_replicate_s_own(
    rule: Callable[[Tensor, float], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    together, only = run(monkeypatch, own(rule), range(3)), run(monkeypatch, own(rule), range(2, 3))
    for key, weight in together.items():
        assert torch.equal(weight[2], only[key][0])
        assert len(weight.unique()) == 3  # a number for each replicate
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_a_replicate_whose_step_raises_has_diverged_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untouched = run(monkeypatch, torch.optim.SGD, range(3))

    class Fragile(torch.optim.SGD):
        made = 0

        def __init__(self, params: list[Tensor], lr: float) -> None:
            super().__init__(params, lr=lr)
            Fragile.made += 1
            self.fails = Fragile.made == 4  # the second, after two of the check
            self.steps = 0

        def step(self) -> None:  # type: ignore[override]
            self.steps += 1
            if self.fails and self.steps == 30:
                raise ArithmeticError("too\nmuch")
            super().step()

    weights = run(monkeypatch, Fragile, range(3))
    for key, tensor in weights.items():
        assert tensor[1].isnan().all()
        assert torch.equal(tensor[[0, 2]], untouched[key][[0, 2]])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "brought.made with {'lr': 0.1}: replicate 1 counts as diverged: ArithmeticError: too much"
    )


# Schedules


@pytest.mark.parametrize("name", ["adam", "muon", "torch.optim.SGD"])
def test_a_schedule_is_that_of_a_plain_loop(name: str) -> None:
    make, hyperparameters, bound = OPTIMIZERS[name]
    config = replace(
        CONFIG, optimizer=name, hyperparameters=hyperparameters, schedule="cosine", epochs=1
    )
    optimizer.check(name, config.hyperparameters, NETWORK, "train", scheduled=True)
    *_, stacked = trained(config, NETWORK, DATA.train, range(2))

    def scheduled(params: Iterator[Tensor], **options: object) -> object:
        made = make(params, **options)
        for one in made if isinstance(made, list) else [made]:
            steps = math.ceil(len(DATA.train.y) / config.batch_size)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(one, steps)
            one.register_step_post_hook(lambda *_, own=cosine: own.step())
        return made

    for replicate in range(2):
        single = alone(config, DATA.train, replicate, perceptron(NETWORK), scheduled)
        for key, theirs in zip(stacked, single.parameters(), strict=True):
            ours = stacked[key][replicate]
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=bound)


def test_a_schedule_multiplies_the_rate_of_each_group() -> None:
    weights = [torch.ones(1, 2, requires_grad=True), torch.ones(1, 3, requires_grad=True)]
    adam = torch.optim.Adam

    def make(params: list[Tensor], lr: float) -> torch.optim.Optimizer:
        made.append(adam([{"params": params[:1]}, {"params": params[1:], "lr": 5 * lr}], lr=lr))
        return made[-1]

    made: list[torch.optim.Optimizer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "brought", SimpleNamespace(made=make))
        factor = optimizer.schedule("linear", 0.5, 4)
        (stepper,) = optimizer.create(
            "brought.made", weights, {"lr": 0.1}, "", {0: np.random.default_rng(0)}, factor
        )
    rates = []
    for _ in range(4):
        rates += [group["lr"] / 0.1 for group in made[0].param_groups]
        stepper.step(lambda _: torch.zeros(()))
    assert rates == pytest.approx([0.5, 2.5, 1, 5, 1, 5, 0.5, 2.5])


# What cannot train


@pytest.mark.parametrize(
    "name",
    [
        *("nonexistent", "../adam", "adam.create", ".adam", "adam.", "."),
        *("torch.optim.Nobody", "nobody.Adam"),
    ],
)
def test_an_unknown_optimizer_is_named(name: str) -> None:
    for refuse in (
        lambda: optimizer.create(name, [], {"lr": 0.1}, "train.optimizer", {}),
        lambda: optimizer.check(name, {"lr": 0.1}, NETWORK, "train"),
    ):
        with pytest.raises(UserError) as refused:
            refuse()
        (line,) = str(refused.value).splitlines()
        assert line.startswith(f"train.optimizer = {name!r}; allowed: a module in ")


UNFIT: list[tuple[str, dict[str, object], str]] = [
    ("low_rank", {"rank": 5, "base": "torch.optim.LBFGS"}, "LBFGS needs a closure"),
    ("low_rank", {"rank": 5, "base": "torch.optim.SGD", "layout": "up"}, "layout = 'up'; allowed"),
    ("low_rank", {"rank": 5, "base": "torch.optim.SGD", "beta": 1}, "'beta'"),
    ("torch.optim.SparseAdam", {}, "SparseAdam does not support dense gradients"),
    ("torch.optim.Muon", {}, "Muon only supports 2D parameters"),
    # No optimizers.
    ("torch.nn.Linear", {}, "with which torch.nn.Linear trains the network"),
    ("torch.optim.lr_scheduler.StepLR", {}, "step_size, gamma, last_epoch"),
    ("torch.pi", {}, "must be callable"),
    ("brought.nothing", {}, "a NoneType is made, which is no optimizer"),
    ("brought.Rebinding", {}, "leave all parameters as they were"),
    ("brought.Regrouping", {}, "leave all parameters as they were"),
    ("brought.Broken", {}, "ZeroDivisionError: division by zero"),
    # Hyperparameters that they do not take.
    ("adam", {"momentum": 0.9}, "'momentum'"),
    ("adam", {"rank": 5}, "'rank'"),
    ("lrg_adam", {}, "'rank'"),
    ("lrg_adam", {"rank": 5, "method": "guess"}, "guess"),
    ("lrg_adam", {"rank": 1.5}, "1.5"),
    ("controls", {"keep": "top", "rank": 2}, "keep is random, permuted or rest"),
    ("controls", {"rank": 2}, "'keep'"),
    ("torch.optim.SGD", {"momentun": 0.9}, "lr, momentum, dampening"),
    ("torch.optim.SGD", {"momentum": -1}, "Invalid momentum value: -1"),
]


@pytest.mark.parametrize(("name", "given", "named"), UNFIT)
def test_what_cannot_train_is_one_line(
    name: str, given: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = SimpleNamespace(
        nothing=lambda params, lr: None,  # noqa: ARG005
        Rebinding=own(lambda p, lr: p - lr * p.grad),  # and nothing becomes of it
        Regrouping=Regrouping,
        Broken=own(lambda p, lr: 1 / 0),  # noqa: ARG005
    )
    monkeypatch.setitem(sys.modules, "brought", brought)

    with pytest.raises(UserError) as refused:
        optimizer.check(name, {"lr": 0.1, **given}, NETWORK, "arms.mine")

    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"arms.mine.hyperparameters = {given}; allowed: values of ")
    assert named in line
    assert len(line) < 600


@pytest.mark.parametrize("name", ["lrg_adam", "controls", "lrg_adam.LRGAdam"])
@pytest.mark.parametrize("rank", [0, -1, SIDE + 1])
def test_a_rank_out_of_range_is_told_with_the_side_of_the_matrix(name: str, rank: int) -> None:
    assert NETWORK.matrix_side == SIDE
    more = {"keep": "random"} if name == "controls" else {}
    optimizer.check(name, {"lr": 0.1, "rank": SIDE, **more}, NETWORK, "arms.mine")

    with pytest.raises(UserError) as refused:
        optimizer.check(name, {"lr": 0.1, "rank": rank, **more}, NETWORK, "arms.mine")

    (line,) = str(refused.value).splitlines()
    assert line == (
        f"arms.mine.hyperparameters.rank = {rank}; allowed: a whole number from 1 to {SIDE} "
        "(the side of the gradient matrix)"
    )
