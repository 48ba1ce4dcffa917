"""The hyperparameters in params.yaml: their types and ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from experiment.stage.schema import (
    HYPERPARAMETERS,
    MODULE,
    Hyperparameter,
    LearningRates,
    Rank,
    Real,
    SearchInterval,
    Section,
    Whole,
    read_yaml,
    whole,
)

PARAMS_FILE = Path("params.yaml")


class _PlugIn(Section):
    """A module that the user selects, and its options."""

    # A user's module may take more keys; `plugins.arguments` checks them.
    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=MODULE, description="the name of a module")

    @property
    def options(self) -> dict[str, Any]:
        """All keys except the name."""
        return self.model_dump(exclude={"name"})


class Data(_PlugIn):
    """The data set."""

    train: Whole = whole(1, 10_000_000)
    validation: Whole = whole(1, 10_000_000)
    shuffle: bool = Field(strict=True, description="true or false")
    flipped: Real = Field(ge=0, lt=1, description="a number of at least 0 and below 1")


class Model(_PlugIn):
    """The network."""

    hidden: list[Annotated[Whole, Field(ge=1, le=4096)]] = Field(
        min_length=1, max_length=8, description="a list of 1 to 8 whole numbers from 1 to 4096"
    )


class Training(Section):
    """One training run, the same in tuning and final training."""

    epochs: Whole = whole(1, 10_000)
    batch_size: Whole = whole(1, 10_000_000)
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant", description="constant, cosine or linear"
    )
    warmup: Real = Field(default=0.0, ge=0, lt=1, description="a number of at least 0 and below 1")


class RankInterval(SearchInterval):
    """Search interval of the rank, ends included."""

    low: Whole = whole(1, 100_000)
    high: Literal["full"] | Rank = Field(
        description="full, one less than the side of the gradient matrix, or a whole number "
        "from 1 to that side"
    )


class Tune(Section):
    """The search for the best learning rate and rank."""

    trials: Whole = whole(1, 10_000)
    wave: Whole = whole(1, 10_000)
    replicates: Whole = whole(1, 1_000)
    lr: LearningRates
    rank: RankInterval


class FinalTrain(Section):
    """Training with the tuned parameters."""

    replicates: Whole = whole(2, 10_000)
    group: Whole = whole(1, 1_000)


class Compare(Section):
    """What counts as a difference."""

    margin: Real = Field(gt=0, lt=1, description="a number above 0 and below 1")
    targets: list[Annotated[Real, Field(gt=0)]] = Field(
        min_length=1, description="a list of numbers above 0"
    )


class TrainingParams(Section):
    """What every training run, and so every arm of a study, depends on."""

    seed: Whole = whole(0, 2**32 - 1)
    device: Literal["cpu", "cuda"] = Field(description="cpu or cuda")
    data: Data
    model: Model
    training: Training


class Params(TrainingParams):
    """All of params.yaml."""

    rank: Literal["tuned"] | Rank = Field(
        description="tuned, or a whole number from 1 to the side of the gradient matrix"
    )
    adam: dict[str, Hyperparameter] = Field(description=HYPERPARAMETERS)
    lrg_adam: dict[str, Hyperparameter] = Field(description=HYPERPARAMETERS)
    tune: Tune
    final_train: FinalTrain
    compare: Compare


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read all parameters; a mistake raises UserError, see `schema.read_yaml`.

    The stage check_params checks them against the data and the network.
    """
    return read_yaml(path, Params)
