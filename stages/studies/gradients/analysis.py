"""What truncation does to gradients along a trajectory, and to the updates made from them.

Notation: g is the gradient of a batch, F_k g its best approximation of rank k, gbar the gradient
over all training samples, and gpop that over many fresh ones, an estimate of the population's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from experiment.stage.data import Split
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


class Samples(NamedTuple):
    """The training samples, and fresh ones from the same generator."""

    train: Split
    fresh: Split


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
    names = list(weights)
    total = torch.zeros(())
    for part_x, part_y in zip(x.split(CHUNK, dim=-2), y.split(CHUNK, dim=-1), strict=True):
        detached = {name: weights[name].detach().requires_grad_() for name in names}
        losses = sample_losses(network.logits(detached, part_x), part_y).sum(1) / y.shape[-1]
        found = torch.autograd.grad(losses.sum(), list(detached.values()))
        total = total + torch.cat([part.flatten(1) for part in found], dim=1)
    return total


def approximations(flat: Tensor, ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Best approximations of flat gradients (R, P), zero-padded to square matrices.

    Returns:
        The approximations (K, R, P), one per rank, and the cumulative energy (R, n) of the leading
        singular values, as shares of the total.

    """
    matrix = to_square([flat], 1, torch.float32)
    values, vectors = spectrum(matrix)
    energy = values.clamp(min=0).flip(-1).cumsum(-1)
    found = [from_square(projected(matrix, vectors[..., -rank:]), [flat], 1)[0] for rank in ranks]
    return torch.stack(found), energy / energy[:, -1:]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over the last axis, 0 where one of them is zero."""
    return functional.cosine_similarity(a.double(), b.double(), dim=-1)


class Moments:
    """Adam's moments of the unfiltered gradients and of their truncations, side by side.

    `mean` and `square` are (K + 1, R, P), the unfiltered first. `quiet` (R, P) marks the
    coordinates whose gradient has been exactly zero at every step since `listen`.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = ranks
        self.steps = 0
        # Scalars until the first step, which sets the shapes.
        self.mean = self.square = self.quiet = torch.zeros(())

    def listen(self) -> None:
        """Restart the watch for gradients that are exactly zero."""
        self.quiet = torch.ones((), dtype=torch.bool)

    def step(self, weights: Weights) -> None:
        """Update the moments from `.grad`."""
        flat = torch.cat([cast(Tensor, w.grad).flatten(1) for w in weights.values()], dim=1)
        self.mean, self.square = self.after(flat)
        self.quiet = self.quiet & (flat == 0)
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


def analyse(data: Samples, task: GradientTask) -> Result:
    """Measure gradients and updates after each of the task's epochs.

    Args:
        data: training samples, and fresh ones to compare with.
        task: what to analyse.

    Returns:
        Quantities (R, epochs, batches, K), float64, for K ranks. Those named `step_...` have at
        most STEPS batches; `retention_fresh` has one entry for all batches.

        Of gradients, with sums over the batches of a replicate after one epoch:

        - `energy`: E_k = |F_k g|^2 / |g|^2 of one batch.
        - `energy_permuted`: the same with the entries of g permuted during truncation.
        - `raw_cosine_fresh`: cos(g, gpop).
        - `cosine_fresh`: cos(F_k g, gpop) - cos(g, gpop). `cosine_train`: the same with gbar.
        - `cosine_permuted`: `cosine_fresh` with the entries of g permuted during truncation.
        - `retention_fresh`: R_k - sqrt(E_k), R_k = sum <F_k g, gpop> / sum <g, gpop> and
          E_k = sum |F_k g|^2 / sum |g|^2.

        Of updates, which Adam's moments make from gradients:

        - `step_loss_fresh`: loss (nats) on fresh samples after an update scaled to the norm of
          Adam's, minus that after Adam's. `step_loss_train`: the same on all training samples.
        - `step_leak`: share of the update's energy in coordinates whose gradient was exactly zero
          in all of the last epoch. `step_leak_adam`: that of Adam's own update.

    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    moments = Moments(task.ranks)
    replicates = range(task.first, task.first + task.size)
    network = task.config.network(data.train)
    orders = _orders(task, network)
    trained = train(task.config, network, data.train, replicates, moments.step)
    for epoch, weights in enumerate(trained):
        if epoch in task.epochs:
            here: dict[str, list[Tensor]] = defaultdict(list)
            products = torch.zeros((), dtype=torch.float64)
            batches = _batches(data, task, network, epoch, weights)
            for number, (flat, bar, population) in enumerate(batches):
                filtered, energy = approximations(flat, task.ranks)
                cosines = _cosines(flat, filtered, energy, bar, population, task.ranks, orders)
                for name, value in cosines.items():
                    here[name].append(value)
                products = products + _products(flat, filtered, population)
                if number < STEPS:
                    updates = moments.updates(flat)
                    for name, value in _steps(
                        data, task, network, weights, updates, moments.quiet
                    ).items():
                        here[name].append(value)
            here["retention_fresh"].append(_retention(products))
            for name, values in here.items():
                found[name].append(torch.stack(values, dim=1))
        moments.listen()
    return {name: torch.stack(values, dim=1).double().cpu() for name, values in found.items()}


def _orders(task: GradientTask, network: Network) -> Tensor:
    """One permutation of the coordinates per replicate, (R, P)."""
    coordinates = sum(map(math.prod, network.shapes.values()))
    drawn = [
        stream(task.config.seed, "studies, permuted", replicate).permutation(coordinates)
        for replicate in range(task.first, task.first + task.size)
    ]
    return torch.from_numpy(np.stack(drawn)).to(task.config.device)


def _batches(
    data: Samples, task: GradientTask, network: Network, epoch: int, weights: Weights
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gradients (R, P) of random batches, each with those of all training and all fresh samples.

    Every replicate draws its own batches, so that replicates are independent. The noise of a batch
    is scaled as it is in training.
    """
    device = task.config.device
    x, y = tensors(data.train, device)
    bar = flat_gradient(network, weights, x, y)
    population = flat_gradient(network, weights, *tensors(data.fresh, device))
    for number in range(task.batches):
        drawn = [
            stream(task.config.seed, "studies, gradients", replicate, epoch, number).choice(
                len(y), task.config.batch_size, replace=False
            )
            for replicate in range(task.first, task.first + task.size)
        ]
        batch = torch.from_numpy(np.stack(drawn)).to(device)
        flat = flat_gradient(network, weights, x[batch], y[batch])
        noise = task.config.noise
        yield (flat if noise == 1 else bar + noise * (flat - bar)), bar, population


