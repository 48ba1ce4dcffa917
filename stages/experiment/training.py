"""Training of many replicates at once: one seed each, alike for every optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from experiment import progress
from experiment.network import Network, Weights, build, sample_losses
from experiment.optimizers import factory
from experiment.randomness import stream

if TYPE_CHECKING:
    from experiment.data import Dataset, Split
    from experiment.params import Params
    from experiment.work import Result


Hyperparameters = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Setting:
    """What one training run depends on, apart from the data and the replicates."""

    # The parameters that `of` reads.
    READS: ClassVar = (
        "seed",
        "device",
        "model.name",
        "model.hidden",
        "training.epochs",
        "training.batch_size",
    )

    optimizer: str
    hyperparameters: Hyperparameters
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    device: str
    seed: int
    purpose: str  # names the random streams: replicate 0 of two purposes are strangers
    model: str = "mlp"  # a name that `experiment.network.build` knows
    noise: float = 1.0  # factor on what sets a batch's gradient apart from that of all samples
    batches: str = "batches"  # names the streams of the batch order within the purpose

    @classmethod
    def of(
        cls, params: Params, optimizer: str, hyperparameters: Hyperparameters, purpose: str
    ) -> Self:
        """The setting that the parameters describe."""
        return cls(
            optimizer=optimizer,
            hyperparameters=hyperparameters,
            model=params.model.name,
            hidden=tuple(params.model.hidden),
            epochs=params.training.epochs,
            batch_size=params.training.batch_size,
            device=params.device,
            seed=params.seed,
            purpose=purpose,
        )

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return build(self.model, self.hidden)


class Scores(NamedTuple):
    """Mean loss in nats and share of correct answers, each (R,) float64."""

    loss: Tensor
    accuracy: Tensor


def train(
    setting: Setting,
    data: Split,
    replicates: Sequence[int],
    watch: Callable[[Weights], None] | None = None,
) -> Iterator[Weights]:
    """Train the replicates together, each a model of its own.

    A replicate is a number that fixes initial weights and batch order. Both come from streams
    named by it and not by the optimizer, so that replicate r of two optimizers is a pair.

    Args:
        setting: what is trained, and how.
        data: the training samples.
        replicates: their numbers.
        watch: called before every step with the weights, whose `.grad` is the batch's gradient.

    Yields:
        The weights, each (R, ...), before training and after every epoch: epochs + 1 times.
        They are the live tensors that the next epoch changes.

    """
    network = setting.network
    x, y = tensors(data, setting.device)
    weights = {
        name: drawn.to(setting.device).requires_grad_()
        for name, drawn in network.initial_weights(
            [stream(setting.seed, setting.purpose, r, "weights") for r in replicates]
        ).items()
    }
    optimizer = factory(setting.optimizer)(weights.values(), **setting.hyperparameters)
    orders = [stream(setting.seed, setting.purpose, r, setting.batches) for r in replicates]
    yield weights
    for _ in range(setting.epochs):
        order = torch.from_numpy(np.stack([o.permutation(len(y)) for o in orders]))
        for batch in order.to(setting.device).split(setting.batch_size, dim=1):
            optimizer.zero_grad()
            losses = sample_losses(network.logits(weights, x[batch]), y[batch]).mean(1)
            if setting.noise != 1:
                everything = sample_losses(network.logits(weights, x), y).mean(1)
                losses = setting.noise * losses + (1 - setting.noise) * everything
            # A sum over replicates, none of which shares a weight: each gets its own gradient.
            losses.sum().backward()
            if watch is not None:
                watch(weights)
            optimizer.step()
        yield weights


def tensors(data: Split, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Samples (N, 40) and classes (N,) on a device."""
    return torch.from_numpy(data.x).to(device), torch.from_numpy(data.y).to(device)


@torch.no_grad()
def evaluate(network: Network, weights: Weights, data: Split) -> Scores:
    """Score every replicate on all samples, means over samples."""
    x, y = tensors(data, next(iter(weights.values())).device)
    logits = network.logits(weights, x)
    return Scores(
        loss=sample_losses(logits, y).double().mean(1).cpu(),
        accuracy=(logits.argmax(-1) == y).double().mean(1).cpu(),
    )


@dataclass(frozen=True)
class Group:
    """Replicates `first` to `first + size - 1` of a setting, trained together."""

    setting: Setting
    first: int
    size: int
    train_curve: bool = True  # whether the train loss is computed after every epoch, or once


def train_curves(data: Dataset, group: Group) -> Result:
    """Train a group without a look at the test set.

    Returns:
        `validation_loss_nats` and `validation_accuracy_share`, each (R, epochs + 1), from before
        training to after the last epoch; `train_loss_nats` likewise, or without a curve of it
        (R, 1), after the last epoch alone; and the last weights.

    """
    network, epochs = group.setting.network, group.setting.epochs
    replicates = range(group.first, group.first + group.size)
    curves: dict[str, list[Tensor]] = defaultdict(list)
    trained = progress.bar(
        train(group.setting, data.train, replicates),
        total=epochs + 1,
        unit="epoch",
        desc=f"replicates {replicates.start} to {replicates.stop - 1}",
    )
    for epoch, weights in enumerate(trained):
        validation = evaluate(network, weights, data.validation)
        curves["validation_loss_nats"].append(validation.loss)
        curves["validation_accuracy_share"].append(validation.accuracy)
        if group.train_curve or epoch == epochs:
            curves["train_loss_nats"].append(evaluate(network, weights, data.train).loss)
    return {
        **{name: torch.stack(values, dim=1) for name, values in curves.items()},
        **{name: tensor.detach().cpu() for name, tensor in weights.items()},
    }


def train_group(data: Dataset, group: Group) -> Result:
    """Train a group and keep all that is reported of it.

    Returns:
        What `train_curves` returns; and `test_loss_nats` and `test_accuracy_share` (R,) after the
        last epoch, the one time that the test set is looked at.

    """
    result = train_curves(data, group)
    network = group.setting.network
    weights = {name: result[name].to(group.setting.device) for name in network.shapes}
    test = evaluate(network, weights, data.test)
    return {**result, "test_loss_nats": test.loss, "test_accuracy_share": test.accuracy}
