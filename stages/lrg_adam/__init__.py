"""A low-rank filter of gradients for any optimizer, and Adam behind it."""

from .filter import truncate_grad_rank_
from .optimizer import LRGAdam

__all__ = ["LRGAdam", "truncate_grad_rank_"]
