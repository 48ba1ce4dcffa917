"""The randomized approximation of gradients that stay sharded across processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from . import low_rank
from .flatten import resembling, square_side


def can_stay_sharded(grads: Sequence[Tensor]) -> bool:
    """Whether all DTensors share one mesh with one axis, sharded by dimension 0 or replicated."""
    shards = [g for g in grads if isinstance(g, DTensor)]
    return len({g.device_mesh for g in shards}) == 1 and all(
        g.device_mesh.ndim == 1 and g.placements[0] in (Shard(0), Replicate()) for g in shards
    )


class ShardedMatrix:
    """The matrix of :func:`lrg_adam.flatten.to_square`, as a sum over processes.

    A shard is a contiguous range of the flat vector, so it lies in consecutive rows. Each process
    holds the rows that its shards touch, zero where it has nothing to add. It also holds row 0,
    because every process checks the first entry of the approximation for finiteness. All processes
    hold the rows of replicated and plain tensors, but only the first one adds their entries.
    """

    def __init__(self, grads: Sequence[Tensor], dtype: torch.dtype) -> None:
        mesh, device = next((g.device_mesh, g.device) for g in grads if isinstance(g, DTensor))
        rank = mesh.get_local_rank()
        n = square_side(sum(g.numel() for g in grads))
        self._group = mesh.get_group()
        self._grads = grads
        self._parts = [g.to_local() if isinstance(g, DTensor) else g for g in grads]

        starts, end = [], 0
        for g, part in zip(grads, self._parts, strict=True):
            skipped = 0
            if _is_shard(g):  # split as by torch.chunk
                skipped = rank * -(-len(g) // mesh.size()) * g.shape[1:].numel()
            starts.append(end + skipped if part.numel() > 0 else 0)
            end += g.numel()
        spans = [(a, a + part.numel()) for a, part in zip(starts, self._parts, strict=True)]
        rows = sorted({0}.union(*(range(a // n, -(-b // n)) for a, b in spans)))
        shift = {row: n * (index - row) for index, row in enumerate(rows)}
        self._slices = [slice(a + shift[a // n], b + shift[a // n]) for a, b in spans]
        self._rows = torch.tensor(rows, device=device)
        self._held = torch.zeros(len(rows), n, dtype=dtype, device=device)
        for g, part, where in zip(grads, self._parts, self._slices, strict=True):
            if rank == 0 or _is_shard(g):
                self._held.view(-1)[where] = part.reshape(-1)

    def randomized(
        self, k: int, iterations: int, seed: int, step: int | Tensor
    ) -> low_rank.Approximation:
        """Do what :func:`lrg_adam.low_rank.randomized` does, with one all-reduce per product.

        Its ``matrix`` has only the rows that this process holds, and takes their place.
        """
        n = self._held.shape[1]
        signs = low_rank.random_signs(n, min(k + low_rank.OVERSAMPLING, n), seed, step, self._held)
        left, right, energy = low_rank.ritz_factors(
            self._times, self._transposed_times, signs, k, iterations
        )
        torch.mm(left[self._rows], right.mT, out=self._held)
        return low_rank.Approximation(self._held, energy)

    def squared_norm(self) -> Tensor:
        """Do what :func:`lrg_adam.low_rank.squared_norm` does; each entry is on one process."""
        return self._sum(low_rank.squared_norm(self._held))

    def pieces(self, held: Tensor) -> list[Tensor]:
        """Cut what :meth:`randomized` returned into tensors sharded like the gradients."""
        result = []
        for g, part, where in zip(self._grads, self._parts, self._slices, strict=True):
            piece = resembling(held.view(-1)[where], part)
            if isinstance(g, DTensor):
                piece = DTensor.from_local(
                    piece, g.device_mesh, g.placements, shape=g.shape, stride=g.stride()
                )
            result.append(piece)
        return result

    def _times(self, v: Tensor) -> Tensor:
        return self._sum(torch.zeros_like(v).index_copy_(0, self._rows, self._held @ v))

    def _transposed_times(self, q: Tensor) -> Tensor:
        return self._sum(self._held.mT @ q[self._rows])

    def _sum(self, term: Tensor) -> Tensor:
        torch.distributed.all_reduce(term, group=self._group)
        return term


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor that all processes have as ``like`` is, if that is a DTensor."""
    if not isinstance(like, DTensor):
        return whole
    # Without a source rank nothing is communicated: each process cuts its own shard.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _is_shard(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and tensor.placements[0].is_shard()
