"""Training of one model as most programs do it: a module, a loop, the published step.

python -m benchmark.plain_loop prints how many steps it takes a second, on one thread. It imports
nothing of the experiment, whose settings keep a processor from its fastest instructions.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmark.contenders import Step, adam, published

CLASSES = 10


def model(widths: list[int]) -> nn.Sequential:
    """A perceptron with ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(network: nn.Module, step: Step, arrays: dict[str, np.ndarray], size: int) -> int:
    """Train for an epoch in batches of `size`, evaluate, and return the number of steps."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    x, y = tensors["x_train"], tensors["y_train"]
    batches = torch.randperm(len(y)).split(size)
    for batch in batches:
        network.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        step([weight.grad for weight in network.parameters()])
    with torch.no_grad():
        for part in ("train", "validation"):
            nn.functional.cross_entropy(network(tensors[f"x_{part}"]), tensors[f"y_{part}"])
    return len(batches)


def main(data: str, hidden: list[int], batch_size: int, epochs: int, rank: int | None) -> None:
    """Print steps a second, evaluation after every epoch included."""
    torch.set_num_threads(1)
    with np.load(data, allow_pickle=False) as archive:
        arrays = dict(archive)
    network = model([arrays["x_train"].shape[1], *hidden, CLASSES])
    weights = list(network.parameters())
    step = adam(weights, 0, fused=None) if rank is None else published(weights, rank)
    train(network, step, {name: array[:batch_size] for name, array in arrays.items()}, batch_size)
    begin = time.perf_counter()
    steps = sum(train(network, step, arrays, batch_size) for _ in range(epochs))
    print(steps / (time.perf_counter() - begin))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="what fetch_data writes")
    parser.add_argument("--hidden", type=int, nargs="+", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--rank", type=int, help="of the published step; without one, Adam's")
    main(**vars(parser.parse_args()))
