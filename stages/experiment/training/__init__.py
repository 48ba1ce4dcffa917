"""Training: networks and optimizers for many replicates at once, the search, worker processes."""

from experiment.stage import environment

environment.prove()
