"""Best rank-k approximation of square matrices ``(..., n, n)``: pure functions of tensors."""

import torch
from torch import Tensor


def svd(matrix: Tensor, rank: int) -> Tensor:
    """Rank-``rank`` approximation through a full singular value decomposition."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]


def gram(matrix: Tensor, rank: int) -> Tensor:
    """Rank-``rank`` approximation through the eigenvectors of the Gram matrix."""
    _, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    leading = vectors[..., -rank:]
    return (matrix @ leading) @ leading.mT
