"""The transformer: stacked as alone, and attention as torch computes it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from experiment.networks import transformer
from experiment.training.network import ModuleNetwork

WINDOW, CLASSES = 8, 26
X = torch.from_numpy(np.random.default_rng(0).integers(CLASSES, size=(20, WINDOW))).float()


def test_replicates_in_a_stack_equal_the_module_alone() -> None:
    network = ModuleNetwork(lambda: transformer.create(WINDOW, CLASSES))
    weights = network.initial_weights([np.random.default_rng(seed) for seed in range(3)])
    for name in network.shapes:
        weights[name].requires_grad_()

    scores = network.logits(weights, X)
    scores.square().sum().backward()

    for r in range(3):
        alone, _ = network.drawn(np.random.default_rng(r))
        expected = alone(X)
        expected.square().sum().backward()
        torch.testing.assert_close(scores[r], expected)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(weights[name].grad[r], parameter.grad, atol=1e-4, rtol=1e-4)


def test_attention_is_torchs() -> None:
    module = transformer.create(WINDOW, CLASSES)
    torchs = nn.MultiheadAttention(transformer.WIDTH, transformer.HEADS, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": torch.cat([module.query.weight, module.key_value.weight]),
            "in_proj_bias": torch.cat([module.query.bias, module.key_value.bias]),
            "out_proj.weight": module.project.weight,
            "out_proj.bias": module.project.bias,
        }
    )
    hidden = torch.randn(5, WINDOW, transformer.WIDTH, generator=torch.Generator().manual_seed(0))
    expected, _ = torchs(hidden[:, -1:], hidden, hidden)
    torch.testing.assert_close(module.attention(hidden), expected[:, 0])
