"""What truncation does to gradients along a trajectory, and to the updates made from them.

Notation: g is the gradient of a batch, F_k g its best approximation of rank k, gbar the gradient
over all training samples, and gpop that over many fresh ones, an estimate of the population's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from experiment.stage.data import Dataset, Split
from experiment.stage.randomness import stream
from experiment.training.arithmetic import projected, spectrum, sqrt
from experiment.training.loop import RunConfig, evaluate, tensors, train
from experiment.training.network import Network, Weights, sample_losses
from experiment.training.work import Result
from lrg_adam.flatten import from_square, to_square

# Adam's defaults, for updates computed alongside those of the trajectory.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
# Number of samples whose gradient is computed at once, and of fresh samples that judge a step.
CHUNK = 2_000
JUDGES = 4_000
# Number of batches per epoch for which a step is taken; the rest are only for the cosines.
STEPS = 4


@dataclass(frozen=True)
class GradientTask:
    """Replicates `first` to `first + size - 1` of a training, analysed after some epochs."""

    config: RunConfig
    first: int
    size: int
    epochs: tuple[int, ...]
    ranks: tuple[int, ...]
    batches: int


def flat_gradient(network: Network, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Gradients (R, P) of the mean loss over the samples x, in chunks.

    The samples are (R, B, inputs) with classes (R, B), or (B, inputs) and (B,) for all replicates.
    """
    total = torch.zeros(())
    for part_x, part_y in zip(x.split(CHUNK, dim=-2), y.split(CHUNK, dim=-1), strict=True):
        detached = {name: one.detach().requires_grad_() for name, one in weights.items()}
        losses = sample_losses(network.logits(detached, part_x), part_y).sum(1) / y.shape[-1]
        found = torch.autograd.grad(losses.sum(), list(detached.values()))
        total = total + torch.cat([part.flatten(1) for part in found], dim=1)
    return total


