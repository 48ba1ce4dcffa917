"""Run a stage: python stages NAME [ARGUMENT ...].

NAME is a module in stages, such as `tune`, or in a package there, such as `studies.training.arm`.
The arguments are passed to its function `main`.
"""

import sys

from experiment.stage import run

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    run(*sys.argv[1:])
