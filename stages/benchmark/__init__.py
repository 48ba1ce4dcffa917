"""The benchmark: what a step costs."""
