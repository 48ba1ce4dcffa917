"""An ordinary torch.nn.Module as a network: many replicates at once, each as if trained alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiment.datasets import digits
from experiment.networks import image_cnn, transformer
from experiment.stage import plugins
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.training import progress
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.network import (
    Network,
    SeparateNetwork,
    Weights,
    build,
)
from plain_loop import alone, trained

DATA = digits.load(rng=np.random.default_rng(0))
DATA = DATA._replace(train=Split(DATA.train.x[:320], DATA.train.y[:320]))
CONFIG = RunConfig(
    optimizer="adam",
    hyperparameters={"lr": 0.01},
    model="brought",
    options={},
    epochs=3,
    batch_size=32,
    device="cpu",
    seed=5,
    purpose="test",
)


class Residual(nn.Module):
    """A perceptron with a residual block and layer normalisation."""

    def __init__(self, inputs: int, classes: int, width: int = 24) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(width)
        self.block = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x)
        return self.out(hidden + self.block(self.norm(hidden)))


class Partly(nn.Module):
    """A random layer that is frozen, a scale that is a buffer, and a layer that is trained."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Linear(inputs, 128).requires_grad_(False)
        self.register_buffer("scale", torch.rand(128) + 0.5)
        self.register_buffer("shift", torch.rand(128), persistent=False)
        self.out = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).relu() * self.scale + self.shift)


class Tied(nn.Module):
    """Layers that share all or some of their parameters, and a parameter that is never used."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.once = nn.Linear(inputs, inputs)
        self.again = self.once
        self.turned = nn.Linear(inputs, inputs)
        self.turned.weight = self.once.weight
        self.unused = nn.Parameter(torch.rand(3))
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.turned(self.again(self.once(x).tanh()).tanh()))


class Levels(nn.Module):
    """The brightness of pixels in whole numbers from 0 to 9."""

    def forward(self, x: Tensor) -> Tensor:
        return (4 * x.clamp(-1, 1) + 4).long()


MODULES: dict[str, Callable[[int, int], nn.Module]] = {
    "residual": Residual,
    "image_cnn": image_cnn.create,
    "partly frozen": Partly,
    "tied": Tied,
    "embedding": lambda inputs, classes: nn.Sequential(
        Levels(), nn.Embedding(10, 4), nn.Flatten(-2), nn.Linear(4 * inputs, classes)
    ),
    "transformer": lambda *size: nn.Sequential(Levels(), transformer.create(*size)),
    "lazy": lambda _, classes: nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(classes)),
}


def brought(create: Callable[..., object], **options: object) -> Network:
    """What `build` makes of a module of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "module", lambda *_: SimpleNamespace(create=create))
        return build("brought", options, DATA.train)


def seeded(create: Callable[..., nn.Module]) -> Callable[[np.random.Generator], nn.Module]:
    """What makes the module of one replicate from its stream, as anyone would: with a seed."""

    def make(rng: np.random.Generator) -> nn.Module:
        torch.manual_seed(int(rng.integers(2**63)))
        return create(DATA.train.inputs, DATA.train.classes)

    return make


@pytest.mark.parametrize("name", MODULES)
def test_a_replicate_is_the_module_that_a_plain_loop_trains(name: str) -> None:
    # Adam would divide rounding by rounding where the gradient is zero, as for a bias of keys.
    config = replace(CONFIG, optimizer="torch.optim.SGD", hyperparameters={"lr": 0.1})
    network = brought(MODULES[name])
    assert not isinstance(network, SeparateNetwork)
    *_, stacked = trained(config, network, DATA.train, range(3))
    for replicate in range(3):
        module = alone(config, DATA.train, replicate, seeded(MODULES[name]), torch.optim.SGD)
        theirs = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        assert theirs.keys() == stacked.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(
                stacked[key][replicate], tensor.detach(), rtol=1e-3, atol=1e-5
            )
        with torch.no_grad():
            scores = module(torch.from_numpy(DATA.test.x))
        torch.testing.assert_close(
            network.logits(stacked, torch.from_numpy(DATA.test.x))[replicate],
            scores,
            rtol=1e-3,
            atol=1e-4,
        )


