"""Check all of arms.yaml and own.yaml before any arm is trained."""

from experiment.stage.params import read_params
from studies.training import shared
from studies.training.arms import data_of, read_arms, read_own


def main() -> None:
    """Write data/studies.json, which every arm depends on."""
    common = read_params().data
    for name, arm in {**read_arms(), **read_own()}.items():
        data_of(common, arm.train.data, f"arm {name}")
    shared.write()
