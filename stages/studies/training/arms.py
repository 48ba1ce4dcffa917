"""The arms: what arms.yaml and own.yaml may contain, and where settings and results are kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import Data, RankInterval, Training
from experiment.stage.schema import (
    HYPERPARAMETERS,
    LEARNING_RATE_GRID,
    MODULE,
    Ascending,
    Hyperparameter,
    Interval,
    LearningRateGrid,
    LearningRates,
    Real,
    SearchInterval,
    Section,
    Whole,
    checked,
    read_yaml,
    whole,
)

BASELINE = "adam"  # the arm that the others are compared with
NOISY_BASELINE = "flipped_adam"  # the same with flipped labels
PUBLISHED = Path("stages/studies/arms.yaml")
OWN = Path("stages/studies/own.yaml")
# What check_arms writes: the complete settings of each arm and of each other study, and the data.
SETTINGS_OF_ARMS = Path("data/arms")
SETTINGS = Path("data/settings")
DATA = "studies"
PUBLISHED_ROWS = 4000  # training rows of MNIST-1D
FINEST_RATIO = 1.05  # between neighbouring rates of a grid that is refined

_ASCENDING = "an ascending list of whole numbers from 1 to"
_Ascending = Annotated[
    list[Annotated[Whole, Field(ge=1, le=10_000)]],
    Ascending,
    Field(min_length=1, description=f"{_ASCENDING} 10000"),
]


class _Common(Section):
    seed: Whole = whole(0, 2**32 - 1)
    device: Literal["cpu", "cuda"] = Field(description="cpu or cuda")


class TrainedConfig(_Common, Training):
    """What is trained, and on which data."""

    model: str = Field(pattern=MODULE, description="a module in stages/experiment/networks")
    options: dict[str, Hyperparameter] = Field(description="arguments of the network")
    data: str = Field(pattern=MODULE, description="one of the data sets under data")


class ArmConfig(TrainedConfig):
    """Everything that determines the training of an arm, except its code and data."""

    optimizer: str = Field(
        pattern=r"^[A-Za-z_][\w.]*$",
        description="a module in stages/experiment/optimizers, or the dotted name of a class",
    )
    hyperparameters: dict[str, Hyperparameter] = Field(
        default={}, description=f"{HYPERPARAMETERS}; lr is set by lrs"
    )
    noise: Real = Field(ge=0, le=100, description="a number from 0 to 100")
    lrs: LearningRateGrid = Field(
        description=f"{LEARNING_RATE_GRID}, or same, for the grid of the first arm in against"
    )
    finest_ratio: Annotated[Real, Field(ge=FINEST_RATIO)] | None = Field(
        description=f"a number of at least {FINEST_RATIO}, or null for the grid as it is"
    )
    search: Whole = Field(
        ge=0,
        le=10_000,
        description="a number of trials up to 10000, with at least two lrs, or 0 for the grid, "
        "which has no hyperparameter that is an interval",
    )
    tuning_replicates: Whole = whole(1, 1_000)
    replicates: Whole = whole(2, 10_000)
    group: Whole = whole(1, 1_000)

    @field_validator("hyperparameters")
    @classmethod
    def _without_lr(cls, given: dict[str, Any]) -> dict[str, Any]:
        if "lr" in given:
            raise ValueError("it would replace every learning rate of the grid")
        return given

    @field_validator("search")
    @classmethod
    def _has_intervals(cls, trials: int, info: ValidationInfo) -> int:
        hyperparameters = info.data.get("hyperparameters", {}).values()
        intervals = any(isinstance(one, Interval) for one in hyperparameters)
        if (intervals and not trials) or (trials and len(info.data.get("lrs", [])) < 2):
            raise ValueError("a grid has no intervals, and a search an interval of rates")
        return trials

    def searched(self) -> dict[str, SearchInterval]:
        """The intervals that a search varies; none if there is a grid."""
        if not self.search:
            return {}
        given = self.hyperparameters.items()
        intervals = {name: one for name, one in given if isinstance(one, Interval)}
        return {"lr": LearningRates(low=self.lrs[0], high=self.lrs[-1]), **intervals}


class GradientConfig(_Common):
    """How gradients are analysed along the trajectories of arms."""

    ranks: _Ascending
    epochs: _Ascending
    replicates: Whole = whole(2, 1_000)
    group: Whole = whole(1, 1_000)
    batches: Whole = whole(1, 1_000)
    fresh_samples: Whole = whole(100, 1_000_000)


class BudgetConfig(TrainedConfig):
    """How many searches there are, what they train, and after how many trials they are compared."""

    samplers: Whole = whole(2, 1_000)
    trials: _Ascending
    wave: Whole = whole(1, 10_000)
    replicates: Whole = whole(1, 1_000)
    lr: LearningRates
    rank: RankInterval


class ProtocolConfig(_Common):
    """The settings of the published protocol."""

    samplers: Whole = whole(2, 10_000)
    hidden: list[Annotated[Whole, Field(ge=1, le=4096)]] = Field(
        min_length=1, description="a list of whole numbers from 1 to 4096"
    )
    trials: Whole = whole(1, 10_000)
    tune_samples: Whole = whole(1, PUBLISHED_ROWS)
    tune_epochs: Whole = whole(1, 10_000)
    tune_batch_size: Whole = whole(1, PUBLISHED_ROWS)
    epochs: Whole = whole(1, 10_000)
    batch_size: Whole = whole(1, PUBLISHED_ROWS)
    lr: LearningRates
    rank: RankInterval
    training_samples: Annotated[
        list[Annotated[Whole, Field(ge=1, le=PUBLISHED_ROWS)]], Ascending
    ] = Field(min_length=1, description=f"{_ASCENDING} {PUBLISHED_ROWS}")
    offline_samples: Whole = whole(10, 100_000)


class _Entry(Section):
    study: str = Field(pattern=MODULE, description="a name of a-z, 0-9 and _")
    label: str = Field(min_length=1, pattern="^[^$]+$", description="a text without $")
    against: list[str] = Field(default=[], description="a list of arms to compare it with")
    train: dict[str, Any] = Field(description="a section")


class _Published(Section):
    defaults: dict[str, Any] = Field(description="a section")
    networks: dict[str, dict[str, Any]] = Field(description="options by the names of networks")
    grids: dict[str, list[float]] = Field(description="learning rates by a name")
    data: dict[str, Data] = Field(description="data sets by their names")
    arms: dict[str, _Entry] = Field(description="arms by their names")
    trajectories: list[str] = Field(min_length=1, description="a list of arms")
    gradients: dict[str, Any] = Field(description="a section")
    search_budget: dict[str, Any] = Field(description="a section")
    published: dict[str, Any] = Field(description="a section")


class Own(Section):
    """What own.yaml contains."""

    own_studies: list[Annotated[str, Field(pattern=MODULE)]] = Field(
        description="a list of names of a-z, 0-9 and _"
    )
    own: dict[str, _Entry] = Field(description="arms by their names")
    data: dict[str, Data] = Field(default={}, description="data sets by their names")


@dataclass(frozen=True)
class Arm:
    """A training that is compared with others over the same replicates."""

    where: str  # its section in a file, for messages
    study: str
    label: str  # its name in tables and figures
    against: list[str]  # arms to compare it with
    train: ArmConfig


Arms = dict[str, Arm]


def read_arms() -> Arms:
    """The arms of the published studies; a mistake in arms.yaml raises UserError."""
    content = read_yaml(PUBLISHED, _Published)
    arms = _arms(f"{PUBLISHED}: arms", content.arms, {}, content)
    if unknown := [name for name in content.trajectories if name not in arms]:
        raise UserError(
            f"{PUBLISHED}: trajectories has {', '.join(unknown)}; allowed: names of arms"
        )
    return arms


def read_own() -> Arms:
    """The user's own arms; a mistake in own.yaml raises UserError."""
    published, own = read_yaml(PUBLISHED, _Published), read_yaml(OWN, Own)
    for name, entry in own.own.items():
        if entry.study not in own.own_studies:
            raise UserError(
                f"{OWN}: own.{name}.study = {entry.study!r}; allowed: one of own_studies, "
                f"{own.own_studies}"
            )
    studies = {entry.study for entry in published.arms.values()}
    compared = {entry.study for entry in own.own.values() if entry.against}
    for study in own.own_studies:
        if study in studies or study not in compared:
            raise UserError(
                f"{OWN}: own_studies has {study!r}; allowed: names that arms.yaml does not have, "
                "each the study of an arm with an against"
            )
    for name in own.data:
        _check_name(f"{OWN}: data.{name}", name, published.data)
    common = published.model_copy(update={"data": published.data | own.data})
    return _arms(f"{OWN}: own", own.own, read_arms(), common)


