"""Optimizers for stacked replicates: those that keep them apart, and any other torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import Parameter, signature
from textwrap import shorten
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from experiment.stage import plugins
from experiment.stage.errors import UserError
from experiment.stage.randomness import stream
from experiment.training.network import Network

Hyperparameters = Mapping[str, Any]


class Stepper(Protocol):
    """What the training loop needs from an optimizer."""

    def step(self) -> object:
        """Update the weights from their `.grad`."""


def create(
    name: str, weights: Sequence[Tensor], hyperparameters: Hyperparameters, where: str
) -> Stepper:
    """An optimizer for stacked weights, each (R, ...).

    Args:
        name: a module in `experiment.optimizers`, or the dotted name of a class or function that
            takes `(params, lr=...)`, such as `torch.optim.RMSprop`.
        weights: the trained weights.
        hyperparameters: its keyword arguments, `lr` among them.
        where: the key whose value is the name, for messages.

    Raises:
        UserError: there is no such optimizer.

    """
    if "." in name:
        return PerReplicate(_imported(name, where), weights, hyperparameters)
    module = plugins.module("optimizers", name, where)
    make = plugins.function("optimizers", name, module)
    if getattr(module, "STACKED", False):
        stacked: Stepper = make(weights, **hyperparameters)
        return stacked
    return PerReplicate(make, weights, hyperparameters)


def _imported(name: str, where: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} = {name!r}; allowed: a module in stages/experiment/optimizers, or the dotted "
            f"name of a class, such as torch.optim.RMSprop ({error})"
        ) from None
    return found


class PerReplicate:
    """A separate optimizer for each replicate, on views of its slices of the stacked weights.

    Each replicate is therefore trained as if alone, whatever its optimizer does.

    Args:
        make: called with the parameters of one replicate; it returns an optimizer, or a list of
            optimizers that divide the parameters among them.
        weights: each (R, ...).
        hyperparameters: further arguments of `make`.

    """

    def __init__(
        self,
        make: Callable[..., Any],
        weights: Sequence[Tensor],
        hyperparameters: Hyperparameters,
    ) -> None:
        self._weights = weights
        self._parameters = [
            [nn.Parameter(weight.detach()[r]) for weight in weights] for r in range(len(weights[0]))
        ]
        self._optimizers: list[torch.optim.Optimizer] = []
        for parameters in self._parameters:
            made = make(parameters, **hyperparameters)
            self._optimizers += made if isinstance(made, list) else [made]
        for optimizer in self._optimizers:
            step = signature(optimizer.step).parameters
            closure = step.get("closure")
            if closure is not None and closure.default is Parameter.empty:
                raise TypeError(f"{type(optimizer).__name__} needs a closure at each step")

    def step(self) -> None:
        """Take the step of every replicate."""
        for r, parameters in enumerate(self._parameters):
            for parameter, weight in zip(parameters, self._weights, strict=True):
                parameter.grad = None if weight.grad is None else weight.grad[r]
        for optimizer in self._optimizers:
            optimizer.step()


def check(name: str, hyperparameters: Hyperparameters, network: Network, where: str) -> None:
    """Reject an optimizer or hyperparameters that cannot train the network, before training.

    Args:
        name: of the optimizer, as for `create`.
        hyperparameters: its keyword arguments, `lr` among them.
        network: what to train.
        where: the key of the hyperparameters, for messages.

    Raises:
        UserError: the message names the rank, or all hyperparameters if the optimizer refused them.

    """
    given = {key: value for key, value in hyperparameters.items() if key != "lr"}
    rank = given.get("rank")
    if isinstance(rank, int) and not 1 <= rank <= network.matrix_side:
        raise UserError(
            f"{where}.rank = {rank}; allowed: a whole number from 1 to "
            f"{network.matrix_side} (the side of the gradient matrix)"
        )
    drawn = network.initial_weights([stream(0, "check")])
    weights = [drawn[weight].requires_grad_() for weight in network.shapes]
    for weight in weights:
        weight.grad = weight.detach().clone()  # any gradient will do
    try:
        # Some arguments are checked only at the first step.
        create(name, weights, hyperparameters, where).step()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        reason = shorten(str(error), width=300)
        raise UserError(
            f"{where} = {given}; allowed: what {name} takes, for dense gradients "
            f"and without a closure ({reason})"
        ) from None
