"""Networks with many independent replicates in one set of tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

from experiment.stage import plugins
from experiment.stage.errors import UserError
from experiment.stage.params import Model

Weights = dict[str, Tensor]

STACKABLE = (
    "a torch.nn.Module of samples (B, inputs) that returns class scores (B, classes), draws "
    "nothing at random, and keeps no statistics: LayerNorm or GroupNorm instead of BatchNorm, "
    "no dropout"
)


class Network(ABC):
    """A network whose weights are stacked along a leading replicate axis.

    Attributes:
        shapes: of one replicate's trained weights, by name.

    """

    shapes: dict[str, tuple[int, ...]]

    @property
    def matrix_side(self) -> int:
        """Side n of the smallest square matrix that holds one replicate's gradient."""
        return math.isqrt(sum(map(math.prod, self.shapes.values())) - 1) + 1

    @abstractmethod
    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one replicate from each stream; every weight is (R, ...), replicates first.

        Tensors whose names are not in `shapes` belong to the network and are not trained.
        """

    @abstractmethod
    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Class scores (R, B, C) of the samples x: (R, B, F), or (B, F) for all replicates."""


class StackedNetwork(Network):
    """A network of linear layers and convolutions, written for stacked weights.

    Replicate r computes what the layers of `torch.nn` would with its slices `weight[r]` and
    `bias[r]`; one batched operation serves all replicates.
    """

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw weights in the distribution of torch's own layers.

        Returns:
            Float32, uniform within 1 / sqrt(fan-in) of zero.

        """
        weights: Weights = {}
        for name, shape in self.shapes.items():
            unit = self.shapes[name.removesuffix("bias").removesuffix("weight") + "weight"]
            bound = 1 / math.sqrt(math.prod(unit[1:]))
            drawn = np.stack([s.uniform(-bound, bound, shape) for s in streams])
            weights[name] = torch.from_numpy(drawn).float()
        return weights


class ModuleNetwork(Network):
    """Any `torch.nn.Module`, stacked by `torch.func`.

    Up to rounding, a replicate equals the same module trained alone. It uses torch's own products,
    whose last bits may differ between processors.

    Args:
        create: makes the module; it draws initial weights from torch's global generator, which is
            seeded from the stream of a replicate and restored afterwards.

    """

    def __init__(self, create: Callable[[], nn.Module]) -> None:
        self._create = create
        module = self.drawn(np.random.default_rng(0))
        self.shapes = {
            name: tuple(weight.shape)
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self._module = module.to("meta")

    def drawn(self, stream: np.random.Generator) -> nn.Module:
        """The module of one replicate; torch's global generator stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream.integers(2**63)))
            return self._create()

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one module from each stream; its buffers follow its parameters."""
        modules = [self.drawn(stream) for stream in streams]
        parameters, buffers = stack_module_state(modules)
        return {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""

        def one(own: Weights, samples: Tensor) -> Tensor:
            return cast(Tensor, functional_call(self._module, own, (samples,)))

        return torch.vmap(one, in_dims=(0, 0 if x.ndim == 3 else None))(weights, x)


def build(name: str, options: Mapping[str, Any], inputs: int, classes: int) -> Network:
    """The network that a module of `experiment.networks` makes.

    Args:
        name: name of the module.
        options: the keys under `model` in params.yaml; the module gets those that it takes.
        inputs: numbers per sample.
        classes: number of classes.

    Raises:
        UserError: there is no such module, it does not take the options, or its network cannot be
            stacked.

    """
    module = plugins.module("networks", name, "params.yaml: model.name")
    create = plugins.function("networks", name, module)
    given = plugins.arguments(
        create, options, Model.model_fields, "params.yaml: model", inputs, classes
    )
    where = f"stages/experiment/networks/{name}.py"
    try:
        with torch.random.fork_rng(devices=[]):
            made = create(inputs, classes, **given)
    except ValueError as error:
        raise UserError(
            f"{where} refuses {inputs} inputs and {classes} classes with {given}: {error}; "
            "allowed: what it takes"
        ) from None
    if isinstance(made, Network):
        return made
    if not isinstance(made, nn.Module):
        raise UserError(f"{where} makes a {type(made).__name__}; allowed: {STACKABLE}")
    if not any(weight.requires_grad for weight in made.parameters()):
        raise UserError(f"{where} has nothing to train; allowed: {STACKABLE}")
    network = ModuleNetwork(lambda: create(inputs, classes, **given))
    try:
        _try_out(network, inputs, classes, where)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where} with {given}: {reason[:300]}; allowed: {STACKABLE}") from None
    return network


@torch.no_grad()
def _try_out(network: ModuleNetwork, inputs: int, classes: int, where: str) -> None:
    """Raise UserError if the stacked modules do not compute what each does alone."""
    x = torch.randn(3, inputs, generator=torch.Generator().manual_seed(0))
    scores = network.logits(network.initial_weights([np.random.default_rng(s) for s in (0, 1)]), x)
    if scores.shape != (2, 3, classes):
        raise UserError(
            f"{where} returns scores of shape {tuple(scores.shape[1:])} for 3 samples; "
            f"allowed: (3, {classes})"
        )
    for stacked, seed in zip(scores, (0, 1), strict=True):
        alone = network.drawn(np.random.default_rng(seed))
        before = {name: buffer.clone() for name, buffer in alone.named_buffers()}
        expected = alone(x)
        for name, buffer in alone.named_buffers():
            if not torch.equal(buffer, before[name]):
                raise UserError(f"{where} changes its buffer {name}; allowed: {STACKABLE}")
        if not torch.allclose(stacked, expected, rtol=1e-3, atol=1e-4):
            raise UserError(
                f"{where} gives other scores in a stack than alone, as with a tensor that is "
                f"neither parameter nor buffer; allowed: {STACKABLE}"
            )


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (R, B) in nats of logits (R, B, C) for classes y, (R, B) or (B,)."""
    classes = y.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(
        logits.shape[:-1]
    )
