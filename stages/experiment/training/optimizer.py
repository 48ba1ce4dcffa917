"""Optimizers for stacked replicates: one for the whole stack, or one for each replicate."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from experiment.stage import plugins
from experiment.stage.errors import UserError, reason
from experiment.stage.randomness import stream
from experiment.training.generators import Generators
from experiment.training.network import Network

Hyperparameters = Mapping[str, Any]
# Factor on the learning rate at a step, counted from 0.
Schedule = Callable[[int], float]
# Computes `.grad` of the weights, of one replicate or of all (None), and returns the loss.
Gradient = Callable[[int | None], Tensor]

# Steps that `check` takes; an optimizer may leave the weights as they are in some of them.
TRIAL_STEPS = 10


def schedule(shape: str, warmup: float, steps: int) -> Schedule | None:
    """The factor on the learning rate at each step; None if it is always 1.

    It rises linearly to 1 in the share `warmup` of the steps. From there it stays (`constant`) or
    falls to 0 at the end of the last step (`cosine`, `linear`).
    """
    rising = round(warmup * steps)
    if shape == "constant" and rising == 0:
        return None

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(steps - rising, 1)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return {"constant": 1, "linear": 1 - done, "cosine": cosine}[shape]

    return factor


def create(
    name: str,
    weights: Sequence[Tensor],
    hyperparameters: Hyperparameters,
    where: str,
    streams: Mapping[int, np.random.Generator],
    factor: Schedule | None = None,
) -> list[Stepper]:
    """Optimizers for stacked weights, each (R, ...).

    The name is that of a module in `experiment.optimizers`, or the dotted name of a class or
    function that takes `(params, lr=...)`, such as `torch.optim.RMSprop`; `where` is the key that
    has this value, for messages. The streams belong to the numbers of the replicates.

    Raises:
        UserError: there is no such optimizer.

    """
    make, stacked = _found(name, where)
    numbers: list[Any] = [list(streams)] if stacked else list(streams)
    return [
        Stepper(
            f"{name} with {dict(hyperparameters)}: replicate {number}",
            partial(make, **hyperparameters),
            weights,
            None if stacked else position,
            Generators(int(own.integers(2**63))),
            factor,
        )
        for position, (number, own) in enumerate(zip(numbers, streams.values(), strict=False))
    ]


def _found(name: str, where: str) -> tuple[Callable[..., Any], bool]:
    """What makes an optimizer, and whether it takes stacked weights."""
    if "." in name:
        return imported(name, where), False
    module = plugins.module("optimizers", name, where)
    return module.create, getattr(module, "STACKED", False)


def imported(name: str, where: str) -> Callable[..., Any]:
    """The class or function with a dotted name; UserError if there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except Exception as error:
        raise UserError(
            f"{where} = {name!r}; allowed: a module in stages/experiment/optimizers, or the dotted "
            f"name of a class, such as torch.optim.RMSprop ({reason(error)})"
        ) from None
    return found


def needs_closure(optimizer: Any) -> bool:  # noqa: ANN401 - anything with a step
    """Whether each step computes the loss and the gradient itself, as that of LBFGS does."""
    closure = signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is Parameter.empty


