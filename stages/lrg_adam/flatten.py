"""Convert between a list of gradients and the square matrix, or stack of them, to filter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def square_side(numel: int) -> int:
    """Side of the smallest square matrix with room for ``numel`` entries."""
    return math.isqrt(numel - 1) + 1 if numel > 0 else 0


def to_square(tensors: Sequence[Tensor], batch_dims: int, dtype: torch.dtype) -> Tensor:
    """Lay tensors ``(*batch, ...)`` end to end in the rows of one zero-padded square matrix.

    ``batch`` has ``batch_dims`` axes. The result is a new tensor ``(*batch, n, n)`` with the
    smallest ``n`` that has room.
    """
    first = tensors[0]
    batch = first.shape[:batch_dims]
    pieces = [t.reshape(*batch, t.shape[batch_dims:].numel()).to(first.device) for t in tensors]
    numel = sum(piece.shape[-1] for piece in pieces)
    side = square_side(numel)
    pieces.append(first.new_zeros(*batch, side * side - numel))
    return torch.cat(pieces, dim=-1).to(dtype).view(*batch, side, side)


def from_square(matrix: Tensor, like: Sequence[Tensor], batch_dims: int) -> list[Tensor]:
    """Undo :func:`to_square` for a contiguous matrix; for ``like`` see :func:`resembling`."""
    sizes = [t.shape[batch_dims:].numel() for t in like]
    pieces = torch.split(matrix.flatten(-2)[..., : sum(sizes)], sizes, dim=-1)
    return [resembling(piece, t) for piece, t in zip(pieces, like, strict=True)]


def resembling(tensor: Tensor, like: Tensor) -> Tensor:
    """Give ``tensor`` the shape, dtype, device and strides of ``like``, as a view if possible.

    Values too large for a narrower dtype are clamped to its range. The strides matter: on the CPU,
    fused Adam assumes that a gradient has the strides of its parameter.
    """
    limit = torch.finfo(like.dtype).max
    if limit < torch.finfo(tensor.dtype).max:
        # A filtered entry may exceed every original entry, and must not become inf.
        tensor = tensor.clamp(-limit, limit)
    tensor = tensor.reshape(like.shape).to(like)
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like).copy_(tensor)
