"""What every stage needs: start and end, parameters, files and random streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from experiment.stage import environment  # First: torch and NumPy read them when they load.

# isort: split
# Before anything loads Matplotlib: the backend of a notebook works in its kernel alone.
os.environ["MPLBACKEND"] = "agg"

from experiment.stage import code, files, versions
from experiment.stage.errors import UserError


def run(name: str, *arguments: str) -> None:
    """Run the function `main` of the module `name` as a stage.

    A mistake that the user can fix ends the process with exit status 1 and without a traceback. So
    does an input that is edited while the stage runs: DVC records the inputs as they are when the
    stage ends, so a result of the old input would pass for one of the new input.
    """
    try:
        with files.unchanged(), code.unchanged():
            environment.prove()
            versions.check(name)
            _main(name)(*arguments)
    except UserError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
    except KeyboardInterrupt:
        print("\ninterrupted: `dvc repro` goes on from the finished tasks", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")


def _main(name: str) -> Callable[..., None]:
    try:
        return import_module(name).main
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        raise UserError(f"no stage {name}: there is no such module in stages") from None