def test_what_is_frozen_is_carried_along_untrained() -> None:
    network = brought(Partly)
    assert network.shapes == {"out.weight": (10, 128), "out.bias": (10,)}
    assert network.matrix_side == 36  # of the 1290 weights that are trained

    first, *_, last = trained(CONFIG, network, DATA.train, range(2))

    assert first.keys() == {
        *("features.weight", "features.bias", "scale", "shift", "out.weight", "out.bias")
    }
    for name, tensor in first.items():
        assert torch.equal(tensor, last[name]) == (name not in network.shapes)


def test_a_network_gets_the_options_that_it_takes() -> None:
    network = brought(Residual, width=7, hidden=[128, 64])
    assert network.shapes["into.weight"] == (7, 64)
    with pytest.raises(UserError, match=r"unknown key params.yaml: model.depth; allowed: "):
        brought(Residual, width=7, depth=3)


# What torch.func cannot stack


class Linear(nn.Module):
    """One layer, and a count of its calls."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(inputs, classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(x)
        return scores


class Noisy(Linear):
    """Its scores are noisy, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn(len(x), 1)


class Numpy(Linear):
    """It draws weights and noise from NumPy's and Python's global generators."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.out.bias.data += torch.from_numpy(np.random.randn(classes)).float()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + np.random.rand() + random.random())


class Counting(Linear):
    """It counts its calls in place, and uses the count."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) / self.calls.sqrt()


class Rebinding(Linear):
    """It puts a new buffer in the place of the old one."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) / self.calls.sqrt()


class Item(Linear):
    """It scales by a Python number of the samples."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 + x.mean().item())


class Recurrent(nn.Module):
    """Rows of pixels, one after the other."""

    def __init__(self, layer: Callable[..., nn.Module], classes: int, **options: object) -> None:
        super().__init__()
        self.layer = layer(8, 12, batch_first=True, **options)
        self.out = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.view(-1, 8, 8))[0][:, -1])


def between(layer: Callable[[], nn.Module]) -> Callable[[int, int], nn.Module]:
    return lambda inputs, classes: nn.Sequential(
        nn.Linear(inputs, 16), layer(), nn.Linear(16, classes)
    )


SEPARATE: dict[str, Callable[[int, int], nn.Module]] = {
    "GRU": lambda _, classes: Recurrent(nn.GRU, classes, num_layers=2, dropout=0.2),
    "LSTM": lambda _, classes: Recurrent(nn.LSTM, classes),
    "dropout": between(lambda: nn.Dropout(0.5)),
    "BatchNorm": between(lambda: nn.BatchNorm1d(16)),
    "spectral norm": between(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))),
    "noise": Noisy,
    "a counter": Counting,
    "a buffer that is replaced": Rebinding,
    "item": Item,
}
ADAMW = replace(CONFIG, optimizer="torch.optim.AdamW", epochs=1)


