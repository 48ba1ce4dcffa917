"""The benchmark: what a step costs, and how fast the pipeline is."""
