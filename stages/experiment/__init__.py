"""The experiment: shared stage code, training, reports, and the rooms for your own modules.

Every process imports this first, and with it the settings of `experiment.stage`.
"""

import experiment.stage  # noqa: F401
