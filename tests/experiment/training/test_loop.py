"""Stacked training is the training of single models, one for each replicate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from experiment.stage.data import Dataset, Split
from experiment.training.loop import Group, RunConfig, evaluate, train, train_group
from experiment.training.network import sample_losses
from plain_loop import trained

HIDDEN = (7, 5)
CONFIG = RunConfig(
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
LRG_CONFIG = replace(CONFIG, optimizer="lrg_adam", hyperparameters={"lr": 0.01, "rank": 4})


def samples(count: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    return Split(
        rng.standard_normal((count, 40), dtype=np.float32), rng.integers(0, 10, count, np.int64)
    )


DATA = Dataset(train=samples(40, 1), validation=samples(20, 2), test=samples(30, 3))
NETWORK = CONFIG.network(DATA.train)


def last(config: RunConfig, replicates: range) -> dict[str, torch.Tensor]:
    return trained(config, NETWORK, DATA.train, replicates)[-1]


@pytest.mark.parametrize("config", [CONFIG, LRG_CONFIG], ids=lambda s: s.optimizer)
def test_a_replicate_does_not_depend_on_its_companions(config: RunConfig) -> None:
    # But for the last bit: the fused kernel of Adam rounds the end of a tensor differently.
    together, alone = last(config, range(4)), last(config, range(2, 4))
    for name in together:
        torch.testing.assert_close(together[name][2:], alone[name], rtol=0, atol=1e-6)


def test_both_optimizers_start_from_the_same_weights_and_see_the_same_batches() -> None:
    # At full rank LRG-Adam is Adam, so any difference would be one of weights or batches.
    full = replace(LRG_CONFIG, hyperparameters={"lr": 0.01, "rank": NETWORK.matrix_side})
    adam, lrg_adam = last(CONFIG, range(3)), last(full, range(3))
    assert all(torch.equal(adam[name], lrg_adam[name]) for name in adam)


def test_training_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    last(LRG_CONFIG, range(2))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_losses_are_means_over_samples() -> None:
    weights = last(CONFIG, range(2))
    whole = evaluate(NETWORK, weights, DATA.validation)
    for replicate in range(2):
        alone = {name: tensor[replicate : replicate + 1] for name, tensor in weights.items()}
        logits = NETWORK.logits(alone, torch.from_numpy(DATA.validation.x))[0]
        target = torch.from_numpy(DATA.validation.y)
        expected = nn.functional.cross_entropy(logits.double(), target)
        torch.testing.assert_close(whole.loss[replicate], expected, rtol=1e-6, atol=1e-6)
        assert whole.accuracy[replicate] == (logits.argmax(1) == target).double().mean()


def test_a_group_reports_every_epoch_and_scores_the_test_set_once() -> None:
    group = Group(LRG_CONFIG, first=2, size=3)
    found = train_group(DATA, replace(group, weights=True))
    weights = last(LRG_CONFIG, range(2, 5))
    assert found["validation_loss_nats"].shape == (3, CONFIG.epochs + 1)
    assert all(torch.equal(found.pop(f"weights.{name}"), weights[name]) for name in weights)
    torch.testing.assert_close(found["test_loss_nats"], evaluate(NETWORK, weights, DATA.test).loss)
    train_loss = found.pop("train_loss_nats")
    torch.testing.assert_close(train_loss[:, -1], evaluate(NETWORK, weights, DATA.train).loss)

    short = train_group(DATA, replace(group, train_curve=False))
    assert torch.equal(short.pop("train_loss_nats"), train_loss[:, -1:])
    assert short.keys() == found.keys()
    assert all(torch.equal(short[name], found[name]) for name in short)


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_noise_dial_scales_what_sets_a_batch_apart(noise: float) -> None:
    still = replace(CONFIG, epochs=1, hyperparameters={"lr": 0.0})
    split = samples(48, 1)

    def first_step(config: RunConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

        def watch(weights: dict[str, torch.Tensor]) -> None:
            seen.append((weights["layers.0.weight"].grad.clone(), dict(weights)))

        for _ in train(config, NETWORK, split, [0], watch):
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
