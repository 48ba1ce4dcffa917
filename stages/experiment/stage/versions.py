"""The versions that decide the results: those that constraints.txt pins, and no others."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiment.stage.errors import UserError

CONSTRAINTS_FILE = Path("constraints.txt")
# Packages that compute, draw or write results; another version of one may change the bytes.
DECISIVE = (
    "matplotlib",
    "mnist1d",
    "numpy",
    "optuna",
    "pandas",
    "pillow",
    "scikit-learn",
    "scipy",
    "torch",
)


def check(path: Path = CONSTRAINTS_FILE) -> None:
    """Check that the decisive packages are installed in the pinned versions.

    DVC sees only the pins; results from other versions would look the same to it.

    Raises:
        UserError: one line per package that is not pinned, or not installed as pinned.

    """
    pinned = _pinned(path)
    problems = []
    for name in DECISIVE:
        found = installed(name)
        if name not in pinned:
            problems.append(f"{path}: no line {name}==<version>; {found} is installed")
        elif found != pinned[name]:
            problems.append(
                f"{path}: {name}=={pinned[name]}, but {found} is installed; allowed: the same, "
                f'by `pip install -c {path} -e ".[pipeline]"` or by an edit of {path}'
            )
    if problems:
        raise UserError("\n".join(problems))


def installed(name: str) -> str:
    """The installed version without its build, 2.13.0 for 2.13.0+cpu; `none` if not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "none"


def _pinned(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("#")[0].partition(";")[0].partition("==") for line in lines)
    return {
        name.strip().lower(): pin.strip().partition("+")[0] for name, equals, pin in pins if equals
    }
