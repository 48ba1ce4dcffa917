"""An ordinary torch.nn.Module as a network: many replicates at once, each as if trained alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiment.datasets import digits
from experiment.networks import image_cnn
from experiment.stage import plugins
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.network import ModuleNetwork, Network, build

DATA = digits.load(rng=np.random.default_rng(0))
SETTING = RunConfig(
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
    """Two layers that are one, and a parameter that is never used."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.once = nn.Linear(inputs, inputs)
        self.again = self.once
        self.unused = nn.Parameter(torch.rand(3))
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(self.once(x).tanh()).tanh())


MODULES: dict[str, Callable[[int, int], nn.Module]] = {
    "residual": Residual,
    "image_cnn": image_cnn.create,
    "partly frozen": Partly,
    "tied": Tied,
    "group normalisation": lambda inputs, classes: nn.Sequential(
        nn.Linear(inputs, 16), nn.GroupNorm(4, 16), nn.GELU(), nn.Linear(16, classes)
    ),
}


def brought(create: Callable[..., object], **options: object) -> Network:
    """What `build` makes of a module of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "module", lambda *_: SimpleNamespace(create=create))
        return build("brought", options, DATA.train.inputs, DATA.train.classes)


def directly(create: Callable[[int, int], nn.Module]) -> ModuleNetwork:
    return ModuleNetwork(lambda: create(DATA.train.inputs, DATA.train.classes))


def trained(network: Network, replicates: range, setting: RunConfig = SETTING) -> list[dict]:
    """Copies of all weights from before training to after the last epoch."""
    return [
        {name: tensor.detach().clone() for name, tensor in weights.items()}
        for weights in train(setting, network, DATA.train, replicates)
    ]


def alone(create: Callable[[int, int], nn.Module], network: Network, replicate: int) -> nn.Module:
    """The module trained as anyone would train it: a loop and one optimizer."""
    drawn = network.initial_weights([stream(SETTING.seed, SETTING.purpose, replicate, "weights")])
    module = create(DATA.train.inputs, DATA.train.classes)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            tensor.copy_(drawn[name][0])
    optimizer = torch.optim.Adam(module.parameters(), **SETTING.hyperparameters)
    order = stream(SETTING.seed, SETTING.purpose, replicate, "batches")
    x, y = map(torch.from_numpy, DATA.train)
    for _ in range(SETTING.epochs):
        for batch in torch.from_numpy(order.permutation(len(y))).split(SETTING.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module


@pytest.mark.parametrize("name", MODULES)
def test_training_lowers_the_loss_of_every_replicate(name: str) -> None:
    network = directly(MODULES[name])
    first, *_, last = trained(network, range(3))
    for split in (DATA.train, DATA.validation):
        before, after = evaluate(network, first, split), evaluate(network, last, split)
        assert before.loss.shape == after.loss.shape == (3,)
        assert (after.loss < before.loss / 2).all()
        assert (after.accuracy > 0.75).all()


@pytest.mark.parametrize("name", MODULES)
def test_a_replicate_is_the_module_that_a_plain_loop_trains(name: str) -> None:
    network = directly(MODULES[name])
    *_, stacked = trained(network, range(3))
    for replicate in range(3):
        module = alone(MODULES[name], network, replicate)
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


@pytest.mark.parametrize("name", MODULES)
def test_samples_of_each_replicate_or_for_all(name: str) -> None:
    network = directly(MODULES[name])
    weights = network.initial_weights([np.random.default_rng(r) for r in range(3)])
    x = torch.from_numpy(DATA.train.x[:5])
    shared, each = network.logits(weights, x), network.logits(weights, x.expand(3, 5, -1))
    assert shared.shape == (3, 5, DATA.train.classes)
    torch.testing.assert_close(shared, each)
    assert not torch.allclose(shared[0], shared[1], atol=1e-3)


@pytest.mark.parametrize("name", MODULES)
def test_initial_weights_are_fixed_by_their_stream(name: str) -> None:
    network = directly(MODULES[name])
    one, again, other = (
        network.initial_weights([np.random.default_rng(seed) for seed in seeds])
        for seeds in ((1, 2), (1, 2), (3,))
    )
    for key, tensor in one.items():
        assert torch.equal(tensor, again[key])
        if tensor.unique().numel() > 2:  # not the ones and zeros that normalisation begins with
            assert not torch.equal(tensor[0], tensor[1])
            assert not torch.equal(tensor[0], other[key][0])


@pytest.mark.parametrize("name", MODULES)
def test_initial_weights_are_those_that_the_module_draws(name: str) -> None:
    network = directly(MODULES[name])
    drawn = network.initial_weights([np.random.default_rng(1)])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng(1).integers(2**63)))
        module = MODULES[name](DATA.train.inputs, DATA.train.classes)

    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert torch.equal(drawn[key][0], tensor)


def test_the_global_generators_are_left_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    trained(directly(Residual), range(2))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("optimizer", ["adam", "lrg_adam", "torch.optim.AdamW"])
def test_what_is_frozen_is_carried_along_untrained(optimizer: str) -> None:
    network = directly(Partly)
    assert network.shapes == {"out.weight": (10, 128), "out.bias": (10,)}
    assert network.matrix_side == 36  # of the 1290 weights that are trained

    hyperparameters = {"lr": 0.01} | ({"rank": 4} if optimizer == "lrg_adam" else {})
    setting = replace(SETTING, optimizer=optimizer, hyperparameters=hyperparameters)
    first, *_, last = trained(network, range(2), setting)

    assert first.keys() == {
        *("features.weight", "features.bias", "scale", "shift", "out.weight", "out.bias")
    }
    for name, tensor in first.items():
        assert torch.equal(tensor, last[name]) == (name not in network.shapes)


@pytest.mark.parametrize("optimizer", ["adam", "lrg_adam", "torch.optim.AdamW"])
def test_a_replicate_does_not_depend_on_its_companions(optimizer: str) -> None:
    hyperparameters = {"lr": 0.01} | ({"rank": 4} if optimizer == "lrg_adam" else {})
    setting = replace(SETTING, optimizer=optimizer, hyperparameters=hyperparameters)
    network = directly(Residual)
    together, only = (trained(network, r, setting)[-1] for r in (range(3), range(2, 3)))
    for name, tensor in only.items():
        torch.testing.assert_close(together[name][2], tensor[0], rtol=1e-3, atol=1e-4)


def test_a_diverged_replicate_leaves_the_others_alone() -> None:
    network = directly(Residual)
    *_, untouched = trained(network, range(3))
    epochs = train(SETTING, network, DATA.train, range(3))
    with torch.no_grad():
        next(epochs)["into.weight"][1, 0, 0] = torch.inf
    *_, weights = epochs

    assert weights["out.weight"][1].isnan().any()
    for name, tensor in weights.items():
        for other in (0, 2):
            torch.testing.assert_close(tensor[other], untouched[name][other], rtol=0, atol=1e-5)


def test_a_network_gets_the_options_that_it_takes() -> None:
    network = brought(Residual, width=7, hidden=[128, 64])
    assert network.shapes["into.weight"] == (7, 64)
    with pytest.raises(UserError, match=r"unknown key params.yaml: model.depth; allowed: "):
        brought(Residual, width=7, depth=3)


class Noisy(nn.Module):
    """A layer whose scores are noisy."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(x)
        return scores + torch.randn_like(scores)


