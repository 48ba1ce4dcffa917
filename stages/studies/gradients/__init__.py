"""What truncation does to gradients along the trajectory of an arm."""