class Stepper:
    """An optimizer of all replicates together, or of one, on views of its slices of the weights.

    A replicate with an optimizer of its own is trained as if alone, whatever that optimizer does.
    """

    def __init__(
        self,
        description: str,
        make: Callable[[Sequence[Tensor]], Any],  # returns an optimizer, or a list of them
        weights: Sequence[Tensor],  # each (R, ...)
        replicate: int | None,  # its position; None for all
        generators: Generators,  # which the optimizer draws from
        factor: Schedule | None,
    ) -> None:
        self._description = description
        self._weights = weights
        self._replicate = replicate
        self._own = ... if replicate is None else replicate  # its part of each weight
        self._generators = generators
        self._views = [weight.detach()[self._own] for weight in weights]
        self._parameters = [nn.Parameter(view) for view in self._views]
        with generators.active():
            made = make(self._parameters)
        self._optimizers = made if isinstance(made, list) else [made]
        for optimizer in self._optimizers:
            if not callable(getattr(optimizer, "step", None)):
                raise TypeError(f"a {type(optimizer).__name__} is made, which is no optimizer")
        self.needs_closure = any(map(needs_closure, self._optimizers))
        self._schedules = [LambdaLR(one, factor) for one in self._optimizers] if factor else []
        self._failed = False

    def step(self, gradient: Gradient) -> None:
        """Update the weights from their `.grad`, or with `gradient` if the optimizer needs it.

        If the optimizer fails, they become NaN, as those that diverge.
        """
        if self._failed:
            return
        try:
            self.try_step(gradient)
        except UserError:
            raise
        except Exception as error:
            self._failed = True
            for view in self._views:
                view.fill_(torch.nan)
            print(f"{self._description} counts as diverged: {reason(error)}", file=sys.stderr)

    def try_step(self, gradient: Gradient) -> None:
        """Update the weights, or raise what the optimizer raises."""

        @torch.enable_grad()
        def closure() -> Tensor:
            self._write_back()
            loss = gradient(self._replicate)
            self._read_gradients()
            return loss

        self._read_gradients()
        with self._generators.active():
            for optimizer in self._optimizers:
                optimizer.step(*([closure] if self.needs_closure else []))
        self._write_back()
        for one in self._schedules:
            one.step()

    def _read_gradients(self) -> None:
        for parameter, weight in zip(self._parameters, self._weights, strict=True):
            parameter.grad = None if weight.grad is None else weight.grad[self._own]

    def _write_back(self) -> None:
        """Copy parameters whose memory the optimizer has replaced, as by `p.data = ...`."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.detach())


def check(
    name: str,
    hyperparameters: Hyperparameters,
    network: Network,
    where: str,
    *,
    scheduled: bool = False,
) -> None:
    """Reject an optimizer or hyperparameters that cannot train the network, before training.

    `where` is the section that sets them, for messages. The other arguments are those of `create`.
    """
    given = {key: value for key, value in hyperparameters.items() if key != "lr"}
    rank = given.get("rank")
    if isinstance(rank, int) and not 1 <= rank <= network.matrix_side:
        raise UserError(
            f"{where}.hyperparameters.rank = {rank}; allowed: a whole number from 1 to "
            f"{network.matrix_side} (the side of the gradient matrix)"
        )
    streams = {r: stream(r, "check") for r in range(2)}
    drawn = network.initial_weights(list(streams.values()))
    weights = [drawn[weight].requires_grad_() for weight in network.shapes]
    before = [weight.detach().clone() for weight in weights]

    def gradient(_: int | None = None) -> Tensor:
        # That of half the sum of squares; any other would do.
        for weight in weights:
            weight.grad = weight.detach().clone()
        return torch.cat([weight.detach().flatten() for weight in weights]).square().sum() / 2

    try:
        factor = schedule("linear", 0, TRIAL_STEPS) if scheduled else None
        steppers = create(name, weights, hyperparameters, f"{where}.optimizer", streams, factor)
        for _ in range(TRIAL_STEPS):  # some arguments are checked only at the first step
            gradient()
            for stepper in steppers:
                stepper.try_step(gradient)
        if all(map(torch.equal, weights, before)):
            raise ValueError(f"{TRIAL_STEPS} steps leave all parameters as they were")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{where}.hyperparameters = {given}; allowed: values of {_taken(name)} with which "
            f"{name} trains the network ({reason(error)})"
        ) from None


def _taken(name: str) -> str:
    """The names of an optimizer's arguments, except the parameters."""
    try:
        _, *others = signature(_found(name, "")[0]).parameters.values()
    except (TypeError, ValueError):
        return "hyperparameters"
    names = ["others" if one.kind is Parameter.VAR_KEYWORD else one.name for one in others]
    return ", ".join(names)
