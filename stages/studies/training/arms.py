"""The arms: what arms.yaml and own.yaml may contain, and where their results are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Data
from experiment.stage.schema import (
    LEARNING_RATE_GRID,
    MODULE,
    LearningRateGrid,
    Real,
    Section,
    Whole,
    checked,
    read_yaml,
    whole,
)

STUDIES = (
    "rank_sweep",
    "controls",
    "noise_dial",
    "elsewhere",
    "flipped_labels",
    "approximate",
    "yardstick",
)
BASELINE = "adam"  # the arm that the others are compared with
NOISY_BASELINE = "flipped_adam"  # the same with flipped labels
PUBLISHED = Path("stages/studies/arms.yaml")
OWN = Path("stages/studies/own.yaml")
# Types of hyperparameters that DVC can write into a command.
Value = bool | int | float | str


def as_list(value: object) -> object:
    """Wrap a single value in a list; DVC writes a list of one into a command as a single value."""
    return value if isinstance(value, list) else [value]


def _is_plain(text: str) -> bool:
    """Whether a text in a command is read as the same text, not as a number or a key."""
    try:
        return not text.startswith("--") and YAML(typ="safe").load(text) == text
    except YAMLError:
        return False


class Training(Section):
    """The settings of every arm that does not set its own."""

    lrs: Annotated[LearningRateGrid, BeforeValidator(as_list)] = Field(
        default=[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1],
        description=LEARNING_RATE_GRID,
    )
    tuning_replicates: Whole = whole(1, 1_000)
    replicates: Whole = whole(2, 10_000)
    group: Whole = whole(1, 1_000)


class ArmTraining(Training):
    """An optimizer in one setting."""

    optimizer: str = Field(
        pattern=r"^[A-Za-z_][\w.]*$",
        description="a module in stages/experiment/optimizers, or the dotted name of a class",
    )
    hyperparameters: dict[str, Any] = Field(
        default={},
        description="arguments of the optimizer other than lr, each a finite number, a text, true, "
        "false, or a list of two or more of these",
    )
    model: str | None = Field(
        default=None, pattern=MODULE, description="a module in stages/experiment/networks"
    )
    data: dict[str, Any] = Field(
        default={},
        description="keys under data in params.yaml, each a finite number, a text, true or false",
    )
    noise: Real = Field(default=1, ge=0, le=100, description="a number from 0 to 100")

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _no_rate(cls, given: object) -> object:
        if isinstance(given, dict) and "lr" in given:
            raise ValueError("it would take the place of every learning rate of the grid")
        return given

    @field_validator("hyperparameters", "data", mode="before")
    @classmethod
    def _arguments(cls, given: object) -> object:
        # Rejected as a whole, because the names are not known here.
        for value in given.values() if isinstance(given, dict) else ():
            values = value if isinstance(value, list) and len(value) > 1 else [value]
            if not all(isinstance(one, Value) for one in values):
                raise ValueError("not a number or a text")
            if not all(_is_plain(one) for one in values if isinstance(one, str)):
                raise ValueError("a text that the command would not hand over as it is")
            if any(isinstance(one, float) and not math.isfinite(one) for one in values):
                raise ValueError("not finite")
        return given


class _Entry(Section):
    label: str = Field(
        pattern="^[^$]+$", description="how tables and figures call it, a text without $"
    )
    against: list[str] = Field(default=[], description="a list of arms to compare it with")
    train: dict[str, Any] = Field(description="a section")


class _OwnEntry(_Entry):
    study: str = Field(pattern=MODULE, description="one of own_studies")


_Entries = Annotated[dict[str, _Entry], Field(description="arms by their names")]


class _Gradients(Section):
    trajectories: dict[str, dict[str, Any]] = Field(
        min_length=1, description="arms, each with an empty section"
    )
    look: dict[str, Any] = Field(description="a section")


class _Published(Section):
    defaults: Training
    grids: dict[str, list[float]] = Field(description="learning rates by a name")
    rank_sweep: _Entries
    controls: _Entries
    noise_dial: _Entries
    elsewhere: _Entries
    flipped_labels: _Entries
    approximate: _Entries
    yardstick: _Entries
    gradients: _Gradients
    search_budget: dict[str, Any] = Field(description="a section")
    published: dict[str, Any] = Field(description="a section")


class _Own(Section):
    own_studies: list[Annotated[str, Field(pattern=MODULE)]] = Field(
        description="a list of names of a-z, 0-9 and _"
    )
    own: dict[str, _OwnEntry] = Field(description="arms by their names")


@dataclass(frozen=True)
class Arm:
    """A training that is compared with others over the same replicates."""

    study: str
    label: str  # its name in tables and figures
    against: list[str]  # arms to compare it with
    train: ArmTraining


Arms = dict[str, Arm]


def read_arms() -> Arms:
    """The arms of the published studies; a mistake in arms.yaml raises UserError."""
    content = read_yaml(PUBLISHED, _Published)
    arms: Arms = {}
    for study in STUDIES:
        for name, entry in getattr(content, study).items():
            where = f"{PUBLISHED}: {study}.{name}"
            if name in arms:
                raise UserError(f"{where}; allowed: a name that no other study has")
            arms[name] = _arm(where, name, study, entry, content.defaults)
    for name, arm in arms.items():
        _check_against(f"{PUBLISHED}: {arm.study}.{name}", arm, arms)
    if unknown := [name for name in content.gradients.trajectories if name not in arms]:
        raise UserError(
            f"{PUBLISHED}: gradients.trajectories has {', '.join(unknown)}; allowed: names of arms"
        )
    return arms


def trajectories(arms: Arms, baseline: str) -> list[str]:
    """The arms with the baseline's data along whose trajectories gradients are analysed."""
    every = read_yaml(PUBLISHED, _Published).gradients.trajectories
    return [name for name in every if arms[name].train.data == arms[baseline].train.data]


