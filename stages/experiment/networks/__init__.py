"""The networks, one module each. Add yours here and set `model.name` in params.yaml to its name.

A module defines a function `create(inputs, classes)` that returns an ordinary `torch.nn.Module`,
which takes samples (B, inputs) and returns class scores (B, classes). `create` may also take any
key under `model` in params.yaml.

`experiment.training.network` trains many replicates of the module at once if `torch.func` can stack
them. Modules with recurrent layers, dropout, batch statistics or Python numbers are trained one
replicate at a time, which is slower. `mlp`, `logistic` and `cnn` are stacked by hand instead: they
are faster and, unlike torch's own products, give the same bits on all x86-64 processors with AVX2.
"""
