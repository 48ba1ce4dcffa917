"""Training: networks and optimizers for many replicates at once, the search, worker processes."""
