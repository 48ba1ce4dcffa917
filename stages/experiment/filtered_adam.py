"""Adam on gradients that are changed otherwise than LRG-Adam does: the controls of the experiment.

Each control asks "is it really the top subspace of this matrix that matters?" by changing one
thing; it is a module of `experiment.optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lrg_adam.flatten import from_square, to_square


class FilteredAdam(torch.optim.Adam):
    """Adam on gradients that a filter has changed, for replicates stacked along the first axis.

    Args:
        weights: each (R, ...), a replicate an entry of the first axis.
        lr: learning rate.
        gradient_filter: takes the gradient matrices (R, n, n), n * n the smallest square with room
            for the weights of a replicate, the rest zero; returns as many of the same shape.

    """

    def __init__(
        self, weights: Iterable[Tensor], *, lr: float, gradient_filter: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(weights, lr=lr, fused=True)
        self._filter = gradient_filter

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Filter the gradients, then take Adam's step."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights]
        filtered = self._filter(to_square(gradients, 1, torch.float32)).contiguous()
        for weight, gradient in zip(weights, from_square(filtered, gradients, 1), strict=True):
            # torch's fused Adam ignores the strides of a gradient.
            weight.grad = gradient.contiguous()
        super().step(closure)


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Best approximations of rank `rank` of the matrices (R, n, n), by eigenvectors of G^T G.

    In float32, and with no proof attempted: a control's spectrum may be too flat for one.
    """
    basis = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[..., -rank:]
    return (matrix @ basis) @ basis.mT
