"""Parse settings that DVC writes from a mapping into a command: --lrs 0.001 0.01 --lr.low 0.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from experiment.stage.errors import UserError
from experiment.stage.schema import Model, checked


def parse(model: type[Model], words: Sequence[str], where: str) -> Model:
    """Parse the words of a command into a model; the last value of a repeated key counts.

    A key is followed by its value, or by the values of a list; `--key` alone is true, and
    `--no-key` false. Dots lead into sections.

    Args:
        model: the expected model.
        words: the words of the command.
        where: prefix of each line of an error, such as `arm rank_20: `.

    Raises:
        UserError: a value comes before any key, or is not what the model allows.

    """
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            key = word[2:]
            found[key] = []
        elif not found:
            raise UserError(f"{where}{word!r} belongs to no key; allowed: --key value ...")
        else:
            found[key].append(word)
    nested: dict[str, Any] = {}
    for key, values in found.items():
        *sections, name = key.removeprefix("no-").split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        try:
            read = [YAML(typ="safe").load(value) for value in values]
        except YAMLError:
            raise UserError(f"{where}{key} = {values}; allowed: numbers and texts") from None
        section[name] = (read if len(read) > 1 else read[0]) if read else not key.startswith("no-")
    return checked(model, nested, where)
