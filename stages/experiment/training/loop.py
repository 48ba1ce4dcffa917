"""Train many replicates at once: one seed each, the same for every optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError, reason
from experiment.stage.params import TrainingParams
from experiment.stage.randomness import stream
from experiment.training import optimizer, progress
from experiment.training.network import Network, Weights, build, sample_losses
from experiment.training.optimizer import Hyperparameters
from experiment.training.work import Result


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run depends on, except the data and the replicates."""

    optimizer: str  # a name that `experiment.training.optimizer.create` knows
    hyperparameters: Hyperparameters
    model: str  # a module in experiment.networks
    options: Mapping[str, Any]  # of the network
    epochs: int
    batch_size: int
    device: str
    seed: int
    purpose: str  # names the random streams: replicates of two purposes are independent
    noise: float = 1.0  # factor on the deviation of a batch's gradient from the full gradient
    batches: str = "batches"  # names the batch-order streams within the purpose
    schedule: str = "constant"  # of the learning rate: constant, cosine or linear
    warmup: float = 0.0  # share of the steps in which the learning rate rises

    @classmethod
    def of(
        cls, params: TrainingParams, optimizer: str, hyperparameters: Hyperparameters, purpose: str
    ) -> Self:
        """The configuration that the parameters describe."""
        return cls(
            optimizer=optimizer,
            hyperparameters=hyperparameters,
            model=params.model.name,
            options=params.model.options,
            device=params.device,
            seed=params.seed,
            purpose=purpose,
            **dict(params.training),
        )

    def network(self, data: Split) -> Network:
        """The network that is trained on the training samples."""
        return build(self.model, self.options, data)


class Scores(NamedTuple):
    """Mean loss in nats and share of correct answers, each (R,) float64."""

    loss: Tensor
    accuracy: Tensor


def train(
    config: RunConfig,
    network: Network,
    data: Split,
    replicates: Sequence[int],
    watch: Callable[[Weights], None] | None = None,
) -> Iterator[Weights]:
    """Train the replicates together, each as its own model.

    A replicate is a number that fixes initial weights and batch order. Both come from streams named
    by the replicate, not by the optimizer, so replicate r of two optimizers is a pair.

    `watch` is called before every step with the weights, whose `.grad` is the batch's gradient.

    Yields:
        The weights, each (R, ...), before training and after every epoch: epochs + 1 times.
        They are the live tensors that the next epoch changes.

    Raises:
        UserError: the network or the optimizer does not work.

    """

    def streams(name: str) -> dict[int, np.random.Generator]:
        return {r: stream(config.seed, config.purpose, r, name) for r in replicates}

    x, y = tensors(data, config.device)
    drawn = network.initial_weights(list(streams("weights").values()))
    weights = {name: tensor.to(config.device) for name, tensor in drawn.items()}
    trained = [weights[name].requires_grad_() for name in network.shapes]
    steps = config.epochs * math.ceil(len(y) / config.batch_size)
    steppers = optimizer.create(
        config.optimizer,
        trained,
        config.hyperparameters,
        "optimizer",
        streams("optimizer"),
        optimizer.schedule(config.schedule, config.warmup, steps),
    )
    orders = streams(config.batches).values()

    def gradient(batch: Tensor, replicate: int | None = None) -> Tensor:
        """Set `.grad` of the weights to the gradient of a batch, and return the loss.

        The batch holds positions (R, B) in the samples. If the position of a replicate is given,
        the gradients of the others are zero.
        """
        for weight in trained:
            weight.grad = None
        chosen = slice(None) if replicate is None else slice(replicate, replicate + 1)
        own, batch = {name: weight[chosen] for name, weight in weights.items()}, batch[chosen]
        with _one_line(batch.shape[1]):
            scores = partial(network.training_logits, own, first=replicate or 0)
            losses = sample_losses(scores(x[batch]), y[batch]).mean(1)
            if config.noise != 1:
                everything = sample_losses(scores(x), y).mean(1)
                losses = config.noise * losses + (1 - config.noise) * everything
            # Replicates share no weights, so each gets its own gradient from the sum.
            loss = losses.sum()
            loss.backward()
        return loss.detach()

    yield weights
    for _ in range(config.epochs):
        order = torch.from_numpy(np.stack([o.permutation(len(y)) for o in orders]))
        for batch in order.to(config.device).split(config.batch_size, dim=1):
            if not steppers[0].needs_closure:
                gradient(batch)
                if watch is not None:
                    watch(weights)
            for stepper in steppers:
                stepper.step(partial(gradient, batch))
        yield weights


