"""Adam on the best rank-k approximation of the whole gradient."""

from .optimizer import LRGAdam

__all__ = ["LRGAdam"]
