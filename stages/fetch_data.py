"""Create the data set and split it into training, validation and test samples."""

from experiment.stage import data
from experiment.stage.params import read_params


def main() -> None:
    """Write data/<data.name>.npz."""
    params = read_params()
    dataset, title = data.load(params.data, params.seed)
    dataset.write(params.data.name, title)
