"""Adam on gradients that are changed otherwise than LRG-Adam does: the controls of the experiment.

Each control asks "is it really the top subspace of this matrix that matters?" by changing one
thing; it is a module of `experiment.optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from experiment.arithmetic import matmul
from experiment.randomness import stream
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


def streams(weights: Tensor, name: str) -> list[np.random.Generator]:
    """A random stream for each replicate, fixed by its initial weights (R, ...) and by `name`.

    So a replicate draws the same, however many train beside it, and another one otherwise.
    """
    return [stream(crc32(one.numpy().tobytes()), name) for one in weights.detach().cpu()]


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (R, n), ascending, and eigenvectors (R, n, n) of G^T G for matrices (R, n, n).

    In float32; each matrix is scaled to entries of at most 1 first, so the eigenvalues are
    relative to its largest entry. Those of a matrix that is not finite are NaN.
    """
    largest = matrix.abs().amax((-2, -1), keepdim=True)
    good = largest.isfinite()
    scaled = (matrix / largest.clamp(min=1e-30)).where(good, 0)
    gram = matmul(scaled.mT, scaled)
    try:
        values, vectors = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # seen where a training has all but diverged
        values, vectors = (part.float() for part in torch.linalg.eigh(gram.double()))
    return values.where(good[..., 0], torch.nan), vectors.where(good, torch.nan)


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Best approximations of rank `rank` of the matrices (R, n, n), by eigenvectors of G^T G.

    In float32, and with no proof attempted: a control's spectrum may be too flat for one.
    """
    return projected(matrix, spectrum(matrix)[1][..., -rank:])


def projected(matrix: Tensor, basis: Tensor) -> Tensor:
    """The rows of the matrices (R, n, n) projected onto bases (R, n, k): G V V^T."""
    return matmul(matmul(matrix, basis), basis.mT)
