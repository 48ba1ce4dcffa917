"""The private names of torch that this package uses, each with the reason."""

from torch._compile import _disable_dynamo
from torch.optim.optimizer import _use_grad_for_differentiable

# The filter is not compiled: decompositions are not, and it sets autocast and precision aside. The
# public torch.compiler.disable loads the compiler, which takes seconds, where it decorates.
uncompiled = _disable_dynamo

# The step is without gradients unless differentiable=True, and the compiler breaks its graph at its
# ends, as in Adam.step. Under torch.no_grad alone the compiler copies every parameter.
with_grad_if_differentiable = _use_grad_for_differentiable

# What FullyShardedDataParallel sets on parts of parameters; with use_orig_params=True, nothing
# public tells them from others.
FLATTENED = "_fsdp_flattened"
