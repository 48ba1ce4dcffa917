"""The private names of torch that LRGAdam uses, each with the reason; no other module has any.

A name that some versions lack is looked for by itself, not by a version number.
"""

from collections.abc import Callable

from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Adam
from torch.optim.optimizer import _use_grad_for_differentiable

__all__ = [
    "check_graph_capture",
    "init_group",
    "is_flattened",
    "uncompiled",
    "with_grad_if_differentiable",
]

# Loading is not to be compiled, as in Optimizer.load_state_dict. The public torch.compiler.disable
# loads the compiler, which takes seconds, where it decorates.
uncompiled = _disable_dynamo

# The step is without gradients unless differentiable=True, and the compiler breaks its graph at its
# ends, as in Adam.step. Under torch.no_grad alone the compiler copies every parameter.
with_grad_if_differentiable = _use_grad_for_differentiable

# Adam's own state, and the lists that the public torch.optim.adam.adam takes. Adam.step, the public
# way to both, runs the step hooks of the optimizer, which has run them.
init_group: Callable[..., bool] = Adam._init_group

# The error of Adam.step if a graph is captured without capturable=True. torch 2.8 knows it for CUDA
# alone, by another name.
check_graph_capture = (
    Adam._accelerator_graph_capture_health_check
    if hasattr(Adam, "_accelerator_graph_capture_health_check")
    else Adam._cuda_graph_capture_health_check
)


def is_flattened(param: Tensor) -> bool:
    """Whether the parameter is a part of what FullyShardedDataParallel has laid end to end.

    Nothing public tells such a part, with ``use_orig_params=True``, from another parameter.
    """
    return getattr(param, "_fsdp_flattened", False)
