"""The rooms: the packages datasets, networks and optimizers, to which users add modules.

A module is found by its name. Its function is called with those of the given options that it takes
as arguments: `model.hidden` reaches a network that takes `hidden`, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any

from experiment.stage.errors import UserError

ROOMS = Path(__file__).parents[1]


def module(room: str, name: str, where: str) -> ModuleType:
    """Import the module `name` of a room.

    Args:
        room: datasets, networks or optimizers.
        name: name of the module, without `.py`.
        where: the setting that gives the name, such as `params.yaml: model.name`.

    Raises:
        UserError: there is no such module.

    """
    there = sorted(path.stem for path in (ROOMS / room).glob("*.py") if path.stem != "__init__")
    if name not in there:
        raise UserError(
            f"{where} = {name!r}; allowed: a module in stages/experiment/{room}: {', '.join(there)}"
        )
    return import_module(f"experiment.{room}.{name}")


def arguments(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a function takes as arguments; all of them if it takes `**options`."""
    taken = signature(function).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in taken):
        return dict(options)
    names = {parameter.name for parameter in taken}
    return {name: value for name, value in options.items() if name in names}


def refuse_unknown(
    function: Callable[..., Any], options: Iterable[str], known: Iterable[str], where: str
) -> None:
    """Raise UserError for an option that is neither in `known` nor an argument of the function."""
    names = set(signature(function).parameters) | set(known)
    for name in options:
        if name not in names:
            raise UserError(
                f"unknown key {where}.{name}; allowed: {', '.join(sorted(known))} and the "
                f"arguments of {function.__module__}.{function.__qualname__}"
            )