def approximations(flat: Tensor, ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Best approximations of flat gradients (R, P), zero-padded to square matrices.

    Returns:
        The approximations (K, R, P), one per rank, and the shares of the energy (R, K) they keep.

    """
    matrix = to_square([flat], 1, torch.float32)
    values, vectors = spectrum(matrix)
    energy = values.clamp(min=0).flip(-1).cumsum(-1)
    found = [from_square(projected(matrix, vectors[..., -rank:]), [flat], 1)[0] for rank in ranks]
    return torch.stack(found), (energy / energy[:, -1:])[:, [rank - 1 for rank in ranks]]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over the last axis, 0 where one of them is zero."""
    return functional.cosine_similarity(a.double(), b.double(), dim=-1)


class Moments:
    """Adam's moments (K + 1, R, P) of the unfiltered gradients, first, and of their truncations."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = ranks
        self.steps = 0
        # Scalars until the first step, which sets the shapes.
        self.mean = self.square = torch.zeros(())

    def step(self, weights: Weights) -> None:
        """Update the moments from `.grad`."""
        flat = torch.cat([cast(Tensor, w.grad).flatten(1) for w in weights.values()], dim=1)
        self.mean, self.square = self.after(flat)
        self.steps += 1

    def after(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The moments after one more gradient (R, P)."""
        stacked = torch.cat([flat[None], approximations(flat, self._ranks)[0]])
        return (
            self.mean * BETA1 + stacked * (1 - BETA1),
            self.square * BETA2 + stacked.square() * (1 - BETA2),
        )

    def updates(self, flat: Tensor) -> Tensor:
        """Adam's next updates (K + 1, R, P) on a gradient (R, P), without the learning rate."""
        mean, square = self.after(flat)
        count = self.steps + 1
        return (mean / (1 - BETA1**count)) / (sqrt(square / (1 - BETA2**count)) + EPS)


def analyse(data: Dataset, task: GradientTask) -> Result:
    """Measure gradients and updates after each of the task's epochs.

    Args:
        data: `train` holds the training samples, `test` fresh ones from the same generator.
        task: what to analyse.

    Returns:
        Quantities (R, epochs, batches, K), float64, for K ranks. Those named `step_...` have at
        most STEPS batches.

        - `energy`: |F_k g|^2 / |g|^2.
        - `energy_permuted`: the same with the entries of g permuted during truncation.
        - `cosine_fresh`: cos(F_k g, gpop) - cos(g, gpop). `cosine_train`: the same with gbar.
        - `cosine_permuted`: `cosine_fresh` with the entries of g permuted during truncation.
        - `step_loss_fresh`: loss (nats) on fresh samples after the update that Adam's moments make
          from truncated gradients, scaled to the norm of Adam's, minus that after Adam's.
          `step_loss_train`: the same on all training samples.

    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    moments = Moments(task.ranks)
    replicates = range(task.first, task.first + task.size)
    network = task.config.network(data.train)
    orders = _orders(task, network)
    trained = train(task.config, network, data.train, replicates, moments.step)
    for epoch, weights in enumerate(trained):
        if epoch in task.epochs:
            batches = _batches(data, task, network, epoch, weights)
            for number, (flat, bar, population) in enumerate(batches):
                measured = _truncation(flat, bar, population, task.ranks, orders)
                if number < STEPS:
                    updates = moments.updates(flat)
                    measured |= _steps(data, task, network, weights, updates)
                for name, value in measured.items():
                    found[name].append(value)
    by_epoch = (len(task.epochs), -1)
    return {
        name: torch.stack(values, dim=1).unflatten(1, by_epoch).double().cpu()
        for name, values in found.items()
    }


def _orders(task: GradientTask, network: Network) -> Tensor:
    """One permutation of the coordinates per replicate, (R, P)."""
    coordinates = sum(map(math.prod, network.shapes.values()))
    drawn = [own.permutation(coordinates) for own in _streams(task, "studies, permuted")]
    return torch.from_numpy(np.stack(drawn)).to(task.config.device)


def _streams(task: GradientTask, name: str, *key: int) -> list[np.random.Generator]:
    """A random stream of each replicate."""
    replicates = range(task.first, task.first + task.size)
    return [stream(task.config.seed, name, replicate, *key) for replicate in replicates]


def _batches(
    data: Dataset, task: GradientTask, network: Network, epoch: int, weights: Weights
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gradients (R, P) of random batches, each with those of all training and all fresh samples.

    Every replicate draws its own batches, so that replicates are independent. The noise of a batch
    is scaled as it is in training.
    """
    device = task.config.device
    x, y = tensors(data.train, device)
    bar = flat_gradient(network, weights, x, y)
    population = flat_gradient(network, weights, *tensors(data.test, device))
    for number in range(task.batches):
        streams = _streams(task, "studies, gradients", epoch, number)
        drawn = [own.choice(len(y), task.config.batch_size, replace=False) for own in streams]
        batch = torch.from_numpy(np.stack(drawn)).to(device)
        flat = flat_gradient(network, weights, x[batch], y[batch])
        noise = task.config.noise
        yield (flat if noise == 1 else bar + noise * (flat - bar)), bar, population


def _truncation(
    flat: Tensor, bar: Tensor, population: Tensor, ranks: Sequence[int], orders: Tensor
) -> dict[str, Tensor]:
    """What truncation does to one gradient, (R, K) each."""
    filtered, energy = approximations(flat, ranks)
    permuted, permuted_energy = approximations(flat.gather(1, orders), ranks)
    raw = cosine(flat, population)
    return {
        "energy": energy,
        "energy_permuted": permuted_energy,
        "cosine_train": (cosine(filtered, bar) - cosine(flat, bar)).T,
        "cosine_fresh": (cosine(filtered, population) - raw).T,
        "cosine_permuted": (cosine(permuted, population.gather(1, orders)) - raw).T,
    }


@torch.no_grad()
def _steps(
    data: Dataset, task: GradientTask, network: Network, weights: Weights, updates: Tensor
) -> dict[str, Tensor]:
    """What truncation does to Adam's updates, (R, K) each."""
    lr = float(task.config.hyperparameters["lr"])
    norms = torch.linalg.vector_norm(updates, dim=-1, keepdim=True)
    steps = updates * (lr * norms[:1] / norms)
    sizes = [weight[0].numel() for weight in weights.values()]
    moved = [
        {
            name: weight - part.view_as(weight)
            for (name, weight), part in zip(weights.items(), step.split(sizes, -1), strict=True)
        }
        for step in steps
    ]
    fresh = Split(data.test.x[:JUDGES], data.test.y[:JUDGES])
    found = {}
    for name, judge in {"fresh": fresh, "train": data.train}.items():
        loss = torch.stack([evaluate(network, one, judge).loss for one in moved])
        found[f"step_loss_{name}"] = (loss[1:] - loss[:1]).T
    return found


def noise_energy(side: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean cumulative share (n,) of energy in the leading singular values of Gaussian noise."""
    noise = rng.standard_normal((draws, side, side))
    squared = np.linalg.svd(noise, compute_uv=False) ** 2
    return (squared.cumsum(-1) / squared.sum(-1, keepdims=True)).mean(0)