def read_own() -> Arms:
    """The user's own arms; a mistake in own.yaml raises UserError."""
    content = read_yaml(OWN, _Own)
    defaults = read_yaml(PUBLISHED, _Published).defaults
    published = read_arms()
    own: Arms = {}
    for name, entry in content.own.items():
        where = f"{OWN}: own.{name}"
        if name in published:
            raise UserError(f"{where}; allowed: a name that arms.yaml does not have")
        if entry.study not in content.own_studies:
            raise UserError(
                f"{where}.study = {entry.study!r}; allowed: one of own_studies, "
                f"{content.own_studies}"
            )
        own[name] = _arm(where, name, entry.study, entry, defaults)
    for study in content.own_studies:
        if study in STUDIES or not any(arm.study == study and arm.against for arm in own.values()):
            raise UserError(
                f"{OWN}: own_studies has {study!r}; allowed: names that arms.yaml does not have, "
                "each the study of an arm with an against"
            )
    for name, arm in own.items():
        _check_against(f"{OWN}: own.{name}", arm, published | own)
    return own


def _arm(where: str, name: str, study: str, entry: _Entry, defaults: Training) -> Arm:
    # A name is part of stage names and paths, and DVC skips names that are numbers.
    if not re.fullmatch(MODULE, name):
        raise UserError(f"{where}; allowed: names of a-z, 0-9 and _ that begin with a letter")
    train = checked(ArmTraining, {**defaults.model_dump(), **entry.train}, f"{where}.train.")
    return Arm(study, entry.label, entry.against, train)


def data_of(common: Data, changes: Mapping[str, Any], where: str) -> Data:
    """The data of an arm: the main pipeline's, with the arm's changes."""
    # Another data set does not take the options of a user's own.
    same = changes.get("name", common.name) == common.name
    inherited = common.model_dump(include=None if same else set(Data.model_fields))
    return checked(Data, {**inherited, **changes}, f"{where}: data.")


def _check_against(where: str, arm: Arm, known: Arms) -> None:
    if unknown := [base for base in arm.against if base not in known]:
        raise UserError(
            f"{where}.against = {arm.against}; allowed: names of arms, which "
            f"{', '.join(unknown)} is not"
        )


def result_file(arm: str) -> Path:
    """Where the tuning and the replicates of an arm are kept."""
    published = Path(f"metrics/studies/arms/{arm}.json")
    return published if published.exists() else Path(f"metrics/own/arms/{arm}.json")


def tuned(arm: str) -> dict[str, Any]:
    """What the tuning of an arm found: `lr`, `on_boundary`, `matrix_side` and its settings."""
    return files.read_json(result_file(arm), "lr", "on_boundary", "matrix_side", "train")
