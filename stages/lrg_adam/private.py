"""The private names of torch that this package uses, each with the reason."""

from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import _use_grad_for_differentiable

__all__ = ["is_flattened", "uncompiled", "with_grad_if_differentiable"]

# The filter is not compiled: decompositions are not, and it sets autocast and precision aside. The
# public torch.compiler.disable loads the compiler, which takes seconds, where it decorates.
uncompiled = _disable_dynamo

# The step is without gradients unless differentiable=True, and the compiler breaks its graph at its
# ends, as in Adam.step. Under torch.no_grad alone the compiler copies every parameter.
with_grad_if_differentiable = _use_grad_for_differentiable


def is_flattened(param: Tensor) -> bool:
    """Whether the parameter is a part of what FullyShardedDataParallel has laid end to end.

    Nothing public tells such a part, with ``use_orig_params=True``, from another parameter.
    """
    return getattr(param, "_fsdp_flattened", False)
