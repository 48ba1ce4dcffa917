"""Find the learning rate, and for LRG-Adam the rank, with the lowest validation loss."""

from pathlib import Path

from experiment.stage import files
from experiment.stage.data import Dataset
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from experiment.training.loop import RunConfig
from experiment.training.search import on_boundary, search_space, table, train_trials
from experiment.training.work import Work


def main(optimizer: str) -> None:
    """Write metrics/tune_<optimizer>.json."""
    params = read_params()
    how = params.tune
    dataset = Dataset.read(params.data.name)
    fixed = {} if optimizer == "adam" or params.rank == "tuned" else {"rank": params.rank}
    setting = RunConfig.of(params, optimizer, fixed, purpose="tune")
    side = setting.network(dataset.train).matrix_side
    space = search_space(optimizer, how, params.rank, side)
    with Work(
        f"tune_{optimizer}", dataset, device=params.device, total=how.trials, unit="trial"
    ) as work:
        trials = train_trials(work, setting, space, how, params.seed)
        best = min(trials, key=lambda trial: trial.validation_loss)
        if best.validation_loss == float("inf"):
            raise UserError(
                f"every trial diverged; params.yaml: tune.lr = {dict(how.lr)}; "
                "allowed: an interval with a learning rate that trains"
            )
        files.write_json(
            Path(f"metrics/tune_{optimizer}.json"),
            {
                "best": {**best.hyperparameters, **fixed},
                "on_boundary": ", ".join(on_boundary(space, best.hyperparameters)) or None,
                "trials": files.rows(table(trials, fixed)),
            },
        )
