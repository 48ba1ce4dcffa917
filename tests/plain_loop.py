"""Training as anyone would write it: a module, an optimizer, a loop over epochs and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiment.networks.mlp import MLP
from experiment.stage.data import Split
from experiment.stage.randomness import stream
from experiment.training.loop import RunConfig, train
from experiment.training.network import Network


def alone(
    config: RunConfig,
    data: Split,
    replicate: int,
    create: Callable[[np.random.Generator], nn.Module],
    make: Callable[..., object] = torch.optim.Adam,
) -> nn.Module:
    """The module of one replicate after the last epoch, in evaluation mode.

    `create` gets the stream of the replicate's initial weights; `make` returns an optimizer, or a
    list of them.
    """
    streams = partial(stream, config.seed, config.purpose, replicate)
    order = streams("batches")
    x, y = map(torch.from_numpy, data)
    with torch.random.fork_rng(devices=[]):
        module = create(streams("weights"))
        made = make(module.parameters(), **config.hyperparameters)
        for _ in range(config.epochs):
            for batch in torch.from_numpy(order.permutation(len(y))).split(config.batch_size):

                def closure(batch: Tensor = batch) -> Tensor:
                    module.zero_grad()
                    loss = functional.cross_entropy(module(x[batch]), y[batch], reduction="none")
                    loss.mean().backward()
                    return loss.mean()

                if isinstance(made, torch.optim.LBFGS):
                    made.step(closure)
                    continue
                closure()
                for one in made if isinstance(made, list) else [made]:
                    one.step()
    return module.eval()


def perceptron(network: MLP) -> Callable[[np.random.Generator], nn.Module]:
    """What makes the module of one replicate of a stacked perceptron."""

    def create(rng: np.random.Generator) -> nn.Module:
        drawn = network.initial_weights([rng])
        model = nn.Sequential()
        for i in range(network.depth):
            weight, bias = drawn[f"layers.{i}.weight"][0], drawn[f"layers.{i}.bias"][0]
            layer = nn.Linear(*reversed(weight.shape))
            layer.load_state_dict({"weight": weight, "bias": bias})
            model.extend([nn.ReLU(), layer] if i else [layer])
        return model

    return create


def trained(
    config: RunConfig, network: Network, data: Split, replicates: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Copies of the stacked weights from before training to after the last epoch."""
    return [
        {name: tensor.detach().clone() for name, tensor in weights.items()}
        for weights in train(config, network, data, replicates)
    ]
