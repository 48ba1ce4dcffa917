"""Generate MNIST-1D as published and split it into training, validation and test samples."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
from experiment import data, files, versions
from experiment.params import read_params

READS = ("data.train", "data.validation", "data.shuffle")


def main() -> None:
    """Write data/mnist1d.npz."""
    params = read_params(READS)
    data.split(data.published(), params.data).write()


if __name__ == "__main__":
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        main()
