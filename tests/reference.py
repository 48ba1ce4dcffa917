"""The published step of LRG-Adam, written literally: the oracle of the tests.

Slow on purpose. Nothing here is shared with the package under test.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def low_rank_gradients(gradients: list[Tensor], rank: int) -> list[Tensor]:
    """Replace the joint gradient by its best approximation of rank ``rank``."""
    # 1. Collect and flatten all gradients, in parameter order, into one vector.
    vector = torch.cat([gradient.reshape(-1) for gradient in gradients]).double()

    # 2. Pad with zeros to the next square and view as an n x n matrix.
    side = math.ceil(math.sqrt(len(vector)))
    padded = torch.zeros(side * side, dtype=torch.float64)
    padded[: len(vector)] = vector
    matrix = padded.reshape(side, side)

    # 3. Singular value decomposition; keep the leading `rank` terms.
    u, s, vh = torch.linalg.svd(matrix)
    matrix = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank, :]

    # 4. Flatten back and restore the shapes.
    vector = matrix.reshape(-1)
    result = []
    for gradient in gradients:
        head, vector = vector[: gradient.numel()], vector[gradient.numel() :]
        result.append(head.reshape(gradient.shape).to(gradient.dtype))
    return result


class ReferenceLRGAdam:
    """``torch.optim.Adam`` on low-rank gradients."""

    def __init__(self, params: Iterable[Tensor], rank: int, **adam_options: object) -> None:
        self.params = list(params)
        self.rank = rank
        self.adam = torch.optim.Adam(self.params, **adam_options)

    def step(self) -> None:
        """Take one step."""
        gradients = low_rank_gradients([p.grad for p in self.params], self.rank)
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
        # 5. The step of Adam.
        self.adam.step()
