"""Check all of params.yaml, so that a mistake ends the run before any other stage."""

from experiment.stage import data, files, versions
from experiment.stage.errors import UserError
from experiment.stage.params import PARAMS_FILE, read_params
from experiment.training.network import build


def main() -> None:
    """Write data/versions.json, the package versions that every other stage requires."""
    # Written first: DVC has deleted it, and no output may be missing after a mistake.
    files.write_json(versions.LISTED_FILE, {"versions": versions.pinned()})
    params = read_params()
    dataset, _ = data.load(params.data, params.seed)
    train = dataset.train
    network = build(params.model.name, params.model.options, train)
    side = network.matrix_side
    matrix = f"the side of the gradient matrix of the {params.model.name} on {params.data.name}"
    limits = {
        "training.batch_size": (params.training.batch_size, len(train.y), "the training samples"),
        "rank": (params.rank, side, matrix),
        "tune.rank.low": (params.tune.rank.low, side - 1, f"below {matrix}"),
        "tune.rank.high": (params.tune.rank.high, side, matrix),
    }
    for key, (value, limit, why) in limits.items():
        if isinstance(value, int) and value > limit:
            raise UserError(f"{PARAMS_FILE}: {key} = {value}; allowed: at most {limit} ({why})")
