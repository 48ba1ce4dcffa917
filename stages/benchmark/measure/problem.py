"""Gradients to time optimizers on: consecutive ones from training perceptrons on the data."""

from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiment.stage.data import Dataset
from lrg_adam.flatten import square_side

HIDDEN = (128, 64)  # the hidden layers of the experiment
BATCH = 64
GRADIENTS = 4


class Problem(NamedTuple):
    """The weights of stacked networks, and gradients of them in the order of training."""

    side: int  # of the matrix that holds the gradient of one network
    models: int  # one model has no axis for the stack
    weights: list[Tensor]
    gradients: list[list[Tensor]]


def size(widths: list[int]) -> int:
    """Number of parameters of a perceptron."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def trained(data: Dataset, side: int, models: int, warm_up: int) -> Problem:
    """Train the largest networks whose gradient fits in a matrix of this side.

    Their hidden layers are those of the experiment, or two of equal width. The first gradient comes
    after `warm_up` steps.
    """
    hidden = [HIDDEN, *((width, width) for width in range(1, side))]
    candidates = [[data.train.inputs, *widths, data.train.classes] for widths in hidden]
    widths = max((one for one in candidates if size(one) <= side**2), key=size)
    x, y = map(torch.from_numpy, data.train)
    runs = [_train(widths, seed, x, y, warm_up) for seed in range(models)]
    join = torch.stack if models > 1 else itemgetter(0)
    steps = zip(*runs, strict=True)
    weights, *gradients = ([join(each) for each in zip(*step, strict=True)] for step in steps)
    weights = [weight.detach().requires_grad_() for weight in weights]
    return Problem(square_side(size(widths)), models, weights, gradients)


def _train(widths: list[int], seed: int, x: Tensor, y: Tensor, warm_up: int) -> list[list[Tensor]]:
    """Weights and then gradients of one network, trained with Adam."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    weights: list[Tensor] = list(network.parameters())
    optimizer = torch.optim.Adam(weights, fused=True)
    found = [weights]
    for step in range(warm_up + GRADIENTS):
        optimizer.zero_grad()
        batch = torch.randint(len(y), (BATCH,))
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
        if step >= warm_up:
            found.append([weight.grad for weight in weights if weight.grad is not None])
    return found
