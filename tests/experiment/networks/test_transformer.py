"""The transformer: stacked as alone, small, and aware of the order of characters."""

from __future__ import annotations

import numpy as np
import torch

from experiment.networks import transformer
from experiment.training.network import ModuleNetwork

WINDOW, CLASSES = 8, 26
NETWORK = ModuleNetwork(lambda: transformer.create(WINDOW, CLASSES))
X = torch.from_numpy(np.random.default_rng(0).integers(CLASSES, size=(20, WINDOW))).float()


def test_replicates_in_a_stack_equal_the_module_alone_in_scores_and_gradients() -> None:
    weights = NETWORK.initial_weights([np.random.default_rng(seed) for seed in range(3)])
    for name in NETWORK.shapes:
        weights[name].requires_grad_()

    scores = NETWORK.logits(weights, X)
    scores.square().sum().backward()

    assert scores.shape == (3, len(X), CLASSES)
    for r in range(3):
        alone = NETWORK.drawn(np.random.default_rng(r))
        expected = alone(X)
        expected.square().sum().backward()
        torch.testing.assert_close(scores[r], expected)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(weights[name].grad[r], parameter.grad, atol=1e-4, rtol=1e-4)
            assert parameter.grad.abs().max() > 0


def test_attention_equals_that_of_torch() -> None:
    module = transformer.create(WINDOW, CLASSES)
    hidden = torch.randn(5, WINDOW, 32)
    torchs = torch.nn.MultiheadAttention(32, module.heads, batch_first=True)
    state = {
        "in_proj_weight": torch.cat([module.query.weight, module.key_value.weight]),
        "in_proj_bias": torch.cat([module.query.bias, module.key_value.bias]),
        "out_proj.weight": module.project.weight,
        "out_proj.bias": module.project.bias,
    }
    torchs.load_state_dict(state)
    torch.testing.assert_close(
        module.attention(hidden), torchs(hidden[:, -1:], hidden, hidden)[0][:, 0]
    )


def test_every_character_and_its_place_matter_and_other_samples_do_not() -> None:
    module = transformer.create(WINDOW, CLASSES)
    scores = module(X)
    for i in range(WINDOW):
        changed = X.clone()
        changed[0, i] = (X[0, i] + 1) % CLASSES
        assert not torch.allclose(module(changed)[0], scores[0])
        torch.testing.assert_close(module(changed)[1:], scores[1:])
    order = [1, 0, *range(2, WINDOW)]
    assert not torch.allclose(module(X[:, order]), scores)
    assert sum(parameter.numel() for parameter in module.parameters()) < 30_000
