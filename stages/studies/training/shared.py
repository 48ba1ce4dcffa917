"""What all studies share: the parameters of a training, and the pinned versions.

Every arm depends on the one file that holds them.
"""

from experiment.stage import files, versions
from experiment.stage.params import TrainingParams, read_params
from experiment.stage.schema import checked

SHARED_FILE = versions.LISTED_FILE_OF_STUDIES


def write() -> None:
    """Write the parameters from params.yaml and the pins from constraints.txt."""
    params = read_params().model_dump(include=set(TrainingParams.model_fields))
    files.write_json(SHARED_FILE, {"versions": versions.pinned(), **params})


def read() -> TrainingParams:
    """Read the parameters that `write` wrote."""
    content = files.read_json(SHARED_FILE, "versions")
    del content["versions"]
    return checked(TrainingParams, content, f"{SHARED_FILE}: ")