class Counting(Noisy):
    """A layer that counts how often it was called."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.out(x)
        return scores


class Pair(Noisy):
    """A layer that returns more than scores."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.out(x), x


class Branching(Noisy):
    """A layer that looks at the samples to decide what to compute."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(x)
        return scores if scores.sum() > 0 else -scores


class Demanding(Residual):
    """A network that needs what it is not given."""

    def __init__(self, inputs: int, classes: int, *, heads: int) -> None:
        super().__init__(inputs, classes, width=heads)


def between(layer: Callable[[], nn.Module]) -> Callable[[int, int], nn.Module]:
    return lambda inputs, classes: nn.Sequential(
        nn.Linear(inputs, 16), layer(), nn.Linear(16, classes)
    )


UNFIT: dict[str, tuple[Callable[..., object], str]] = {
    "BatchNorm1d": (
        between(lambda: nn.BatchNorm1d(16)),
        "changes its buffer 1.running_mean; .* GroupNorm instead of BatchNorm",
    ),
    "Dropout": (between(lambda: nn.Dropout(0.5)), "no dropout"),
    "noise": (Noisy, "draws nothing at random"),
    "a counter": (Counting, "changes its buffer calls; .*keeps no statistics"),
    "a wrong number of classes": (
        lambda inputs, _: nn.Linear(inputs, 11),
        r"shape \(3, 11\) for 3 .*allowed: \(3, 10\)",
    ),
    "a score per sample": (
        lambda inputs, _: nn.Linear(inputs, 1),
        r"shape \(3, 1\) for 3 samples; allowed: \(3, 10\)",
    ),
    "a mean over samples": (
        lambda inputs, classes: nn.Sequential(nn.Flatten(0), nn.Linear(3 * inputs, classes)),
        r"shape \(10,\) for 3 samples; allowed: \(3, 10\)",
    ),
    "a pair": (Pair, "returns class scores"),
    "a branch": (Branching, "allowed: a torch.nn.Module"),
    "other inputs": (lambda _, classes: nn.Linear(41, classes), "samples .B, inputs."),
    "no module": (lambda *_: 5, "makes a int; allowed: a torch.nn.Module"),
    "nothing": (lambda *_: None, "makes a NoneType; allowed: a torch.nn.Module"),
    "a class of modules": (lambda *_: nn.Linear, "makes a type; allowed: a torch.nn.Module"),
    "no such arguments": (lambda inputs: nn.Linear(inputs, 10), "too many positional arguments"),
    "an argument that is missing": (Demanding, "missing a required .*'heads'"),
    "nothing to train": (lambda *_: nn.Flatten(), "allowed: "),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_stacked_is_one_line(case: str) -> None:
    create, named = UNFIT[case]
    with pytest.raises(UserError, match=named) as refused:
        brought(create)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(("stages/experiment/networks/brought.py", "params.yaml: model: "))
    assert "allowed: " in line
    assert len(line) < 700


class Rebinding(Noisy):
    """A layer that puts a new buffer in the place of the old one."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        scores: Tensor = self.out(x)
        return scores


@pytest.mark.parametrize(
    "create",
    [
        pytest.param(Rebinding, id="a buffer that is replaced"),
        pytest.param(lambda i, c: nn.Linear(i, c).requires_grad_(False), id="all of it frozen"),
    ],
)
def test_what_would_be_trained_in_vain_is_refused(create: Callable[..., nn.Module]) -> None:
    with pytest.raises(UserError, match="allowed: "):
        brought(create)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    brought(Residual)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_without_create_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "module", lambda *_: SimpleNamespace())
    with pytest.raises(UserError, match="create"):
        build("brought", {}, 64, 10)


@pytest.mark.parametrize("name", MODULES)
def test_what_can_be_stacked_is_built(name: str) -> None:
    network = brought(MODULES[name])
    assert isinstance(network, ModuleNetwork)
    assert network.shapes == directly(MODULES[name]).shapes


def test_one_sample_is_enough() -> None:
    """As in the last batch of an epoch."""
    split = Split(DATA.train.x[:33], DATA.train.y[:33])
    setting = replace(SETTING, epochs=1)
    *_, weights = train(setting, directly(Residual), split, range(2))
    assert all(tensor.isfinite().all() for tensor in weights.values())
