"""Run one step of the studies: python stages/study.py STEP [ARGUMENT]."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
import argparse
from importlib import import_module

from experiment import files, versions

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", help="a module in stages/studies")
    parser.add_argument("argument", nargs="*", help="what the step is about, such as an arm")
    given = parser.parse_args()
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        import_module(f"studies.{given.step}").main(*given.argument)
