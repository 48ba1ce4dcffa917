"""Read YAML files; an error names the key, its value and what is allowed."""

from __future__ import annotations

import math
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from experiment.stage import files
from experiment.stage.errors import UserError


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Section)


def _reject_bool(value: object) -> object:
    # Pydantic reads `true` as 1; in a params file it is a mistake.
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    return value


def _ascend(values: list[float]) -> list[float]:
    # Ends and neighbours in a grid depend on its order, and a duplicate would count twice.
    if any(low >= high for low, high in pairwise(values)):
        raise ValueError("not in ascending order")
    return values


# A quoted number is read as a number.
Whole = Annotated[int, BeforeValidator(_reject_bool)]
Real = Annotated[float, BeforeValidator(_reject_bool)]
Ascending = AfterValidator(_ascend)
LearningRate = Annotated[Real, Field(ge=1e-8, le=10)]
LearningRateGrid = Annotated[list[LearningRate], Field(min_length=1), Ascending]
LEARNING_RATE_GRID = "an ascending list of numbers from 1e-8 to 10"
# The name of a module; DVC uses it in paths.
MODULE = "^[a-z][a-z0-9_]*$"


def whole(low: int, high: int) -> Any:  # noqa: ANN401 - a field of any type
    """A field for a whole number from `low` to `high`."""
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


def rank_or(word: str) -> PlainValidator:
    """A validator for a rank, or for a word that stands for a rank chosen elsewhere."""
    rank = TypeAdapter(Annotated[Whole, Field(ge=1, le=100_000)])

    def validate(value: object) -> int | str:
        return word if value in (None, word) else rank.validate_python(value)

    return PlainValidator(validate)


class SearchInterval(Section):
    """A search interval, ends included."""

    low: Any
    high: Any

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.low, self.high
        if not isinstance(high, str) and not low < high:
            raise ValueError("low below high")
        return self


class Interval(SearchInterval):
    """Search interval of any hyperparameter; it has whole numbers only if both ends are whole."""

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    log: StrictBool = False

    @model_validator(mode="after")
    def _logarithmic(self) -> Self:
        if self.log and self.low <= 0:
            raise ValueError("low above 0")
        return self


INTERVAL = "an interval {low, high, log}: two numbers, low below high, and above 0 if log is true"


def _hyperparameter(value: object) -> object:
    if isinstance(value, dict):
        try:
            return Interval.model_validate(value)
        except ValidationError:
            raise ValueError(INTERVAL) from None
    for one in value if isinstance(value, list) and value else [value]:
        if not isinstance(one, bool | int | float | str):
            raise ValueError("neither a number nor a word")
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError("not finite")
    return value


# A keyword of an optimizer, fixed or searched.
Hyperparameter = Annotated[
    Any,
    PlainValidator(_hyperparameter),
    Field(description=f"a number, a word, true, false, a list of numbers, or {INTERVAL}"),
]


class LearningRates(SearchInterval):
    """Search interval of the learning rate, ends included."""

    low: Real = Field(ge=1e-8, le=10, description="a number from 1e-8 to 10")
    high: Real = Field(ge=1e-8, le=10, description="a number from 1e-8 to 10")


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file, which `files.unchanged` watches from now on.

    Raises:
        UserError: one line per key that is unknown, missing, of the wrong type or out of range.

    """
    content = files.read(path)
    try:
        # YAML 1.2, as DVC reads it. PyYAML reads 010 as eight and 1:30 as ninety, and accepts
        # duplicate keys.
        raw = YAML(typ="safe").load(content.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: no parameters; allowed: {', '.join(model.model_fields)}")
    return checked(model, raw, f"{path}: ")


def checked(model: type[Model], raw: object, where: str) -> Model:
    """Validate the values, or raise UserError with one line per mistake, each after `where`.

    Args:
        model: the expected model.
        raw: a mapping as read from YAML.
        where: the file, and the section within it, such as `params.yaml: `.

    """
    try:
        return model.model_validate(_named(raw))
    except ValidationError as error:
        lines = [f"{where}{_describe(model, problem)}" for problem in error.errors()]
        # A value may break several rules at once.
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _named(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """The same value with printable keys; YAML allows keys of any type."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) and key.isprintable() else repr(key): _named(inner)
            for key, inner in value.items()
        }
    return value


def _describe(model: type[Section], problem: ErrorDetails) -> str:
    # Integers in the location are positions in a list; the error belongs to the list's key.
    path = [str(part) for part in problem["loc"] if not isinstance(part, int)]
    key, value = ".".join(path), problem["input"]
    match problem["type"]:
        case "value_error" if isinstance(value, dict) and {"low", "high"} <= value.keys():
            return f"{key} = {value}; allowed: {problem['ctx']['error']}"
        case "missing":
            return f"{key} is missing; allowed: {_allowed(model, path)}"
        case "extra_forbidden":
            known = list(_annotation(model, path[:-1]).model_fields)
            likely = get_close_matches(path[-1], known, n=1) or known
            return f"unknown key {key} = {value!r}; allowed in its place: {', '.join(likely)}"
    return f"{key} = {value!r}; allowed: {_allowed(model, path)}"


def _annotation(model: Any, path: list[str]) -> Any:  # noqa: ANN401 - a model or a leaf's type
    for name in path:
        # A mapping has arbitrary keys, and values of one type.
        values = get_args(model)[1:] if get_origin(model) is dict else ()
        model = values[0] if values else model.model_fields[name].annotation
    return model


def _allowed(model: type[Section], path: list[str]) -> str:
    *sections, name = path
    parent = _annotation(model, sections)
    if get_origin(parent) is dict:
        values = get_args(parent)[1]
        if get_origin(values) is Annotated:
            (field,) = (one for one in get_args(values) if isinstance(one, FieldInfo))
            return str(field.description)
        return f"a section with {', '.join(values.model_fields)}"
    field = parent.model_fields[name]
    return field.description or f"a section with {', '.join(field.annotation.model_fields)}"
