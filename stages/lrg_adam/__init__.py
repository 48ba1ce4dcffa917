"""Adam on the best rank-k approximation of the whole gradient."""

from .optimizer import LRGAdam, MatrixInfo

__all__ = ["LRGAdam", "MatrixInfo"]
