"""The protocol of the published experiment, many seeds of its sampler side by side.

It tuned on the first 1000 training samples, in batches of 32 for 5 epochs, for the smallest
training loss of any epoch, with Optuna's sampler of the time, and then trained once on all samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from experiment.data import Split, offline
from experiment.randomness import stream
from experiment.training import Scores, Setting, evaluate, train

if TYPE_CHECKING:
    from experiment.data import Dataset
    from experiment.work import Result

# What its searches found, and what it trained with.
REPORTED = {"adam": {"lr": 0.0059}, "lrg_adam": {"lr": 0.0064, "rank": 20}}


@dataclass(frozen=True)
class Protocol:
    """Samplers `first` to `first + size - 1`, each a whole experiment of its own."""

    seed: int
    first: int
    size: int
    hidden: tuple[int, ...]
    trials: int
    tune_samples: int
    tune_epochs: int
    tune_batch_size: int
    epochs: int
    batch_size: int
    lr: tuple[float, float]
    rank: tuple[int, int]
    training_samples: tuple[int, ...]
    offline_samples: int | None = None  # instead of the published rows; see `data.offline`

    @property
    def samplers(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.size)


def repeat(data: Dataset, task: Protocol) -> Result:
    """Run the published experiment once for each sampler.

    Args:
        data: `train` with all published training rows, `validation` with the published test rows,
            which that experiment validated on.
        task: its settings.

    Returns:
        `adam_lr`, `lrg_adam_lr` and `lrg_adam_rank` (R,), the best of each search; and for each
        number N of training samples the validation losses `adam_loss_N` and `lrg_adam_loss_N`
        (R, epochs + 1), and `adam_accuracy_N` and `lrg_adam_accuracy_N` (R,) at the last epoch;
        and `adam_reported_loss_N` and so on, trained alike with the hyperparameters of `REPORTED`.

    """
    if task.offline_samples is not None:
        train_rows, test_rows = offline(task.offline_samples)
        data = data._replace(train=train_rows, validation=test_rows)
    result: Result = {}
    lr = FloatDistribution(*task.lr, log=True)
    spaces = {"adam": {"lr": lr}, "lrg_adam": {"lr": lr, "rank": IntDistribution(*task.rank)}}
    for optimizer, space in spaces.items():
        best = _search(data, task, optimizer, space)
        for name, values in best.items():
            result[f"{optimizer}_{name}"] = torch.tensor(values, dtype=torch.float64)
        reported = {name: [value] * task.size for name, value in REPORTED[optimizer].items()}
        for samples in task.training_samples:
            for infix, hyperparameters in (("", best), ("_reported", reported)):
                scores = _final(data, task, optimizer, samples, hyperparameters)
                name = f"{optimizer}{infix}_{{}}_{samples}"
                result[name.format("loss")] = torch.stack([score.loss for score in scores], dim=1)
                result[name.format("accuracy")] = scores[-1].accuracy
    return result


def _final(
    data: Dataset,
    task: Protocol,
    optimizer: str,
    samples: int,
    hyperparameters: Mapping[str, Sequence[float]],
) -> list[Scores]:
    """Scores before training on the first samples, and after every epoch of it."""
    setting = replace(
        _setting(task, f"{optimizer}, final {samples}", hyperparameters),
        epochs=task.epochs,
        batch_size=task.batch_size,
    )
    rows = Split(*(array[:samples] for array in data.train))
    return [
        evaluate(setting.network, weights, data.validation)
        for weights in train(setting, rows, task.samplers)
    ]


def _setting(
    task: Protocol, batches: str, hyperparameters: Mapping[str, Sequence[float]]
) -> Setting:
    # As there, all trainings of an experiment begin with the same weights, and none has the batch
    # order of another.
    return Setting(
        optimizer="per_replicate",
        hyperparameters={name: tuple(values) for name, values in hyperparameters.items()},
        model="mlp",
        hidden=task.hidden,
        epochs=task.tune_epochs,
        batch_size=task.tune_batch_size,
        device="cpu",
        seed=task.seed,
        purpose="published",
        batches=batches,
    )


def _search(
    data: Dataset, task: Protocol, optimizer: str, space: Mapping[str, BaseDistribution]
) -> dict[str, list[float]]:
    """The best hyperparameters of every sampler's own search, a list each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = [
        optuna.create_study(direction="minimize", sampler=_sampler(task.seed, optimizer, number))
        for number in task.samplers
    ]
    rows = Split(*(array[: task.tune_samples] for array in data.train))
    for trial in range(task.trials):
        asked = [study.ask(space) for study in studies]
        proposed = {name: [one.params[name] for one in asked] for name in space}
        setting = _setting(task, f"{optimizer}, trial {trial}", proposed)
        losses = [
            evaluate(setting.network, weights, rows).loss
            for weights in train(setting, rows, task.samplers)
        ][1:]
        lowest = torch.stack(losses).nan_to_num(nan=math.inf).amin(0)
        for study, one, loss in zip(studies, asked, lowest.tolist(), strict=True):
            study.tell(one, loss if math.isfinite(loss) else 1e9)
    return {name: [study.best_params[name] for study in studies] for name in space}


def _sampler(seed: int, optimizer: str, number: int) -> optuna.samplers.BaseSampler:
    # What `create_study()` meant before Optuna 5: ten random trials, then one parameter at a time.
    return optuna.samplers.TPESampler(
        n_startup_trials=10,
        n_ei_candidates=24,
        multivariate=False,
        group=False,
        constant_liar=False,
        seed=int(stream(seed, "published, sampler", optimizer, number).integers(2**32)),
    )
