"""The experiment: shared stage code, training, reports, and packages for your own modules.

Every process imports this first, which applies the settings of `experiment.stage`.
"""

import experiment.stage  # noqa: F401
