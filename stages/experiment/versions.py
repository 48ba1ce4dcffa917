"""The versions that decide the results: those that constraints.txt pins, and no others."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiment.errors import UserError

CONSTRAINTS_FILE = Path("constraints.txt")
# What computes, draws or writes a result; another version of any of them may change its bytes.
DECISIVE = ("matplotlib", "mnist1d", "numpy", "optuna", "pandas", "pillow", "scipy", "torch")


def check(path: Path = CONSTRAINTS_FILE) -> None:
    """Make sure that the decisive packages are installed in the versions that are pinned.

    DVC knows the constraints as a dependency of the stages: results of other versions than the
    pinned ones could not be told from results of these.

    Raises:
        UserError: a line for each package that is not pinned, or not installed as pinned.

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
    """The installed version, without the build that follows a plus sign: 2.13.0 of 2.13.0+cpu."""
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
