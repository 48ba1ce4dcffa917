"""Networks with many independent replicates in one set of tensors."""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional
from torch.nn.parameter import is_lazy

from experiment.stage import plugins
from experiment.stage.data import Split
from experiment.stage.errors import UserError, reason
from experiment.stage.params import Model
from experiment.training import progress
from experiment.training.generators import Generators

Weights = dict[str, Tensor]


class Network(ABC):
    """A network whose weights are stacked along a leading replicate axis.

    Replicate r computes what the layers of `torch.nn` would with its slices `weight[r]` and
    `bias[r]`; one batched operation serves all replicates.

    Attributes:
        shapes: of one replicate's trained weights, by name.

    """

    shapes: dict[str, tuple[int, ...]]

    @property
    def matrix_side(self) -> int:
        """Side n of the smallest square matrix that holds one replicate's gradient."""
        return math.isqrt(sum(map(math.prod, self.shapes.values())) - 1) + 1

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one replicate from each stream, as torch's own layers do.

        Returns:
            The weights (R, ...), float32, uniform within 1 / sqrt(fan-in) of zero. Tensors whose
            names are not in `shapes` belong to the network and are not trained.

        """
        weights: Weights = {}
        for name, shape in self.shapes.items():
            unit = self.shapes[name.removesuffix("bias").removesuffix("weight") + "weight"]
            bound = 1 / math.sqrt(math.prod(unit[1:]))
            drawn = np.stack([s.uniform(-bound, bound, shape) for s in streams])
            weights[name] = torch.from_numpy(drawn).float()
        return weights

    @abstractmethod
    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Class scores (R, B, C) of the samples x: (R, B, F), or (B, F) for all replicates."""

    def training_logits(self, weights: Weights, x: Tensor, first: int = 0) -> Tensor:  # noqa: ARG002
        """`logits` as training needs them: with dropout, for example, and updated statistics.

        `first` is the position of the first replicate that the weights hold.
        """
        return self.logits(weights, x)