def tensors(data: Split, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Samples (N, F) and classes (N,) on a device."""
    return torch.from_numpy(data.x).to(device), torch.from_numpy(data.y).to(device)


@torch.no_grad()
def evaluate(network: Network, weights: Weights, data: Split) -> Scores:
    """Score every replicate on the samples; scores are means over samples."""
    x, y = tensors(data, next(iter(weights.values())).device)
    with _one_line(len(y)):
        logits = network.logits(weights, x)
    return Scores(
        loss=sample_losses(logits, y).double().mean(1).cpu(),
        accuracy=(logits.argmax(-1) == y).double().mean(1).cpu(),
    )


@contextmanager
def _one_line(samples: int) -> Iterator[None]:
    """Turn what a network raises into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"the network, on {samples} samples: {reason(error)}") from None


@dataclass(frozen=True)
class Group:
    """Replicates `first` to `first + size - 1` of a configuration, trained together."""

    config: RunConfig
    first: int
    size: int
    train_curve: bool = True  # compute the train loss after every epoch, or only the last
    weights: bool = False  # `train_group` returns the last weights, too


def train_curves(data: Dataset, group: Group) -> Result:
    """Train a group without using the test set.

    Returns:
        `validation_loss_nats` and `validation_accuracy_share`, each (R, epochs + 1), from before
        training to after the last epoch; and `train_loss_nats` likewise, or (R, 1) after the last
        epoch if `train_curve` is false.

    """
    return _trained(data, group)[0]


def train_group(data: Dataset, group: Group) -> Result:
    """Train a group and score it on the test set, which is used nowhere else.

    Returns:
        What `train_curves` returns; `test_loss_nats` and `test_accuracy_share` (R,) after the last
        epoch; and if asked for, the last weights, named `weights.<name>`.

    """
    result, network, weights = _trained(data, group)
    test = evaluate(network, weights, data.test)
    result |= {"test_loss_nats": test.loss, "test_accuracy_share": test.accuracy}
    if group.weights:
        result |= {f"weights.{name}": one.detach().cpu() for name, one in weights.items()}
    return result


def _trained(data: Dataset, group: Group) -> tuple[Result, Network, Weights]:
    config, replicates = group.config, range(group.first, group.first + group.size)
    network = config.network(data.train)
    epochs = progress.bar(
        train(config, network, data.train, replicates),
        total=config.epochs + 1,
        unit="epoch",
        desc=f"{config.hyperparameters}, replicates {group.first} to {replicates[-1]}",
    )
    curves: dict[str, list[Tensor]] = defaultdict(list)
    for epoch, weights in enumerate(epochs):
        validation = evaluate(network, weights, data.validation)
        curves["validation_loss_nats"].append(validation.loss)
        curves["validation_accuracy_share"].append(validation.accuracy)
        if group.train_curve or epoch == config.epochs:
            curves["train_loss_nats"].append(evaluate(network, weights, data.train).loss)
    result = {name: torch.stack(values, dim=1) for name, values in curves.items()}
    return result, network, weights


def outcomes(curves: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One row per replicate: its scores at the end, and its best epoch on the validation set.

    The curves are train and validation losses (R, epochs + 1), and test scores (R,), if any.
    """
    validation = curves["validation_loss_nats"]
    table = pd.DataFrame(
        {
            "replicate": np.arange(len(validation)),
            "train_loss_nats": curves["train_loss_nats"][:, -1],
            "validation_loss_nats": validation[:, -1],
            "best_validation_loss_nats": validation.min(axis=1),
            "best_epoch": validation.argmin(axis=1),
        }
    )
    tests = ("test_loss_nats", "test_accuracy_share")
    return table.assign(**{name: curves[name] for name in tests if name in curves})
