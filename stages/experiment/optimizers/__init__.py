"""The optimizers, one module each. Add yours here and name it in an arm of a study.

A module defines a function `create(params, *, lr, ...)` that returns a `torch.optim.Optimizer`, or
a list of them. It is called once per replicate, with the parameters of that replicate. The global
random generators that it draws from are the replicate's own.

If the module sets `STACKED = True`, it gets all replicates at once, stacked along the first axis of
every parameter, and must keep them apart. That is faster, and correct for any element-wise
optimizer.
"""
