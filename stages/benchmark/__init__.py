"""What the stages of the benchmark share: contenders, gradients, timing."""
