"""Arithmetic on tensors that torch does slowly, or otherwise on every make of processor.

`experiment` holds torch to instructions that are the same on all of them. What is here makes good
what that costs, and what it does not reach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def sqrt(x: Tensor) -> Tensor:
    """Square roots, to the same bits on every processor, at most a unit in the last place off.

    `torch.sqrt` calls the vector mathematics of MKL, which no setting binds and which rounds in a
    way of its own on Intel's processors; so do torch's exponentials and logarithms. Roots and
    quotients of single numbers, which a reciprocal root is made of, are defined by IEEE 754.
    """
    return x.rsqrt().reciprocal()


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Products of stacked matrices, (R, m, k) and (R, k, n); no gradient flows through them.

    On the CPU they are NumPy's. Its BLAS can be held to AVX2 on every processor; torch's, MKL,
    gives the same bits on all of them with SSE2 alone, at two fifths of the speed.
    """
    if a.device.type != "cpu":
        return a.detach() @ b.detach()
    with np.errstate(all="ignore"):  # a training may diverge, and says so itself
        return torch.from_numpy(a.detach().numpy() @ b.detach().numpy())


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Stacked linear layers, x W^T + b for each replicate, by `matmul`.

    Args:
        x: (R, B, inputs).
        weight: (R, outputs, inputs).
        bias: (R, outputs).

    Returns:
        (R, B, outputs).

    """
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.mT).add_(bias.unsqueeze(-2))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = matmul(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, matmul(grad.mT, x), grad.sum(-2)
