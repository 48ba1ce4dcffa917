"""Train many replicates with the tuned parameters, and score them on the test set."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from experiment import files, versions
from experiment.data import Dataset
from experiment.errors import UserError
from experiment.outcomes import outcomes
from experiment.params import read_params
from experiment.statistics import mean_interval
from experiment.training import Group, Setting, train_group
from experiment.work import Work, merged, spans

READS = (
    *Setting.READS,
    "final_train.replicates",
    "final_train.group",
)
CURVES = ("train_loss_nats", "validation_loss_nats", "validation_accuracy_share")


def history(curves: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row an epoch: of every curve (replicates, epochs) the mean and its 95 % interval."""
    columns = {"epoch": np.arange(curves["validation_loss_nats"].shape[1])}
    for name in CURVES:
        mean, low, high = mean_interval(curves[name])
        columns |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns)


def curve_of_each(losses: np.ndarray) -> pd.DataFrame:
    """A row for each replicate and epoch, the first before training."""
    replicates, epochs = np.indices(losses.shape)
    return pd.DataFrame(
        {
            "replicate": replicates.ravel(),
            "epoch": epochs.ravel(),
            "validation_loss_nats": losses.ravel(),
        }
    )


def summary(replicates: pd.DataFrame) -> dict[str, float]:
    """Mean and standard deviation over replicates of every column."""
    measures = replicates.drop(columns="replicate")
    return {
        f"{name}_{suffix}": float(value)
        for name in measures
        for suffix, value in (("mean", measures[name].mean()), ("sd", measures[name].std()))
    }


def main(optimizer: str) -> None:
    """Write the models, the histories and the outcomes of one optimizer."""
    params = read_params(READS)
    best = files.read_best(optimizer)
    setting = Setting.of(params, optimizer, best, purpose="final_train")
    total, size = params.final_train.replicates, params.final_train.group
    groups = [Group(setting, *span) for span in spans(total, size)]

    with Work(
        f"final_train_{optimizer}",
        Dataset.read(),
        device=params.device,
        total=len(groups),
        unit="group",
    ) as work:
        result = merged(work.run(train_group, groups))
        weights = {name: result.pop(name) for name in setting.network.shapes}
        curves = {name: tensor.numpy() for name, tensor in result.items()}
        diverged = np.flatnonzero(~np.isfinite(curves["train_loss_nats"]).all(axis=1))
        if len(diverged):
            raise UserError(
                f"{len(diverged)} of {total} replicates diverged with {best}: "
                f"{', '.join(map(str, diverged))}"
            )

        replicates = outcomes(curves)
        files.write_tensors(Path(f"models/{optimizer}.pt"), weights)
        files.write_csv(Path(f"plots/history/{optimizer}.csv"), history(curves))
        files.write_csv(Path(f"metrics/replicates/{optimizer}.csv"), replicates)
        files.write_csv(
            Path(f"metrics/replicates/{optimizer}_validation_loss.csv"),
            curve_of_each(curves["validation_loss_nats"]),
        )
        files.write_json(Path(f"metrics/{optimizer}.json"), summary(replicates))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("optimizer", choices=("adam", "lrg_adam"))
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        main(parser.parse_args().optimizer)
