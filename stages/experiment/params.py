"""The hyperparameters in params.yaml: their types, their ranges, and how a mistake is reported."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML, YAMLError

from experiment import files
from experiment.errors import UserError

PARAMS_FILE = Path("params.yaml")
PUBLISHED_TRAINING_ROWS = 4000
CNN_WEIGHTS = 5210  # of the published convolutional network
LENGTH = 40  # of a sample
CLASSES = 10


def _refuse_bool(value: object) -> object:
    # Pydantic reads `true` as 1; in a params file it is a mistake.
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    return value


def _ascend(values: list[float]) -> list[float]:
    # In another order a grid has other ends and neighbours; of two alike one would count twice.
    if any(low >= high for low, high in pairwise(values)):
        raise ValueError("not in ascending order")
    return values


# Text that spells a number is taken for the number, as in quotes.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
Ascending = AfterValidator(_ascend)


def _whole(low: int, high: int) -> Any:  # noqa: ANN401 - a field of any type
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


LearningRate = Annotated[Real, Field(ge=1e-8, le=10)]
LearningRateGrid = Annotated[list[LearningRate], Field(min_length=1), Ascending]
LEARNING_RATE_GRID = "an ascending list of numbers from 1e-8 to 10"
ModelName = Literal["mlp", "logistic", "cnn"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Interval(_Section):
    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise PydanticCustomError("unordered", "low must be below high")
        return self


class LearningRates(_Interval):
    """Search interval of the learning rate, ends included."""

    low: Real = Field(ge=1e-8, le=10, description="a number from 1e-8 to 10")
    high: Real = Field(ge=1e-8, le=10, description="a number from 1e-8 to 10")


class Ranks(_Interval):
    """Search interval of the rank, ends included."""

    low: Whole = _whole(1, 100_000)
    high: Whole = _whole(1, 100_000)


class Data(_Section):
    """Split of the published training rows."""

    train: Whole = _whole(1, PUBLISHED_TRAINING_ROWS - 1)
    validation: Whole = _whole(1, PUBLISHED_TRAINING_ROWS - 1)
    shuffle: bool = Field(strict=True, description="true or false")


class Model(_Section):
    """The network."""

    name: ModelName = Field(description="mlp, logistic or cnn")
    hidden: list[Annotated[Whole, Field(ge=1, le=4096)]] = Field(
        min_length=1, max_length=8, description="a list of 1 to 8 whole numbers from 1 to 4096"
    )

    @property
    def matrix_side(self) -> int:
        """Side n of the smallest square matrix that holds the network's gradient."""
        layers = pairwise([LENGTH, *(self.hidden if self.name == "mlp" else []), CLASSES])
        weights = sum((inputs + 1) * outputs for inputs, outputs in layers)
        return math.isqrt((CNN_WEIGHTS if self.name == "cnn" else weights) - 1) + 1


class Training(_Section):
    """One training run, alike in tuning and final training."""

    epochs: Whole = _whole(1, 10_000)
    batch_size: Whole = _whole(1, PUBLISHED_TRAINING_ROWS - 1)


class Tune(_Section):
    """The search for the best learning rate and rank."""

    trials: Whole = _whole(1, 10_000)
    wave: Whole = _whole(1, 10_000)
    replicates: Whole = _whole(1, 1_000)
    lr: LearningRates
    rank: Ranks


class FinalTrain(_Section):
    """Training with the tuned parameters."""

    replicates: Whole = _whole(2, 10_000)
    group: Whole = _whole(1, 1_000)


class Compare(_Section):
    """What counts as a difference."""

    margin: Real = Field(gt=0, lt=1, description="a number above 0 and below 1")
    targets: list[Annotated[Real, Field(gt=0)]] = Field(
        min_length=1, description="a list of numbers above 0"
    )


class ArmTraining(_Section):
    """An optimizer in one setting."""

    optimizer: str = Field(
        pattern="^[a-z][a-z0-9_]*$",
        description="the name of a module in stages/experiment/optimizers",
    )
    hyperparameters: dict[str, Whole | Real | str] = Field(
        default={},
        description="arguments of the optimizer other than lr, each a finite number or a text",
    )
    model: ModelName | None = Field(default=None, description="mlp, logistic or cnn")
    shuffle: bool = Field(default=False, strict=True, description="true or false")
    noise: Real = Field(default=1, ge=0, le=100, description="a number from 0 to 100")
    lrs: LearningRateGrid | None = Field(default=None, description=LEARNING_RATE_GRID)
    tuning_replicates: Whole | None = Field(
        default=None, ge=1, le=1_000, description="a whole number from 1 to 1000"
    )
    replicates: Whole | None = Field(
        default=None, ge=2, le=10_000, description="a whole number from 2 to 10000"
    )

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _arguments(cls, given: object) -> object:
        # Refused as a whole, as the names are not known here.
        if isinstance(given, dict):
            if "lr" in given:
                raise ValueError("it would take the place of every learning rate of the grid")
            for value in given.values():
                if isinstance(value, bool) or not isinstance(value, int | float | str):
                    raise ValueError("neither a number nor a text")
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError("not finite")
        return given


