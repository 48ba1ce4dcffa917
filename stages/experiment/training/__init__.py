"""Training: networks and optimizers for many replicates at once, the search, the processes."""
