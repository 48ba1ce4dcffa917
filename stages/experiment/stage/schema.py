"""Read YAML files; an error names the key, its value and what is allowed."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from experiment.stage import files
from experiment.stage.errors import UserError


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Section)


def _ascend(values: list[float]) -> list[float]:
    # Ends and neighbours in a grid depend on its order, and a duplicate would count twice.
    if any(low >= high for low, high in pairwise(values)):
        raise ValueError("not in ascending order")
    return values


# Strict: pydantic would read `true` as 1.
Whole = StrictInt
Real = StrictFloat
Rank = Annotated[Whole, Field(ge=1, le=100_000)]
Ascending = AfterValidator(_ascend)
LearningRate = Annotated[Real, Field(ge=1e-8, le=10, description="a number from 1e-8 to 10")]
LearningRateGrid = Annotated[list[LearningRate], Field(min_length=1), Ascending]
LEARNING_RATE_GRID = "an ascending list of numbers from 1e-8 to 10"
# The name of a module; DVC uses it in paths.
MODULE = "^[a-z][a-z0-9_]*$"


def whole(low: int, high: int) -> Any:  # noqa: ANN401 - a field of any type
    """A field for a whole number from `low` to `high`."""
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


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


# A keyword of an optimizer, fixed or searched.
_Value = StrictBool | StrictInt | StrictFloat | StrictStr
Hyperparameter = _Value | Annotated[list[_Value], Field(min_length=1)] | Interval
HYPERPARAMETERS = (
    "keywords of the optimizer, each a number, a word, true, false, a list of numbers, or an "
    "interval {low, high, log}: two numbers, low below high, and above 0 if log is true"
)


class LearningRates(SearchInterval):
    """Search interval of the learning rate, ends included."""

    low: LearningRate
    high: LearningRate


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file; UserError has one line per mistake, see `checked`."""
    content = files.read(path)
    try:
        # YAML 1.2, as DVC reads it. PyYAML reads 010 as eight and 1:30 as ninety, and accepts
        # duplicate keys.
        raw = YAML(typ="safe").load(content.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return checked(model, raw, f"{path}: ")


def checked(model: type[Model], raw: object, where: str) -> Model:
    """Validate what YAML held; UserError has one line per mistake, each after `where`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}{_describe(model, raw, problem)}" for problem in error.errors()]
        # A value may break several rules at once.
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _describe(model: Any, value: Any, problem: ErrorDetails) -> str:  # noqa: ANN401 - a type
    """What is wrong with the value of a key in `value`, and what is allowed there."""
    key, allowed = "", ""
    for part in problem["loc"]:
        fields = getattr(model, "model_fields", None)
        if fields is None and get_origin(model) is not dict:
            break  # within a value: a position in a list, or a member of a union
        key = f"{key}.{part}".lstrip(".")
        if fields is None:
            model = get_args(model)[1]
        elif part in fields:
            model, allowed = fields[part].annotation, fields[part].description
        else:
            likely = get_close_matches(str(part), fields, n=1) or fields
            found = value.get(part)
            return f"unknown key {key} = {found!r}; allowed in its place: {', '.join(likely)}"
        value = value.get(part, problem)  # which no file contains
    if hasattr(model, "model_fields"):
        section = f"a section with {', '.join(model.model_fields)}"
        allowed = problem.get("ctx", {}).get("error", section)
    found = "is missing" if value is problem else f"= {value!r}"
    return f"{key or 'content'} {found}; allowed: {allowed}"
