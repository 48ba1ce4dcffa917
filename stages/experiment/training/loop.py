"""Train many replicates at once: one seed each, the same for every optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiment.stage.data import Dataset, Split
from experiment.stage.params import TrainingParams
from experiment.stage.randomness import stream
from experiment.training import optimizer, progress
from experiment.training.network import Network, Weights, build, sample_losses
from experiment.training.optimizer import Hyperparameters
from experiment.training.work import Result

WEIGHTS = "weights."  # prefix of the names of weights in a result


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

    @classmethod
    def of(
        cls,
        params: TrainingParams,
        optimizer: str,
        hyperparameters: Hyperparameters,
        purpose: str,
    ) -> Self:
        """The setting that the parameters describe."""
        return cls(
            optimizer=optimizer,
            hyperparameters=hyperparameters,
            model=params.model.name,
            options=params.model.options,
            epochs=params.training.epochs,
            batch_size=params.training.batch_size,
            device=params.device,
            seed=params.seed,
            purpose=purpose,
        )

    def network(self, data: Split) -> Network:
        """The network that is trained on the training samples."""
        return build(self.model, self.options, data.inputs, data.classes)


class Scores(NamedTuple):
    """Mean loss in nats and share of correct answers, each (R,) float64."""

    loss: Tensor
    accuracy: Tensor


def train(
    setting: RunConfig,
    network: Network,
    data: Split,
    replicates: Sequence[int],
    watch: Callable[[Weights], None] | None = None,
) -> Iterator[Weights]:
    """Train the replicates together, each as its own model.

    A replicate is a number that fixes initial weights and batch order. Both come from streams named
    by the replicate, not by the optimizer, so replicate r of two optimizers is a pair.

    Args:
        setting: how to train.
        network: what to train.
        data: the training samples.
        replicates: their numbers.
        watch: called before every step with the weights, whose `.grad` is the batch's gradient.

    Yields:
        The weights, each (R, ...), before training and after every epoch: epochs + 1 times.
        They are the live tensors that the next epoch changes.

    """
    x, y = tensors(data, setting.device)
    drawn = network.initial_weights(
        [stream(setting.seed, setting.purpose, r, "weights") for r in replicates]
    )
    weights = {name: tensor.to(setting.device) for name, tensor in drawn.items()}
    trained = [weights[name].requires_grad_() for name in network.shapes]
    stepper = optimizer.create(
        setting.optimizer, trained, setting.hyperparameters, where="optimizer"
    )
    orders = [stream(setting.seed, setting.purpose, r, setting.batches) for r in replicates]
    yield weights
    for _ in range(setting.epochs):
        order = torch.from_numpy(np.stack([o.permutation(len(y)) for o in orders]))
        for batch in order.to(setting.device).split(setting.batch_size, dim=1):
            for weight in trained:
                weight.grad = None
            losses = sample_losses(network.logits(weights, x[batch]), y[batch]).mean(1)
            if setting.noise != 1:
                everything = sample_losses(network.logits(weights, x), y).mean(1)
                losses = setting.noise * losses + (1 - setting.noise) * everything
            # Replicates share no weights, so each gets its own gradient from the sum.
            losses.sum().backward()
            if watch is not None:
                watch(weights)
            stepper.step()
        yield weights


def tensors(data: Split, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Samples (N, F) and classes (N,) on a device."""
    return torch.from_numpy(data.x).to(device), torch.from_numpy(data.y).to(device)


@torch.no_grad()
def evaluate(network: Network, weights: Weights, data: Split) -> Scores:
    """Score every replicate on the samples; scores are means over samples."""
    x, y = tensors(data, next(iter(weights.values())).device)
    logits = network.logits(weights, x)
    return Scores(
        loss=sample_losses(logits, y).double().mean(1).cpu(),
        accuracy=(logits.argmax(-1) == y).double().mean(1).cpu(),
    )


@dataclass(frozen=True)
class Group:
    """Replicates `first` to `first + size - 1` of a setting, trained together."""

    setting: RunConfig
    first: int
    size: int
    train_curve: bool = True  # compute the train loss after every epoch, or only the last


def train_curves(data: Dataset, group: Group) -> Result:
    """Train a group without using the test set.

    Returns:
        `validation_loss_nats` and `validation_accuracy_share`, each (R, epochs + 1), from before
        training to after the last epoch; `train_loss_nats` likewise, or (R, 1) after the last epoch
        if `train_curve` is false; and the last weights, see `taken_apart`.

    """
    network, epochs = group.setting.network(data.train), group.setting.epochs
    replicates = range(group.first, group.first + group.size)
    curves: dict[str, list[Tensor]] = defaultdict(list)
    trained = progress.bar(
        train(group.setting, network, data.train, replicates),
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
        **{f"{WEIGHTS}{name}": tensor.detach().cpu() for name, tensor in weights.items()},
    }


def train_group(data: Dataset, group: Group) -> Result:
    """Train a group and score it on the test set.

    Returns:
        What `train_curves` returns; and `test_loss_nats` and `test_accuracy_share` (R,) after the
        last epoch. The test set is used nowhere else.

    """
    result = train_curves(data, group)
    weights = {
        name: weight.to(group.setting.device) for name, weight in taken_apart(result)[0].items()
    }
    test = evaluate(group.setting.network(data.train), weights, data.test)
    return {**result, "test_loss_nats": test.loss, "test_accuracy_share": test.accuracy}


def taken_apart(result: Result) -> tuple[Weights, dict[str, NDArray[np.float64]]]:
    """Split a result of `train_curves` or `train_group` into its weights and its other arrays."""
    weights = {
        name.removeprefix(WEIGHTS): tensor
        for name, tensor in result.items()
        if name.startswith(WEIGHTS)
    }
    others = {name: t.numpy() for name, t in result.items() if not name.startswith(WEIGHTS)}
    return weights, others
