"""Train many replicates with the tuned hyperparameters, and score them on the test set."""

from pathlib import Path

import numpy as np
import pandas as pd

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from experiment.training.loop import Group, RunConfig, outcomes, train_group
from experiment.training.search import read_best
from experiment.training.work import Work, merged, spans

CURVES = ("train_loss_nats", "validation_loss_nats", "validation_accuracy_share")


def main(optimizer: str) -> None:
    """Write models/<optimizer>.pt and metrics/<optimizer>.json."""
    params = read_params()
    dataset = Dataset.read(params.data.name)
    best = read_best(params, optimizer)
    config = RunConfig.of(params, optimizer, best, purpose="final_train")
    total, size = params.final_train.replicates, params.final_train.group
    groups = [Group(config, *span, weights=True) for span in spans(total, size)]

    name = f"final_train_{optimizer}"
    with Work(name, dataset, device=params.device, total=len(groups), unit="group") as work:
        trained = merged(work.run(train_group, groups))
        weights = {
            name.removeprefix("weights."): trained.pop(name)
            for name in list(trained)
            if name.startswith("weights.")
        }
        found = {name: tensor.numpy() for name, tensor in trained.items()}
        diverged = np.flatnonzero(~np.isfinite(found["train_loss_nats"]).all(axis=1))
        if len(diverged):
            raise UserError(
                f"{len(diverged)} of {total} replicates diverged with {best}: "
                f"{', '.join(map(str, diverged))}"
            )
        history = pd.DataFrame({name: found[name].mean(axis=0) for name in CURVES})
        history.insert(0, "epoch", history.index)
        replicates = outcomes(found)
        replicates["validation_losses_nats"] = found["validation_loss_nats"].tolist()
        files.write_tensors(Path(f"models/{optimizer}.pt"), weights)
        files.write_json(
            Path(f"metrics/{optimizer}.json"),
            {"history": files.rows(history), "replicates": replicates.to_dict("list")},
        )
