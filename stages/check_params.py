"""Check all of params.yaml, so that a mistake ends the run before any other stage."""

from inspect import signature

from torch.optim import Adam

from experiment.stage import data, files, versions
from experiment.stage.errors import UserError
from experiment.stage.params import PARAMS_FILE, Params, read_params
from experiment.training import optimizer
from experiment.training.network import Network, build
from experiment.training.search import hyperparameters, search_space
from experiment.training.work import Work
from lrg_adam import LRGAdam

OPTIMIZERS = {"adam": Adam, "lrg_adam": LRGAdam}
# Their arguments that the pipeline sets itself.
SET_ELSEWHERE = {
    *("params", "lr", "rank", "batch_dims", "nonfinite"),
    *("foreach", "fused", "capturable", "differentiable"),
}


def main() -> None:
    """Write data/versions.json, the package versions that every other stage requires."""
    # Written first: DVC has deleted it, and no output may be missing after a mistake.
    files.write_json(versions.LISTED_FILE, {"versions": versions.pinned()})
    params = read_params()
    dataset, _ = data.load(params.data, params.seed)
    train = dataset.train
    network = build(params.model.name, params.model.options, train)
    side = network.matrix_side
    limits = {
        "training.batch_size": (params.training.batch_size, len(train.y), "the training samples"),
        "tune.rank.low": (params.tune.rank.low, side - 1, "below the side of the gradient matrix"),
    }
    for key, (value, limit, why) in limits.items():
        if value > limit:
            raise UserError(f"{PARAMS_FILE}: {key} = {value}; allowed: at most {limit} ({why})")
    for name in OPTIMIZERS:
        check_hyperparameters(params, name, network)
    # This finds a missing GPU, and a cluster that does not answer.
    with Work("check_params", dataset, device=params.device, total=1, unit="check"):
        pass


def check_hyperparameters(params: Params, name: str, network: Network) -> None:
    """Try an optimizer at both ends of every search interval; UserError if it cannot train."""
    known = [key for key in signature(OPTIMIZERS[name]).parameters if key not in SET_ELSEWHERE]
    for key, value in getattr(params, name).items():
        if key not in known:
            raise UserError(
                f"{PARAMS_FILE}: unknown key {name}.{key} = {value!r}; "
                f"allowed in its place: {', '.join(known)}"
            )
    fixed, searched = hyperparameters(params, name)
    space = search_space(searched, network.matrix_side)
    where = f"{PARAMS_FILE}: {name}"
    for end in ("low", "high"):
        point = {key: getattr(interval, end) for key, interval in space.items()}
        try:
            optimizer.check(name, {**fixed, **point}, network, where)
        except UserError as error:
            # An arm has a section for them. Here they are the section, and ranks are elsewhere.
            rank = "tune.rank.high" if params.rank == "tuned" else "rank"
            line = str(error).replace(f"{where}.hyperparameters.rank", f"{PARAMS_FILE}: {rank}")
            raise UserError(line.replace(f"{where}.hyperparameters", where)) from None
