"""Stacked training is the training of single models, one for each replicate."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from experiment.stage.data import Dataset, Split
from experiment.stage.randomness import stream
from experiment.training.loop import Group, RunConfig, evaluate, train, train_group, train_models
from experiment.training.network import sample_losses
from reference import ReferenceLRGAdam

HIDDEN = (7, 5)
WIDTHS = (40, *HIDDEN, 10)
SETTING = RunConfig(
    optimizer="adam",
    hyperparameters={"lr": 0.01},
    model="mlp",
    options={"hidden": HIDDEN},
    epochs=2,
    batch_size=16,
    device="cpu",
    seed=3,
    purpose="test",
)
LRG_SETTING = replace(SETTING, optimizer="lrg_adam", hyperparameters={"lr": 0.01, "rank": 4})


def samples(count: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    return Split(
        rng.standard_normal((count, 40), dtype=np.float32), rng.integers(0, 10, count, np.int64)
    )


DATA = Dataset(train=samples(40, 1), validation=samples(20, 2), test=samples(30, 3))
NETWORK = SETTING.network(DATA.train)


def last(setting: RunConfig, replicates: range) -> dict[str, torch.Tensor]:
    *_, weights = train(setting, NETWORK, DATA.train, replicates)
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def one_model(setting: RunConfig, replicate: int) -> nn.Sequential:
    """Replicate `replicate` trained as anyone would train it: a module, a loop, one optimizer."""
    drawn = NETWORK.initial_weights([stream(setting.seed, setting.purpose, replicate, "weights")])
    model = nn.Sequential()
    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        layer = nn.Linear(inputs, outputs)
        layer.load_state_dict({name: drawn[f"layers.{i}.{name}"][0] for name in ("weight", "bias")})
        model.extend([nn.ReLU(), layer] if i else [layer])
    if setting.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), **setting.hyperparameters)
    else:
        optimizer = ReferenceLRGAdam(model.parameters(), **setting.hyperparameters)
    order = stream(setting.seed, setting.purpose, replicate, "batches")
    x, y = map(torch.from_numpy, DATA.train)
    for _ in range(setting.epochs):
        for batch in torch.from_numpy(order.permutation(len(y))).split(setting.batch_size):
            model.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("setting", [SETTING, LRG_SETTING], ids=lambda s: s.optimizer)
def test_a_replicate_is_the_model_that_a_plain_loop_trains(setting: RunConfig) -> None:
    stacked = last(setting, range(3))
    for replicate in range(3):
        single = one_model(setting, replicate)
        for ours, theirs in zip(stacked.values(), single.parameters(), strict=True):
            torch.testing.assert_close(ours[replicate], theirs.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("setting", [SETTING, LRG_SETTING], ids=lambda s: s.optimizer)
def test_a_replicate_does_not_depend_on_its_companions(setting: RunConfig) -> None:
    # But for the last bit: the fused kernel of Adam rounds the end of a tensor differently.
    together, alone = last(setting, range(4)), last(setting, range(2, 4))
    for name in together:
        torch.testing.assert_close(together[name][2:], alone[name], rtol=0, atol=1e-6)


def test_both_optimizers_start_from_the_same_weights_and_see_the_same_batches() -> None:
    # At full rank LRG-Adam is Adam, so any difference would be one of weights or batches.
    full = replace(LRG_SETTING, hyperparameters={"lr": 0.01, "rank": NETWORK.matrix_side})
    adam, lrg_adam = last(SETTING, range(3)), last(full, range(3))
    assert all(torch.equal(adam[name], lrg_adam[name]) for name in adam)


def test_replicates_differ_and_so_do_purposes() -> None:
    weights = last(SETTING, range(2))["layers.0.weight"]
    other = last(replace(SETTING, purpose="other"), range(2))["layers.0.weight"]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights, other)


def test_training_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    last(LRG_SETTING, range(2))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_losses_are_means_over_samples() -> None:
    weights = last(SETTING, range(2))
    whole = evaluate(NETWORK, weights, DATA.validation)
    for replicate in range(2):
        alone = {name: tensor[replicate : replicate + 1] for name, tensor in weights.items()}
        logits = NETWORK.logits(alone, torch.from_numpy(DATA.validation.x))[0]
        target = torch.from_numpy(DATA.validation.y)
        expected = nn.functional.cross_entropy(logits.double(), target)
        torch.testing.assert_close(whole.loss[replicate], expected, rtol=1e-6, atol=1e-6)
        assert whole.accuracy[replicate] == (logits.argmax(1) == target).double().mean()


def test_a_group_reports_every_epoch_and_scores_the_test_set_once() -> None:
    group = Group(LRG_SETTING, first=2, size=3)
    found = train_models(DATA, group)
    weights = last(LRG_SETTING, range(2, 5))
    assert found["validation_loss_nats"].shape == (3, SETTING.epochs + 1)
    assert all(torch.equal(found.pop(f"weights.{name}"), weights[name]) for name in weights)
    torch.testing.assert_close(found["test_loss_nats"], evaluate(NETWORK, weights, DATA.test).loss)
    train_loss = found.pop("train_loss_nats")
    torch.testing.assert_close(train_loss[:, -1], evaluate(NETWORK, weights, DATA.train).loss)

    short = train_group(DATA, replace(group, train_curve=False))
    assert torch.equal(short.pop("train_loss_nats"), train_loss[:, -1:])
    assert short.keys() == found.keys()
    assert all(torch.equal(short[name], found[name]) for name in short)


@pytest.mark.parametrize("optimizer", ["adam", "lrg_adam"])
def test_a_diverged_replicate_leaves_the_others_alone(optimizer: str) -> None:
    hyperparameters = {"lr": 0.01} | ({"rank": 4} if optimizer == "lrg_adam" else {})
    setting = replace(SETTING, optimizer=optimizer, hyperparameters=hyperparameters)
    *_, untouched = (dict(w) for w in train(setting, NETWORK, DATA.train, range(3)))
    epochs = train(setting, NETWORK, DATA.train, range(3))
    with torch.no_grad():
        next(epochs)["layers.0.weight"][1, 0, 0] = torch.inf
    *_, weights = epochs

    assert weights["layers.2.weight"][1].isnan().any()
    for name, tensor in weights.items():
        for other in (0, 2):
            torch.testing.assert_close(tensor[other], untouched[name][other], rtol=0, atol=1e-5)


def test_sample_losses_take_labels_for_each_replicate_or_for_all() -> None:
    logits = torch.randn(3, 5, 10)
    y = torch.randint(10, (5,))
    assert torch.equal(sample_losses(logits, y), sample_losses(logits, y.expand(3, 5)))


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_noise_dial_scales_what_sets_a_batch_apart(noise: float) -> None:
    still = replace(SETTING, epochs=1, hyperparameters={"lr": 0.0})
    split = samples(48, 1)

    def first_step(setting: RunConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

        def watch(weights: dict[str, torch.Tensor]) -> None:
            seen.append((weights["layers.0.weight"].grad.clone(), dict(weights)))

        for _ in train(setting, NETWORK, split, [0], watch):
            pass
        return seen[0]

    found, weights = first_step(replace(still, noise=noise))
    batch_gradient, _ = first_step(still)
    x, y = map(torch.from_numpy, split)
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    sample_losses(NETWORK.logits(weights, x), y).mean().backward()
    everything = weights["layers.0.weight"].grad
    torch.testing.assert_close(
        found, everything + noise * (batch_gradient - everything), rtol=1e-4, atol=1e-6
    )
