"""An ordinary torch.nn.Module as a network: many replicates at once, each as if trained alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiment import networks
from experiment.datasets import digits
from experiment.networks import image_cnn
from experiment.stage import plugins
from experiment.stage.errors import UserError
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, evaluate, train
from experiment.training.network import Network, SeparateNetwork, _say, build

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


class Tokens(nn.Module):
    """An embedding of each pixel's brightness and place, which takes whole numbers only."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.levels = nn.Embedding(17 * inputs, 8)
        self.out = nn.Linear(8 * inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        places = 17 * torch.arange(x.shape[-1])
        return self.out(self.levels((4 * x.clamp(-2, 2)).long() + 8 + places).flatten(-2))


MODULES: dict[str, Callable[[int, int], nn.Module]] = {
    "residual": Residual,
    "image_cnn": image_cnn.create,
    "partly frozen": Partly,
    "tied": Tied,
    "group normalisation": lambda inputs, classes: nn.Sequential(
        nn.Linear(inputs, 16), nn.GroupNorm(4, 16), nn.GELU(), nn.Linear(16, classes)
    ),
    "embedding": Tokens,
    "lazy": lambda _, classes: nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(classes)),
}


def brought(create: Callable[..., object], **options: object) -> Network:
    """What `build` makes of a module of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "module", lambda *_: SimpleNamespace(create=create))
        return build("brought", options, DATA.train)


def trained(network: Network, replicates: range, setting: RunConfig = SETTING) -> list[dict]:
    """Copies of all weights from before training to after the last epoch."""
    return [
        {name: tensor.detach().clone() for name, tensor in weights.items()}
        for weights in train(setting, network, DATA.train, replicates)
    ]


def alone(
    create: Callable[[int, int], nn.Module],
    replicate: int,
    setting: RunConfig = SETTING,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> nn.Module:
    """The module trained as anyone would train it: a seed, a loop and one optimizer."""
    drawn = stream(setting.seed, setting.purpose, replicate, "weights")
    order = stream(setting.seed, setting.purpose, replicate, "batches")
    x, y = map(torch.from_numpy, DATA.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(drawn.integers(2**63)))
        module = create(DATA.train.inputs, DATA.train.classes)
        optimizer = make(module.parameters(), **setting.hyperparameters)
        for _ in range(setting.epochs):
            for batch in torch.from_numpy(order.permutation(len(y))).split(setting.batch_size):

                def closure(batch: Tensor = batch) -> Tensor:
                    optimizer.zero_grad()
                    losses = functional.cross_entropy(module(x[batch]), y[batch], reduction="none")
                    losses.mean().backward()
                    return losses.mean()

                optimizer.step(closure)
    return module.eval()


@pytest.mark.parametrize("name", MODULES)
def test_training_lowers_the_loss_of_every_replicate(name: str) -> None:
    network = brought(MODULES[name])
    first, *_, last = trained(network, range(3))
    for split in (DATA.train, DATA.validation):
        before, after = evaluate(network, first, split), evaluate(network, last, split)
        assert before.loss.shape == after.loss.shape == (3,)
        assert (after.loss < before.loss / 2).all()
        assert (after.accuracy > 0.75).all()


@pytest.mark.parametrize("name", MODULES)
def test_a_replicate_is_the_module_that_a_plain_loop_trains(name: str) -> None:
    network = brought(MODULES[name])
    assert not isinstance(network, SeparateNetwork)
    *_, stacked = trained(network, range(3))
    for replicate in range(3):
        module = alone(MODULES[name], replicate)
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

    first, *_, last = trained(network, range(2))

    assert first.keys() == {
        *("features.weight", "features.bias", "scale", "shift", "out.weight", "out.bias")
    }
    for name, tensor in first.items():
        assert torch.equal(tensor, last[name]) == (name not in network.shapes)


@pytest.mark.parametrize("optimizer", ["adam", "lrg_adam", "torch.optim.AdamW"])
def test_a_replicate_does_not_depend_on_its_companions(optimizer: str) -> None:
    hyperparameters = {"lr": 0.01} | ({"rank": 4} if optimizer == "lrg_adam" else {})
    setting = replace(SETTING, optimizer=optimizer, hyperparameters=hyperparameters)
    network = brought(Residual)
    together, only = (trained(network, r, setting)[-1] for r in (range(3), range(2, 3)))
    for name, tensor in only.items():
        torch.testing.assert_close(together[name][2], tensor[0], rtol=1e-3, atol=1e-4)


def test_a_diverged_replicate_leaves_the_others_alone() -> None:
    network = brought(Residual)
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


class Branching(Linear):
    """It looks at the samples to decide what to compute."""

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores if scores.sum() > 0 else -scores


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
    "a branch": Branching,
}
ADAMW = replace(SETTING, optimizer="torch.optim.AdamW", epochs=2)


@pytest.mark.parametrize("name", SEPARATE)
def test_what_cannot_be_stacked_has_the_bits_of_a_plain_loop(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _say.cache_clear()
    network = brought(SEPARATE[name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stages/experiment/networks/brought.py: slower, one replicate at a time")

    before = torch.get_rng_state()
    for weights in train(ADAMW, network, DATA.train, range(3)):
        scores = evaluate(network, weights, DATA.validation)  # must change nothing
    assert torch.equal(torch.get_rng_state(), before)

    for replicate in range(3):
        module = alone(SEPARATE[name], replicate, ADAMW, torch.optim.AdamW)
        for key, theirs in [*module.named_parameters(), *module.named_buffers()]:
            assert torch.equal(weights[key][replicate], theirs)
        if name not in ("noise", "a counter", "a buffer that is replaced"):
            with torch.no_grad():
                found = functional.cross_entropy(
                    module(torch.from_numpy(DATA.validation.x)),
                    torch.from_numpy(DATA.validation.y),
                )
            torch.testing.assert_close(scores.loss[replicate].float(), found)


@pytest.mark.parametrize("create", [SEPARATE["dropout"], Noisy, Numpy])
def test_draws_are_a_replicate_s_own(create: Callable[[int, int], nn.Module]) -> None:
    network = brought(create)
    together, only = (trained(network, r, ADAMW)[-1] for r in (range(3), range(2, 3)))
    for name, tensor in only.items():
        assert torch.equal(together[name][2], tensor[0])


@pytest.mark.parametrize("create", [Residual, SEPARATE["dropout"]])
def test_an_optimizer_that_needs_a_closure_trains(create: Callable[..., nn.Module]) -> None:
    setting = replace(
        SETTING,
        optimizer="torch.optim.LBFGS",
        hyperparameters={"lr": 0.1, "max_iter": 3},
        epochs=1,
    )
    network = brought(create)
    *_, weights = trained(network, range(2), setting)
    exact = isinstance(network, SeparateNetwork)
    for replicate in range(2):
        module = alone(create, replicate, setting, torch.optim.LBFGS)
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


class Whole(nn.Module):
    """Whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).long()