def read_data_sets() -> dict[str, Data]:
    """The sections of the published data sets by name; a mistake in one raises UserError."""
    return read_yaml(PUBLISHED, _Published).data


def read_studies_without_arms() -> dict[str, _Common]:
    """The validated sections `gradients`, `search_budget` and `published`."""
    content = read_yaml(PUBLISHED, _Published)
    common = {name: content.defaults.get(name) for name in _Common.model_fields}
    sections: dict[str, type[_Common]] = {
        "gradients": GradientConfig,
        "search_budget": BudgetConfig,
        "published": ProtocolConfig,
    }
    return {
        name: checked(model, {**common, **getattr(content, name)}, f"{PUBLISHED}: {name}: ")
        for name, model in sections.items()
    }


def trajectories(arms: Arms, baseline: str) -> list[str]:
    """The arms with the baseline's data and noise whose gradients are analysed."""
    every = read_yaml(PUBLISHED, _Published).trajectories
    settings = {name: (arms[name].train.data, arms[name].train.noise) for name in arms}
    return [name for name in every if settings[name] == settings[baseline]]


def _check_name(where: str, name: str, taken: Collection[str]) -> None:
    # A name is part of stage names, commands and paths, and DVC skips names that are numbers.
    if not re.fullmatch(MODULE, name):
        raise UserError(f"{where}; allowed: names of a-z, 0-9 and _ that begin with a letter")
    if name in taken:
        raise UserError(f"{where}; allowed: a name that arms.yaml does not have")


