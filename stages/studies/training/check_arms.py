"""Check arms.yaml and own.yaml as a whole, before any arm is trained."""

from studies.training import shared
from studies.training.arms import read_arms, read_own


def main() -> None:
    """Write data/studies.json, which every arm depends on."""
    read_arms()
    read_own()
    shared.write()
