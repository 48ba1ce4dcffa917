"""Plug-in packages: datasets, networks and optimizers, to which users add modules.

A module is found by its name. Its function gets only those options that it takes as arguments:
`model.hidden` is passed to a network that takes `hidden`, and to no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from experiment.stage.errors import UserError, reason

PLUGINS = Path(__file__).parents[1]


def module(package: str, name: str, where: str) -> ModuleType:
    """Import the module `name` of datasets, networks or optimizers.

    UserError is raised if there is no such module (`where` is the key of its name), it cannot be
    imported, or it lacks its function, `load` or `create`.
    """
    there = [found.name for found in iter_modules([str(PLUGINS / package)])]
    if name not in there:
        raise UserError(
            f"{where} = {name!r}; allowed: a module in stages/experiment/{package}: "
            f"{', '.join(there)}"
        )
    file = f"stages/experiment/{package}/{name}.py"
    try:
        found = import_module(f"experiment.{package}.{name}")
    except Exception as error:
        raise UserError(f"{file} cannot be imported: {reason(error)}") from None
    function = "load" if package == "datasets" else "create"
    if not callable(getattr(found, function, None)):
        raise UserError(
            f"{file} has no function {function}; allowed: one, see "
            f"stages/experiment/{package}/__init__.py"
        )
    return found


def arguments(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    known: Iterable[str],
    where: str,
    **provided: object,
) -> dict[str, Any]:
    """What a function takes of the options in the section `where` and of what is provided.

    It takes arguments by name, or all of them as `**options`. UserError is raised for an option
    that it does not take, unless it is one of `known`, which other modules may take.
    """
    taken = signature(function).parameters
    takes_all = any(one.kind is Parameter.VAR_KEYWORD for one in taken.values())
    for name in options:
        if not takes_all and name not in {*taken, *known}:
            raise UserError(
                f"unknown key {where}.{name}; allowed: {', '.join(sorted(known))} and the "
                f"arguments of {function.__module__}.{function.__qualname__}"
            )
    offered = {**options, **provided}
    return {name: value for name, value in offered.items() if takes_all or name in taken}