def _cosines(
    flat: Tensor,
    filtered: Tensor,
    energy: Tensor,
    bar: Tensor,
    population: Tensor,
    ranks: Sequence[int],
    orders: Tensor,
) -> dict[str, Tensor]:
    """What truncation does to one gradient, (R, K) each."""
    columns = [rank - 1 for rank in ranks]
    permuted, permuted_energy = approximations(flat.gather(1, orders), ranks)
    result = {
        "energy": energy[:, columns],
        "energy_permuted": permuted_energy[:, columns],
    }
    for name, target in (("train", bar), ("fresh", population)):
        raw = cosine(flat, target)
        result[f"cosine_{name}"] = (cosine(filtered, target) - raw).T
    result["raw_cosine_fresh"] = raw[:, None].expand(-1, len(columns))
    shuffled = cosine(permuted, population.gather(1, orders))
    return {**result, "cosine_permuted": (shuffled - raw).T}


def _products(flat: Tensor, filtered: Tensor, population: Tensor) -> Tensor:
    """Inner products (2, K + 1, R) of g and its F_k g with gpop and g, in float64."""
    stacked = torch.cat([flat[None], filtered]).double()
    return torch.stack([(stacked * target).sum(-1) for target in (population, flat)])


def _retention(products: Tensor) -> Tensor:
    """The criterion R_k - sqrt(E_k), (R, K), from the sums of `_products` over batches.

    A single batch's <g, gpop> may be near zero; their sum is not, as long as batches agree.
    """
    # F_k is a projection, so <F_k g, g> = |F_k g|^2 and the last ratio is E_k.
    retained, energy = products[:, 1:] / products[:, :1]
    return (retained - sqrt(energy.clamp(min=0))).T


@torch.no_grad()
def _steps(
    data: Samples,
    task: GradientTask,
    network: Network,
    weights: Weights,
    updates: Tensor,
    quiet: Tensor,
) -> dict[str, Tensor]:
    """What truncation does to Adam's updates, (R, K) each."""
    judges = {
        "fresh": Split(data.fresh.x[:JUDGES], data.fresh.y[:JUDGES]),
        "train": data.train,
    }
    lr = float(task.config.hyperparameters["lr"])
    norms = torch.linalg.vector_norm(updates, dim=-1, keepdim=True)
    steps = updates * (lr * norms[:1] / norms)
    losses: dict[str, list[Tensor]] = defaultdict(list)
    for step in steps:
        moved, start = {}, 0
        for name, weight in weights.items():
            size = weight[0].numel()
            moved[name] = weight - step[:, start : start + size].view_as(weight)
            start += size
        for name, judge in judges.items():
            losses[name].append(evaluate(network, moved, judge).loss)
    loss = {name: torch.stack(values) for name, values in losses.items()}
    share = _share(updates, quiet)
    return {
        **{f"step_loss_{name}": (after[1:] - after[:1]).T for name, after in loss.items()},
        "step_leak": share[1:].T,
        "step_leak_adam": share[:1].T.expand(-1, len(updates) - 1),
    }


def _share(vectors: Tensor, where: Tensor) -> Tensor:
    """Share (K, R) of the energy of vectors (K, R, P) in the coordinates `where` (R, P)."""
    energy = vectors.double().square()
    return (energy * where).sum(-1) / energy.sum(-1).clamp(min=1e-300)


def noise_energy(side: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean cumulative share (n,) of energy in the leading singular values of Gaussian noise."""
    noise = rng.standard_normal((draws, side, side))
    squared = np.linalg.svd(noise, compute_uv=False) ** 2
    return (squared.cumsum(-1) / squared.sum(-1, keepdims=True)).mean(0)
