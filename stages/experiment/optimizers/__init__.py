"""The optimizers that can be trained with, a module each, found by its name.

A module has one function, `create(weights, *, lr, ...)`, that takes the stacked weights and the
hyperparameters and returns a `torch.optim.Optimizer`. Every weight has the replicates as its first
axis: an optimizer that is not elementwise has to keep them apart. To compare another optimizer,
add its module here and describe an arm of the studies that uses it in params.yaml; nothing that
uses other modules runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from experiment.errors import UserError

Weights = Iterable[Tensor]


def factory(name: str) -> Callable[..., torch.optim.Optimizer]:
    """What creates the optimizer `name`."""
    module = f"{__name__}.{name}"
    if not name.isidentifier() or find_spec(module) is None:
        raise UserError(f"no optimizer {name}: there is no stages/experiment/optimizers/{name}.py")
    return import_module(module).create