def _arms(where: str, entries: dict[str, _Entry], others: Arms, common: _Published) -> Arms:
    """Complete and check each arm; it may be compared with those before it and with `others`."""
    arms = dict(others)
    for name, entry in entries.items():
        here = f"{where}.{name}"
        _check_name(here, name, others)
        if unknown := [base for base in entry.against if base not in arms]:
            raise UserError(
                f"{here}.against = {entry.against}; allowed: names of arms before it, which "
                f"{', '.join(unknown)} is not"
            )
        bases = [arms[base].train for base in entry.against]
        given = {**common.defaults, **_rates(entry.train, bases)}
        given.setdefault("options", common.networks.get(str(given.get("model")), {}))
        train = checked(ArmConfig, given, f"{here}.train: ")
        if train.data not in common.data:
            raise UserError(
                f"{here}.train.data = {train.data!r}; allowed: one of the data sets under data, "
                f"{', '.join(common.data)}"
            )
        ours = _in_common(train, common.data)
        for base, other in zip(entry.against, bases, strict=True):
            theirs = _in_common(other, common.data)
            for key in ours:
                if ours[key] != theirs[key]:
                    raise UserError(
                        f"{here}.train.{key} = {getattr(train, key)!r}; allowed: that of {base}, "
                        f"which is in against, {getattr(other, key)!r}"
                    )
        arms[name] = Arm(here, entry.study, entry.label, entry.against, train)
    return {name: arms[name] for name in entries}


def _in_common(train: ArmConfig, data_sets: dict[str, Data]) -> dict[str, object]:
    """What arms that are compared have in common."""
    # Flipped training labels leave the validation and test samples as they are.
    data = data_sets[train.data].model_copy(update={"flipped": 0})
    return {**train.model_dump(include={"model", "options", "epochs", "seed"}), "data": data}


def _rates(train: Mapping[str, Any], bases: list[ArmConfig]) -> dict[str, Any]:
    """The training of an arm, with what its grid takes over from those it is compared with."""
    if train.get("lrs") == "same" and bases:
        return {**train, "lrs": bases[0].lrs, "finest_ratio": bases[0].finest_ratio}
    if "lrs" in train:
        return {"finest_ratio": None, **train}
    grids = [base.lrs for base in bases if base.finest_ratio is None]
    ratios = [high / low for grid in grids for low, high in pairwise(grid)]
    return {**train, "finest_ratio": max(min(ratios), FINEST_RATIO)} if ratios else {**train}


def result_file(arm: str) -> Path:
    """Where the tuning and the replicates of an arm are kept."""
    published = Path(f"metrics/studies/arms/{arm}.json")
    return published if published.exists() else Path(f"metrics/own/arms/{arm}.json")


def tuned(arm: str) -> dict[str, Any]:
    """What the tuning of an arm found: `lr`, `on_boundary`, `matrix_side` and its settings."""
    return files.read_json(result_file(arm), "lr", "on_boundary", "matrix_side", "train")