class ModuleNetwork(Network):
    """Any `torch.nn.Module` that `torch.func` can stack.

    Up to rounding, a replicate equals the same module trained alone. It uses torch's own products,
    whose last bits may differ between processors. What makes the module draws initial weights from
    the global generators, which are seeded from the stream of a replicate.
    """

    def __init__(self, create: Callable[[], nn.Module]) -> None:
        self._create = create
        self._module = self.drawn(np.random.default_rng(0))[0]
        self.shapes = {
            name: tuple(weight.shape)
            for name, weight in self._module.named_parameters()
            if weight.requires_grad
        }

    def drawn(self, stream: np.random.Generator) -> tuple[nn.Module, Generators]:
        """The module of one replicate, and the generators that it goes on drawing from."""
        generators = Generators(int(stream.integers(2**63)))
        with generators.active():
            return self._create(), generators

    def initial_weights(self, streams: Sequence[np.random.Generator]) -> Weights:
        """Draw one module from each stream; its buffers come after its parameters."""
        self._replicates = [self.drawn(stream) for stream in streams]
        parameters, buffers = stack_module_state([module for module, _ in self._replicates])
        return {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`."""

        def one(own: Weights, samples: Tensor) -> Tensor:
            return _called(self._module, own, samples)[0]

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return torch.vmap(one, in_dims=(0, 0 if x.ndim == 3 else None))(weights, x)


class SeparateNetwork(ModuleNetwork):
    """Any other `torch.nn.Module`, with one module for each replicate.

    A replicate has the bits of the same module trained alone: it draws from generators of its own,
    keeps its own statistics in its slices of the weights, and is evaluated in evaluation mode. The
    modules are those of the last call of `initial_weights`.
    """

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Network.logits`; nothing that the modules draw or change is kept."""
        copies = {name: weight.clone() for name, weight in weights.items()}
        replicates = [(module.eval(), copy.deepcopy(own)) for module, own in self._replicates]
        return _one_by_one(replicates, copies, x)

    def training_logits(self, weights: Weights, x: Tensor, first: int = 0) -> Tensor:
        """See `Network.training_logits`."""
        replicates = [(module.train(), own) for module, own in self._replicates[first:]]
        return _one_by_one(replicates, weights, x)


def _one_by_one(
    replicates: Sequence[tuple[nn.Module, Generators]], weights: Weights, x: Tensor
) -> Tensor:
    """Class scores of the first replicates, as many as the weights hold, which are updated."""
    # Gradients of the slices that unbind returns are stacked at once; it forbids writing.
    slices = {
        name: weight.unbind() if weight.requires_grad else list(weight)
        for name, weight in weights.items()
    }
    scores = []
    for r, parts in enumerate(zip(*slices.values(), strict=True)):
        module, generators = replicates[r]
        own = dict(zip(slices, parts, strict=True))
        with generators.active():
            found, buffers = _called(module, own, x if x.ndim == 2 else x[r])
        scores.append(found)
        for name, buffer in buffers.items():
            if buffer is not own[name]:
                own[name].copy_(buffer.detach())
    return torch.stack(scores)


class _WithBuffers(nn.Module):
    """A module that also returns its buffers, which it may have replaced by new ones."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Weights]:
        return self.module(x), dict(self.module.named_buffers())


def _called(module: nn.Module, own: Weights, x: Tensor) -> tuple[Tensor, Weights]:
    """The scores of a module with these weights, and its buffers after the call."""
    # Each place once, even where modules or tensors are shared: `functional_call` would not put a
    # tensor back in the place of another that a module has under two names.
    first: dict[int, str] = {}
    given = {
        f"module.{name}": own[first.setdefault(id(tensor), name)]
        for prefix, part in module.named_modules()
        for tensors in (part.named_parameters, part.named_buffers)
        for name, tensor in tensors(prefix, recurse=False, remove_duplicate=False)
    }
    return functional_call(_WithBuffers(module), given, (x,), tie_weights=False)


def build(name: str, options: Mapping[str, Any], data: Split) -> Network:
    """The network that a module of `experiment.networks` makes, tried on a few samples.

    A torch module is stacked if that gives what it computes alone. Of the options, the keys under
    `model` in params.yaml, it gets those that it takes.

    Raises:
        UserError: there is no such module, it does not take the options, or its network does not
            compute class scores.

    """
    module = plugins.module("networks", name, "params.yaml: model.name")
    create = module.create
    size = data.inputs, data.classes
    given = plugins.arguments(create, options, Model.model_fields, "params.yaml: model")
    where = f"stages/experiment/networks/{name}.py"
    samples = torch.from_numpy(data.x[:3])

    def complete() -> Any:  # noqa: ANN401 - what a user's code makes
        made = create(*size, **given)
        if isinstance(made, nn.Module) and any(map(is_lazy, made.parameters())):
            with torch.no_grad():
                made.eval()(samples)  # its layers learn their shapes
            made.train()
        return made

    try:
        with Generators(0).active():
            made = complete()
        if not isinstance(made, nn.Module | Network):
            raise TypeError(f"create returns {type(made).__name__}")
        network = made if isinstance(made, Network) else SeparateNetwork(complete)
        if not network.shapes:
            raise ValueError("it has nothing to train")
        expected = _results(network, samples)
        if (shape := tuple(expected[0].shape[1:])) != (len(samples), data.classes):
            raise ValueError(f"scores of shape {shape} for {len(samples)} samples")
    except Exception as error:
        raise UserError(
            f"{where} for {data.inputs} inputs and {data.classes} classes with {given}: "
            f"{reason(error)}; allowed: a torch.nn.Module that takes samples (B, inputs) and "
            "returns class scores (B, classes)"
        ) from None
    if made is network:
        return network
    stacked = ModuleNetwork(complete)
    try:
        for ours, alone in zip(_results(stacked, samples), expected, strict=True):
            if not torch.allclose(ours, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise ValueError("it would compute something else than alone")
    except Exception as error:
        progress.note(
            f"{where}: slower, one replicate at a time, as torch.func cannot stack it "
            f"({shorten(str(error), width=100)})"
        )
        return network
    return stacked


def _results(network: Network, x: Tensor) -> list[Tensor]:
    """What two replicates compute in a step and after it, on the samples (B, F)."""
    weights = network.initial_weights([np.random.default_rng(seed) for seed in (0, 1)])
    trained = [weights[name].requires_grad_() for name in network.shapes]
    scores = network.training_logits(weights, x.expand(2, *x.shape))
    gradients = torch.autograd.grad(scores.square().sum(), trained, materialize_grads=True)
    with torch.no_grad():
        return [scores, network.logits(weights, x), *gradients, *weights.values()]


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (R, B) in nats of logits (R, B, C) for classes y, (R, B) or (B,)."""
    classes = y.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(
        logits.shape[:-1]
    )
