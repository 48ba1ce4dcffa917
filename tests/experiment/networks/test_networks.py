"""The networks that ship: what they compute, their sizes, and how a mistake about one is told."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from experiment.networks import transformer
from experiment.networks.cnn import CNN
from experiment.stage.data import Split
from experiment.stage.errors import UserError
from experiment.training.network import build


def samples(inputs: int, classes: int = 10) -> Split:
    return Split(np.zeros((classes, inputs), np.float32), np.arange(classes))


HIDDEN = {"hidden": [128, 64]}


def one_cnn(weights: dict[str, torch.Tensor], replicate: int) -> nn.Sequential:
    """The published network, written with modules, with the weights of one replicate."""
    model = nn.Sequential(
        nn.Conv1d(1, 25, 5, stride=2, padding=1),
        nn.Conv1d(25, 25, 3, stride=2, padding=1),
        nn.Conv1d(25, 25, 3, stride=2, padding=1),
        nn.Linear(125, 10),
    )
    for i, layer in enumerate(model):
        layer.load_state_dict(
            {name: weights[f"layers.{i}.{name}"][replicate] for name in ("weight", "bias")}
        )
    return model


@pytest.mark.parametrize("shared", [False, True])
def test_the_stacked_cnn_is_the_published_one(shared: bool) -> None:
    network = CNN(40, 10)
    weights = network.initial_weights([np.random.default_rng(r) for r in range(3)])
    x = torch.randn(*(() if shared else (3,)), 6, 40)

    logits = network.logits(weights, x)

    for replicate in range(3):
        model = one_cnn(weights, replicate)
        hidden = (x if shared else x[replicate]).unsqueeze(1)
        for convolution in model[:3]:
            hidden = convolution(hidden).relu()
        torch.testing.assert_close(logits[replicate], model[3](hidden.flatten(1)))


def test_logistic_regression_is_one_linear_layer() -> None:
    network = build("logistic", HIDDEN, samples(40))
    weights = network.initial_weights([np.random.default_rng(0)])
    x = torch.randn(6, 40)
    expected = functional.linear(x, weights["weight"][0], weights["bias"][0])
    torch.testing.assert_close(network.logits(weights, x)[0], expected)


def test_attention_is_torchs() -> None:
    module = transformer.create(8, 26)
    torchs = nn.MultiheadAttention(transformer.WIDTH, transformer.HEADS, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": torch.cat([module.query.weight, module.key_value.weight]),
            "in_proj_bias": torch.cat([module.query.bias, module.key_value.bias]),
            "out_proj.weight": module.project.weight,
            "out_proj.bias": module.project.bias,
        }
    )
    hidden = torch.randn(5, 8, transformer.WIDTH, generator=torch.Generator().manual_seed(0))
    expected, _ = torchs(hidden[:, -1:], hidden, hidden)
    torch.testing.assert_close(module.attention(hidden), expected[:, 0])


@pytest.mark.parametrize(
    ("name", "inputs", "classes"),
    [
        *product(["mlp", "logistic", "cnn"], [64], [10]),
        *product(["mlp", "logistic", "cnn"], [7], [3]),
        *(("image_cnn", side**2, 3) for side in (1, 2, 5, 8, 28)),
    ],
)
def test_the_networks_fit_any_data(name: str, inputs: int, classes: int) -> None:
    network = build(name, {"hidden": [9]}, samples(inputs, classes))
    weights = network.initial_weights([np.random.default_rng(r) for r in range(2)])
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        name: (2, *shape) for name, shape in network.shapes.items()
    }
    assert network.logits(weights, torch.zeros(5, inputs)).shape == (2, 5, classes)


@pytest.mark.parametrize("name", ["mlp", "logistic", "cnn"])
def test_initial_weights_are_those_of_torch_s_own_layers_in_distribution(name: str) -> None:
    network = build(name, HIDDEN, samples(40))
    weights = network.initial_weights([np.random.default_rng(0)])
    for key, weight in weights.items():
        unit = network.shapes[key.removesuffix("bias").removesuffix("weight") + "weight"]
        bound = np.prod(unit[1:]) ** -0.5
        assert weight.dtype == torch.float32
        assert weight.abs().max() <= bound
        if weight.numel() > 1000:
            assert weight.abs().max() > 0.99 * bound
            assert abs(weight.std() / bound - 3**-0.5) < 0.03


@pytest.mark.parametrize(
    ("name", "options", "inputs", "named"),
    [
        (
            "nobody",
            {},
            40,
            "params.yaml: model.name = 'nobody'; allowed: .*image_cnn, logistic, mlp",
        ),
        ("mlp", {"hidden": [8], "depth": 2}, 40, "unknown key params.yaml: model.depth; allowed: "),
        ("mlp", {}, 40, "stages/experiment/networks/mlp.py for .*missing .* argument: 'hidden'"),
        ("image_cnn", {}, 40, "networks/image_cnn.py.* 40 numbers do not form a square"),
        ("cnn", {}, 2, "networks/cnn.py for 2 inputs .* too short for its convolutions"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(
    name: str, options: dict[str, object], inputs: int, named: str
) -> None:
    with pytest.raises(UserError, match=named) as refused:
        build(name, options, samples(inputs))
    assert len(str(refused.value).splitlines()) == 1