class Demanding(Residual):
    """A network that needs what it is not given."""

    def __init__(self, inputs: int, classes: int, *, heads: int) -> None:
        super().__init__(inputs, classes, width=heads)


UNFIT: dict[str, tuple[Callable[..., object], str]] = {
    "a wrong number of classes": (
        lambda inputs, _: nn.Linear(inputs, 11),
        r"shape \(3, 11\) for 3 .*allowed: \(3, 10\)",
    ),
    "a mean over samples": (
        lambda inputs, classes: nn.Sequential(nn.Flatten(0), nn.Linear(3 * inputs, classes)),
        r"shape \(10,\) for 3 samples; allowed: \(3, 10\)",
    ),
    "a pair": (Pair, "returns class scores"),
    "other inputs": (lambda _, classes: nn.Linear(41, classes), "samples .B, inputs."),
    "an index out of range": (
        lambda _, classes: nn.Sequential(Whole(), nn.Embedding(1, classes)),
        "IndexError: index out of range",
    ),
    "no module": (lambda *_: 5, "makes a int; allowed: a torch.nn.Module"),
    "nothing": (lambda *_: None, "makes a NoneType; allowed: a torch.nn.Module"),
    "a mistake in its code": (lambda *_: {}["hidden"], "KeyError: 'hidden'"),
    "no such arguments": (lambda inputs: nn.Linear(inputs, 10), "too many positional arguments"),
    "an argument that is missing": (Demanding, "missing a required .*'heads'"),
    "nothing to train": (lambda *_: nn.Flatten(), "has nothing to train; allowed: "),
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


@pytest.mark.parametrize("content", ["def create(:", "import nobody", "1 / 0", "x = 1"])
def test_a_module_that_does_not_load_is_one_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/brought.py").write_text(content)
    monkeypatch.setattr(plugins, "PLUGINS", tmp_path)
    monkeypatch.setattr(networks, "__path__", [str(tmp_path / "networks")])
    monkeypatch.delitem(sys.modules, "experiment.networks.brought", raising=False)
    with pytest.raises(UserError) as refused:
        build("brought", {}, DATA.train)
    (line,) = str(refused.value).splitlines()
    assert line.startswith("stages/experiment/networks/brought.py ")
