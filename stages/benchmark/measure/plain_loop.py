"""Train one model as most programs do: a module, a loop, the published step.

`python -m benchmark.measure.plain_loop` prints how many steps it takes per second, on one thread.
It imports nothing from `experiment`, whose settings forbid a processor's fastest instructions.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.measure.contenders import Step, adam, published


def model(widths: list[int]) -> nn.Sequential:
    """A perceptron with ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(network: nn.Module, step: Step, data: dict[str, Tensor], size: int) -> int:
    """Train for one epoch in batches of `size`, evaluate, and return the number of steps."""
    x, y = data["x_train"], data["y_train"]
    batches = torch.randperm(len(y)).split(size)
    for batch in batches:
        network.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        step([weight.grad for weight in network.parameters() if weight.grad is not None])
    with torch.no_grad():
        for part in ("train", "validation"):
            nn.functional.cross_entropy(network(data[f"x_{part}"]), data[f"y_{part}"])
    return len(batches)


def main(file: str, hidden: list[int], batch_size: int, epochs: int, rank: int | None) -> None:
    """Print steps per second, including an evaluation after every epoch."""
    torch.set_num_threads(1)
    with np.load(file, allow_pickle=False) as archive:
        data = {name: torch.from_numpy(archive[name]) for name in archive if name != "title"}
    network = model([data["x_train"].shape[1], *hidden, int(data["y_train"].max()) + 1])
    weights = list(network.parameters())
    step = adam(weights, 0, fused=None) if rank is None else published(weights, rank)
    train(network, step, {name: tensor[:batch_size] for name, tensor in data.items()}, batch_size)
    begin = time.perf_counter()
    steps = sum(train(network, step, data, batch_size) for _ in range(epochs))
    print(steps / (time.perf_counter() - begin))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", required=True, help="the file that fetch_data writes")
    parser.add_argument("--hidden", type=int, nargs="+", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--rank", type=int, help="for the published step; without it, Adam")
    main(**vars(parser.parse_args()))