class Arm(_Section):
    """A training that is compared with others over the same replicates."""

    study: Literal["rank_sweep", "controls", "noise_dial", "elsewhere", "approximate"] = Field(
        description="rank_sweep, controls, noise_dial, elsewhere or approximate"
    )
    label: str = Field(
        pattern="^[^$]+$", description="how tables and figures call it, a text without $"
    )
    against: list[str] = Field(default=[], description="a list of arms to compare it with")
    train: ArmTraining


class Gradients(_Section):
    """The look at gradients along the trajectories of Adam and LRG-Adam."""

    trajectories: list[str] = Field(min_length=1, description="a list of arms")
    ranks: Annotated[list[Annotated[Whole, Field(ge=1, le=100_000)]], Ascending] = Field(
        min_length=1, description="an ascending list of whole numbers from 1"
    )
    epochs: Annotated[list[Annotated[Whole, Field(ge=1, le=10_000)]], Ascending] = Field(
        min_length=1, description="an ascending list of whole numbers from 1"
    )
    replicates: Whole = _whole(2, 1_000)
    group: Whole = _whole(1, 1_000)
    batches: Whole = _whole(1, 1_000)
    fresh_samples: Whole = _whole(100, 1_000_000)


class Published(_Section):
    """The published protocol, repeated with many seeds of its sampler."""

    samplers: Whole = _whole(2, 10_000)
    group: Whole = _whole(1, 1_000)
    trials: Whole = _whole(1, 10_000)
    tune_samples: Whole = _whole(1, PUBLISHED_TRAINING_ROWS)
    tune_epochs: Whole = _whole(1, 10_000)
    tune_batch_size: Whole = _whole(1, PUBLISHED_TRAINING_ROWS)
    epochs: Whole = _whole(1, 10_000)
    batch_size: Whole = _whole(1, PUBLISHED_TRAINING_ROWS)
    lr: LearningRates
    rank: Ranks
    training_samples: Annotated[
        list[Annotated[Whole, Field(ge=1, le=PUBLISHED_TRAINING_ROWS)]], Ascending
    ] = Field(
        min_length=1,
        description=f"an ascending list of whole numbers from 1 to {PUBLISHED_TRAINING_ROWS}",
    )
    offline_samples: Whole = _whole(10, 100_000)


class Studies(_Section):
    """The studies beside the main comparison."""

    lrs: LearningRateGrid = Field(description=LEARNING_RATE_GRID)
    tuning_replicates: Whole = _whole(1, 1_000)
    replicates: Whole = _whole(2, 10_000)
    group: Whole = _whole(1, 1_000)
    arms: dict[str, Arm] = Field(description="arms by their names")
    gradients: Gradients
    published: Published

    @field_validator("arms", mode="before")
    @classmethod
    def _names(cls, given: object) -> object:
        # A name is part of stages, paths and dotted keys, and DVC passes over one that is a number.
        for name in given if isinstance(given, dict) else ():
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                raise PydanticCustomError(
                    "disagree",
                    f"studies.arms has {name!r}; allowed: names of a-z, 0-9 and _ "
                    "that begin with a letter",
                )
        return given

    @model_validator(mode="after")
    def _agree(self) -> Self:
        lists = {f"arms.{name}.against": arm.against for name, arm in self.arms.items()}
        lists["gradients.trajectories"] = self.gradients.trajectories
        for key, names in lists.items():
            if unknown := [name for name in names if name not in self.arms]:
                raise PydanticCustomError(
                    "disagree",
                    f"studies.{key} = {names}; allowed: names in studies.arms, "
                    f"which has no {', '.join(unknown)}",
                )
        return self


class Params(_Section):
    """All of params.yaml."""

    seed: Whole = _whole(0, 2**32 - 1)
    rank: Whole | None = Field(
        ge=1,
        le=100_000,
        description="null, or a whole number from 1 to the side of the gradient matrix",
    )
    device: Literal["cpu", "cuda"] = Field(description="cpu or cuda")
    data: Data
    model: Model
    training: Training
    tune: Tune
    final_train: FinalTrain
    compare: Compare
    studies: Studies

    @model_validator(mode="after")
    def _agree(self) -> Self:
        left = PUBLISHED_TRAINING_ROWS - self.data.train
        limits = {
            "data.validation": (self.data.validation, left, f"data.train leaves {left} rows"),
            "training.batch_size": (self.training.batch_size, self.data.train, "data.train"),
        }
        trained = _side(self.model)
        if self.rank is None:
            limits["tune.rank.high"] = (self.tune.rank.high, *trained)
        else:
            limits["rank"] = (self.rank, *trained)
        # The published experiment trains the mlp, whatever is trained otherwise.
        published = _side(self.model.model_copy(update={"name": "mlp"}))
        limits["studies.published.rank.high"] = (self.studies.published.rank.high, *published)
        for key, (value, limit, why) in limits.items():
            if value > limit:
                raise PydanticCustomError(
                    "disagree", f"{key} = {value}; allowed: at most {limit} ({why})"
                )
        return self