@pytest.mark.parametrize("name", SEPARATE)
def test_what_cannot_be_stacked_has_the_bits_of_a_plain_loop(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.note.cache_clear()
    network = brought(SEPARATE[name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stages/experiment/networks/brought.py: slower, one replicate at a time")

    before = torch.get_rng_state()
    for weights in train(ADAMW, network, DATA.train, range(2)):
        scores = evaluate(network, weights, DATA.validation)  # must change nothing
    assert torch.equal(torch.get_rng_state(), before)

    for replicate in range(2):
        module = alone(ADAMW, DATA.train, replicate, seeded(SEPARATE[name]), torch.optim.AdamW)
        for key, theirs in [*module.named_parameters(), *module.named_buffers()]:
            assert torch.equal(weights[key][replicate], theirs)
        if name not in ("noise", "a counter", "a buffer that is replaced"):
            with torch.no_grad():
                found = functional.cross_entropy(
                    module(torch.from_numpy(DATA.validation.x)),
                    torch.from_numpy(DATA.validation.y),
                )
            torch.testing.assert_close(scores.loss[replicate].float(), found)


@pytest.mark.parametrize("create", [SEPARATE["dropout"], Numpy])
def test_draws_are_a_replicate_s_own(create: Callable[[int, int], nn.Module]) -> None:
    network = brought(create)
    together, only = (trained(ADAMW, network, DATA.train, r)[-1] for r in (range(3), range(2, 3)))
    for name, tensor in only.items():
        assert torch.equal(together[name][2], tensor[0])


@pytest.mark.parametrize("create", [Residual, SEPARATE["dropout"]])
def test_an_optimizer_that_needs_a_closure_trains(create: Callable[..., nn.Module]) -> None:
    config = replace(
        CONFIG,
        optimizer="torch.optim.LBFGS",
        hyperparameters={"lr": 0.1, "max_iter": 3},
        epochs=1,
    )
    network = brought(create)
    *_, weights = trained(config, network, DATA.train, range(2))
    exact = isinstance(network, SeparateNetwork)
    for replicate in range(2):
        module = alone(config, DATA.train, replicate, seeded(create), torch.optim.LBFGS)
        for key, theirs in module.named_parameters():
            torch.testing.assert_close(
                weights[key][replicate],
                theirs.detach(),
                rtol=0,
                atol=0 if exact else 1e-3,
            )


# What cannot train


class Pair(Linear):
    """A layer that returns more than scores."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.out(x), x


UNFIT: dict[str, tuple[Callable[..., object], str]] = {
    "a wrong number of classes": (
        lambda inputs, _: nn.Linear(inputs, 11),
        r"scores of shape \(3, 11\) for 3 samples; allowed: ",
    ),
    "a pair": (Pair, "returns class scores"),
    "other inputs": (lambda _, classes: nn.Linear(41, classes), "samples .B, inputs."),
    "an index out of range": (
        lambda _, classes: nn.Sequential(Levels(), nn.Embedding(1, classes)),
        "IndexError: index out of range",
    ),
    "nothing": (lambda *_: None, "create returns NoneType; allowed: a torch.nn.Module"),
    "a mistake in its code": (lambda *_: {}["hidden"], "KeyError: 'hidden'"),
    "no such arguments": (
        lambda inputs: nn.Linear(inputs, 10),
        "takes 1 positional argument but 2",
    ),
    "an argument that is missing": (lambda *_, heads: heads, "missing 1 required .*'heads'"),
    "all of it frozen": (lambda i, c: nn.Linear(i, c).requires_grad_(False), "nothing to train"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_train_is_one_line(case: str) -> None:
    create, named = UNFIT[case]
    with pytest.raises(UserError, match=named) as refused:
        brought(create)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(("stages/experiment/networks/brought.py", "params.yaml: model: "))
    assert len(line) < 700


def test_a_batch_that_the_network_does_not_take_is_one_line() -> None:
    network = brought(SEPARATE["BatchNorm"])
    one_left = DATA.train._replace(x=DATA.train.x[:33], y=DATA.train.y[:33])
    with pytest.raises(UserError, match="the network, on 1 samples: ValueError: Expected"):
        list(train(CONFIG, network, one_left, range(2)))


class NoBackward(torch.autograd.Function):
    """The identity, whose gradient fails for batches of more than three samples."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # noqa: ARG004
        if len(grad) > 3:
            raise ArithmeticError("no\ngradient")
        return grad


class Unlucky(Counting):
    """Its backward pass fails once it trains."""

    def forward(self, x: Tensor) -> Tensor:
        return NoBackward.apply(super().forward(x))


@pytest.mark.parametrize("optimizer", ["adam", "torch.optim.LBFGS"])
def test_a_backward_pass_that_fails_is_one_line(optimizer: str) -> None:
    network = brought(Unlucky)
    with pytest.raises(UserError, match="the network, on 32 samples: ArithmeticError: no gradient"):
        list(train(replace(CONFIG, optimizer=optimizer), network, DATA.train, range(2)))


class ByHand(Network):
    """Linear layers stacked by hand, with a mistake."""

    def __init__(self, inputs: int, classes: int) -> None:
        self.shapes = {"weight": (classes, inputs), "bias": (classes,)}

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        if x.shape[-2] == 32:
            raise ArithmeticError("a mistake")
        return x @ weights["weight"].mT + weights["bias"].unsqueeze(1)


class Slanted(ByHand):
    """It forgets to transpose."""

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        return x @ weights["weight"]


def test_a_mistake_in_a_network_stacked_by_hand_is_one_line() -> None:
    with pytest.raises(UserError, match=r"brought.py for 64 inputs .* RuntimeError: "):
        brought(Slanted)
    with pytest.raises(UserError, match="the network, on 32 samples: ArithmeticError: a mistake"):
        list(train(CONFIG, brought(ByHand), DATA.train, range(2)))
