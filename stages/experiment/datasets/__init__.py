"""The data sets, one module each. Add yours here and set `data.name` in params.yaml to its name.

A module defines a function `load` that returns an `experiment.stage.data.Dataset`: training,
validation and test samples. x is float32 with one row per sample; y is int64, with classes from 0
to C - 1. `load` may take `rng`, a NumPy generator fixed by the seed, and any key under `data` in
params.yaml. It may read files in data/source: after a change there, `dvc repro` loads the data
again.
`TITLE`, the name of the data set in figures, is optional. Nothing else needs to know the data set:
its shapes, classes and rows follow from what `load` returns.
"""