def _side(model: Model) -> tuple[int, str]:
    """The highest rank of a network's gradient matrix, and why that is the highest."""
    layers = f" with model.hidden = {model.hidden}" if model.name == "mlp" else ""
    return model.matrix_side, f"the side of the gradient matrix of the {model.name}{layers}"


def read_params(declared: Sequence[str], path: Path = PARAMS_FILE) -> Params:
    """Read the `declared` keys of params.yaml, after a check of the whole file.

    Args:
        declared: dotted keys, the same that dvc.yaml lists for the stage.
        path: the file.

    Returns:
        Parameters with the declared keys and no others, so that a stage cannot read a key
        that DVC does not know it depends on.

    Raises:
        UserError: a line for each key that is unknown, missing, of the wrong type or out of
            range, or, where there is none, for the first that contradicts another.

    """
    raw = _load(path)
    problems = [
        problem
        for problem in _problems(raw)
        # A key of another stage may be missing: it is not needed here.
        if problem["type"] != "missing" or _overlaps(_key(problem), declared)
    ]
    if problems:
        raise UserError("\n".join(f"{path}: {_describe(problem)}" for problem in problems))
    files.watch(path, lambda: _pick(_load(path), declared))
    return cast(Params, _only(Params, declared).model_validate(_pick(raw, declared)))


def _load(path: Path) -> dict[str, Any]:
    try:
        # As DVC reads it, which is YAML 1.2: to PyYAML 010 is eight, 1:30 is ninety, and the
        # second of two lines for one key wins.
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: no parameters; allowed: {', '.join(Params.model_fields)}")
    return _named(raw)


def _named(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """The same with keys that can be printed in a line; YAML has keys of any type."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) and key.isprintable() else repr(key): _named(inner)
            for key, inner in value.items()
        }
    return value


def _problems(raw: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        Params.model_validate(raw)
    except ValidationError as error:
        return error.errors()
    return []


def _key(problem: ErrorDetails) -> str:
    # Whole numbers in the location are positions in a list, which belong to the list's key.
    return ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))


def _overlaps(key: str, declared: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in declared)


def _describe(problem: ErrorDetails) -> str:
    key, value = _key(problem), problem["input"]
    match problem["type"]:
        case "disagree":
            return problem["msg"]
        case "unordered":
            return f"{key} = {dict(value)}; allowed: low below high"
        case "missing":
            return f"{key} is missing; allowed: {_allowed(key)}"
        case "extra_forbidden":
            *sections, name = map(str, problem["loc"])
            known = list(_annotation(".".join(sections)).model_fields)
            likely = get_close_matches(name, known, n=1) or known
            return f"unknown key {key} = {value!r}; allowed in its place: {', '.join(likely)}"
    return f"{key} = {value!r}; allowed: {_allowed(key)}"


def _annotation(key: str) -> Any:  # noqa: ANN401 - a model or the type of a leaf
    model: Any = Params
    for name in filter(None, key.split(".")):
        # A mapping has its own names, and values of one type.
        values = get_args(model)[1:] if get_origin(model) is dict else ()
        model = values[0] if values else model.model_fields[name].annotation
    return model


def _allowed(key: str) -> str:
    section, _, name = key.rpartition(".")
    parent = _annotation(section)
    if get_origin(parent) is dict:
        return f"a section with {', '.join(get_args(parent)[1].model_fields)}"
    field = parent.model_fields[name]
    return field.description or f"a section with {', '.join(field.annotation.model_fields)}"


def _heads(declared: Sequence[str]) -> dict[str, list[str]]:
    """First parts of dotted keys, each with the rests that follow it."""
    heads: dict[str, list[str]] = {}
    for key in declared:
        head, _, rest = key.partition(".")
        heads.setdefault(head, []).extend(filter(None, [rest]))
    return heads


def _only(model: type[_Section], declared: Sequence[str]) -> type[_Section]:
    """The part of a model that the declared keys name."""
    fields: dict[str, Any] = {}
    for name, rests in _heads(declared).items():
        field = model.model_fields[name]
        fields[name] = (_part(field.annotation, rests), field)
    return create_model(model.__name__, __base__=_Section, **fields)


def _part(annotation: Any, declared: Sequence[str]) -> Any:  # noqa: ANN401 - a type
    if not declared:
        return annotation
    if get_origin(annotation) is dict:
        # All entries are of one type: of each, what is declared of any.
        _, entry = get_args(annotation)
        inner = {rest for rests in _heads(declared).values() for rest in rests}
        return dict[str, _part(entry, sorted(inner))]
    return _only(annotation, declared)


def _pick(raw: Mapping[str, Any], declared: Sequence[str]) -> dict[str, Any]:
    try:
        return {
            name: _pick(raw[name], rests) if rests else raw[name]
            for name, rests in _heads(declared).items()
        }
    except KeyError as name:  # of a mapping that has names of its own, such as the arms
        raise UserError(f"{PARAMS_FILE}: nothing is named {name}") from None
