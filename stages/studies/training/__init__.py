"""The arms: their settings and their training."""
