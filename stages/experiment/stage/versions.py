"""The package versions that determine the results: those pinned in constraints.txt, and no others.

A pipeline begins with a check that writes the decisive pins to a file. The other stages depend on
that file, so changing any other pin makes no result out of date.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from experiment.stage import files
from experiment.stage.errors import UserError

CONSTRAINTS_FILE = Path("constraints.txt")
CHECKS = ("check_params", "studies.training.check_arms")
LISTED_FILE = Path("data/versions.json")  # of the main pipeline and the benchmark
LISTED_FILE_OF_STUDIES = Path("data/studies.json")
# Packages that compute, draw or write results, and their modules; another version of one may
# change the bytes.
DECISIVE = {
    "matplotlib": "matplotlib",
    "mnist1d": "mnist1d",
    "numpy": "numpy",
    "optuna": "optuna",
    "pandas": "pandas",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "torch": "torch",
}


def check(stage: str) -> None:
    """Raise UserError with a line for each decisive package that is not installed as pinned.

    DVC sees only the pins; it could not tell results from other versions apart.
    """
    path = LISTED_FILE_OF_STUDIES if stage.startswith("studies.") else LISTED_FILE
    if stage in CHECKS:
        path, wanted = CONSTRAINTS_FILE, pinned()
    else:
        wanted = files.read_json(path, "versions")["versions"]
    problems = [
        f"{path}: {name}=={pin}, but {installed(name)} is installed; allowed: the same, by "
        f'`pip install -c {CONSTRAINTS_FILE} -e ".[pipeline]"` or by an edit of {CONSTRAINTS_FILE}'
        for name, pin in wanted.items()
        if installed(name) != pin
    ]
    if problems:
        raise UserError("\n".join(problems))


def pinned() -> dict[str, str]:
    """The pins of the decisive packages, without build tags; a missing one raises UserError."""
    lines = files.read(CONSTRAINTS_FILE).decode("utf-8")
    found = dict(re.findall(r"^([\w.-]+) *== *([\w.!]+)", lines, re.MULTILINE))
    for name in DECISIVE:
        if name not in found:
            raise UserError(f"{CONSTRAINTS_FILE}: no line {name}==<version>")
    return {name: found[name] for name in DECISIVE}


def installed(name: str) -> str:
    """The installed version without build tag, 2.13.0 for 2.13.0+cpu; `none` if not installed.

    Another copy of the package, which would be imported in its place, is named by its folder.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return "none"
    spec = find_spec(DECISIVE[name])
    origin = Path(str(spec and spec.origin))
    expected = Path(str(found.locate_file(f"{DECISIVE[name]}/__init__.py")))
    if origin.resolve() != expected.resolve():
        return f"another in {origin.parent}"
    return found.version.partition("+")[0]
