# First of all, as in every process of the pipeline: it fixes the arithmetic before torch loads.
import experiment  # noqa: F401
