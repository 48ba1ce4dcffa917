"""The other networks, the shuffled pixels, the noise dial, and how a run is watched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from mnist1d.data import get_dataset, get_dataset_args, make_dataset
from torch import nn
from torch.nn import functional

from experiment import data
from experiment.data import Dataset, Split
from experiment.network import CNN, Network, build, sample_losses
from experiment.params import Model
from experiment.training import Setting, train

SETTING = Setting(
    optimizer="adam",
    hyperparameters={"lr": 0.01},
    hidden=(7,),
    epochs=1,
    batch_size=16,
    device="cpu",
    seed=3,
    purpose="test",
)


def samples(count: int) -> Split:
    rng = np.random.default_rng(1)
    return Split(
        rng.standard_normal((count, 40), dtype=np.float32), rng.integers(0, 10, count, np.int64)
    )


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
    weights = CNN().initial_weights([np.random.default_rng(r) for r in range(3)])
    x = torch.randn(*(() if shared else (3,)), 6, 40)

    logits = CNN().logits(weights, x)

    for replicate in range(3):
        model = one_cnn(weights, replicate)
        hidden = (x if shared else x[replicate]).unsqueeze(1)
        for convolution in model[:3]:
            hidden = convolution(hidden).relu()
        torch.testing.assert_close(logits[replicate], model[3](hidden.flatten(1)))


def test_logistic_regression_is_one_linear_layer() -> None:
    network = build("logistic", (128, 64))
    weights = network.initial_weights([np.random.default_rng(0)])
    x = torch.randn(6, 40)
    expected = functional.linear(x, weights["layers.0.weight"][0], weights["layers.0.bias"][0])
    torch.testing.assert_close(network.logits(weights, x)[0], expected)


@pytest.mark.parametrize(
    ("name", "count", "side"), [("mlp", 14_154, 119), ("logistic", 410, 21), ("cnn", 5_210, 73)]
)
def test_the_networks_have_the_published_sizes(name: str, count: int, side: int) -> None:
    network: Network = build(name, (128, 64))
    weights = network.initial_weights([np.random.default_rng(0)])
    assert sum(weight.numel() for weight in weights.values()) == count
    assert network.matrix_side == side == Model(name=name, hidden=[128, 64]).matrix_side


def test_shuffled_pixels_are_those_that_mnist1d_shuffles() -> None:
    args = get_dataset_args()
    args.shuffle_seq = True
    expected = make_dataset(args)["x"].astype(np.float32)
    arrays = data.published()

    split = Split(arrays["x"], arrays["y"])
    found = data.shuffled(Dataset(split, split, split)).train

    assert np.array_equal(found.x, expected)
    assert found.x.flags.c_contiguous
    assert np.array_equal(found.y, arrays["y"])


def test_fresh_samples_look_like_the_published_ones_and_are_others() -> None:
    arrays = data.published()
    new = data.fresh(2000, seed=7)
    assert new.x.shape == (2000, 40)
    assert np.array_equal(np.bincount(new.y), [200] * 10)
    assert abs(new.x.mean()) < 1e-6
    assert abs(new.x.std() - 1) < 1e-6
    for c in range(10):
        difference = new.x[new.y == c].mean(0) - arrays["x"][arrays["y"] == c].mean(0)
        assert np.abs(difference).max() < 0.5  # 200 samples of a deviation of about 1
    assert not (new.x[:, None] == arrays["x"][None, :50]).all(-1).any()


def test_offline_is_what_mnist1d_makes_of_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", no_network)
    args = get_dataset_args()
    args.num_samples = 2000
    expected = get_dataset(args, path=str(tmp_path / "data.pkl"), verbose=False)

    train, test = data.offline(2000)

    assert (len(train.y), len(test.y)) == (1600, 400)
    assert np.array_equal(train.x, expected["x"].astype(np.float32))
    assert np.array_equal(test.y, expected["y_test"])


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_noise_dial_scales_what_sets_a_batch_apart(noise: float) -> None:
    split = samples(48)
    found = []

    def watch(weights: dict[str, torch.Tensor]) -> None:
        if not found:
            found.extend([weights["layers.0.weight"].grad.clone(), dict(weights)])

    for _ in train(replace(SETTING, noise=noise, hyperparameters={"lr": 0.0}), split, [0], watch):
        pass

    batch_gradient = []
    for _ in train(
        replace(SETTING, hyperparameters={"lr": 0.0}),
        split,
        [0],
        lambda weights: batch_gradient.append(weights["layers.0.weight"].grad.clone()),
    ):
        pass
    x, y = map(torch.from_numpy, split)
    weights = {name: weight.detach().requires_grad_() for name, weight in found[1].items()}
    sample_losses(SETTING.network.logits(weights, x), y).mean().backward()
    everything = weights["layers.0.weight"].grad
    torch.testing.assert_close(
        found[0], everything + noise * (batch_gradient[0] - everything), rtol=1e-4, atol=1e-6
    )
