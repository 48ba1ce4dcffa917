"""Find the learning rate, the rank and other searched hyperparameters of the lowest loss."""

from pathlib import Path

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from experiment.training.loop import RunConfig
from experiment.training.search import (
    hyperparameters,
    on_boundary,
    search_space,
    table,
    train_trials,
)
from experiment.training.work import Work


def main(optimizer: str) -> None:
    """Write metrics/tune_<optimizer>.json."""
    params = read_params()
    tune = params.tune
    dataset = Dataset.read(params.data.name)
    fixed, searched = hyperparameters(params, optimizer)
    config = RunConfig.of(params, optimizer, fixed, purpose="tune")
    space = search_space(searched, config.network(dataset.train).matrix_side)
    size = tune.model_dump(include={"trials", "wave", "replicates"})
    name = f"tune_{optimizer}"
    with Work(name, dataset, device=params.device, total=tune.trials, unit="trial") as work:
        trials = train_trials(work, config, space, **size, seed=params.seed)
        best = min(trials, key=lambda trial: trial.validation_loss)
        if best.validation_loss == float("inf"):
            raise UserError(
                f"every trial diverged; params.yaml: tune.lr = {dict(tune.lr)}; "
                "allowed: an interval with a learning rate that trains"
            )
        rank = {"rank": fixed["rank"]} if "rank" in fixed else {}
        files.write_json(
            Path(f"metrics/{name}.json"),
            {
                "best": {**best.hyperparameters, **rank},
                "on_boundary": ", ".join(on_boundary(space, best.hyperparameters)) or None,
                "trials": files.rows(table(trials, **rank)),
            },
        )
