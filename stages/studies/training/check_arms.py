"""Check all of arms.yaml and own.yaml, and try every arm, before any arm is trained."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from modulefinder import ModuleFinder
from pathlib import Path

from experiment.report.statistics import ALPHA
from experiment.stage import files, versions
from experiment.stage.data import Dataset, data_file, load
from experiment.stage.errors import UserError
from experiment.stage.params import Data
from experiment.stage.schema import read_yaml
from experiment.training import optimizer
from studies.training import arm as arm_stage
from studies.training.arms import (
    DATA,
    OWN,
    SETTINGS,
    SETTINGS_OF_ARMS,
    Arm,
    ArmConfig,
    Arms,
    Own,
    read_arms,
    read_data_sets,
    read_own,
    read_studies_without_arms,
)

STAGES = Path("stages")
# What arms that are compared have in common.
SAME = ("model", "options", "epochs", "seed", "data")


def main() -> None:
    """Write the data sets, and the complete settings of every arm and of the other studies."""
    files.write_json(versions.LISTED_FILE_OF_STUDIES, {"versions": versions.pinned()})
    arms = read_arms() | read_own()
    sections = read_data_sets() | read_yaml(OWN, Own).data
    studies = read_studies_without_arms()
    for arm in arms.values():
        if arm.train.data not in sections:
            raise UserError(
                f"{arm.where}.train.data = {arm.train.data!r}; allowed: one of the data sets "
                f"under data, {', '.join(sections)}"
            )
        _check_comparison(arm, arms, sections)
    _note_too_few_replicates(arms)
    seed = studies["gradients"].seed
    data_sets = {}
    for name, section in sections.items():
        data_sets[name], title = load(section, seed, f"data.{name}")
        data_sets[name].write(f"{DATA}/{name}", title)
    for arm in arms.values():
        _try(arm, data_sets[arm.train.data])
    for name, arm in arms.items():
        content = {
            "train": arm.train.model_dump(),
            "data": sections[arm.train.data].model_dump(),
            "versions": _versions(arm.train.optimizer),
            "inputs": {path.as_posix(): arm_stage.sha256(path) for path in _inputs(arm)},
        }
        files.write_json(SETTINGS_OF_ARMS / f"{name}.json", content)
    for name, study in studies.items():
        files.write_json(SETTINGS / f"{name}.json", study.model_dump())


def _check_comparison(arm: Arm, arms: Arms, sections: Mapping[str, Data]) -> None:
    """Raise UserError if an arm differs from one in `against` in more than its optimization."""

    def setting(train: ArmConfig, key: str) -> object:
        if key == "data":  # flipped training labels leave the validation and test samples alike
            return sections[train.data].model_copy(update={"flipped": 0})
        return getattr(train, key)

    for base in arm.against:
        other = arms[base].train
        for key in SAME:
            if setting(arm.train, key) != setting(other, key):
                raise UserError(
                    f"{arm.where}.train.{key} = {getattr(arm.train, key)!r}; allowed: that of "
                    f"{base}, which is in against, {getattr(other, key)!r}"
                )


def _note_too_few_replicates(arms: Arms) -> None:
    """Print which comparisons cannot be decided: p-values are at least 2 / 2^replicates."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for arm in arms.values():
        for base in arm.against:
            pairs = min(arm.train.replicates, arms[base].train.replicates)
            families[arm.study, base].append(pairs)
    for (study, base), counts in families.items():
        needed = math.ceil(math.log2(2 * len(counts) / ALPHA))
        if min(counts) < needed:
            print(
                f"note: study {study}: with {min(counts)} replicates no difference from {base} can "
                f"be shown; allowed: replicates of at least {needed}"
            )


def _try(arm: Arm, dataset: Dataset) -> None:
    """Raise UserError if the arm's optimizer cannot train its network on its data."""
    if arm.train.batch_size > len(dataset.train.y):
        raise UserError(
            f"{arm.where}.train.batch_size = {arm.train.batch_size}; allowed: at most "
            f"{len(dataset.train.y)} (the training samples)"
        )
    highest = {name: interval.high for name, interval in arm.train.searched().items()}
    run = arm_stage.config(arm.train, purpose="check", **{**highest, "lr": arm.train.lrs[0]})
    optimizer.check(
        run.optimizer,
        run.hyperparameters,
        run.network(dataset.train),
        f"{arm.where}.train",
        scheduled=run.schedule != "constant" or run.warmup > 0,
    )


def _versions(name: str) -> dict[str, str]:
    """The version of the package that a dotted name belongs to."""
    top, dot, _ = name.partition(".")
    packages = packages_distributions().get(top, []) if dot else []
    return {package: version(package) for package in sorted(set(packages))}


def _inputs(arm: Arm) -> list[Path]:
    """The data of an arm, and the project's modules that training it imports."""
    finder = ModuleFinder(path=[str(STAGES)])
    finder.import_hook("studies.training.arm")
    finder.import_hook(f"experiment.networks.{arm.train.model}")
    if "." not in arm.train.optimizer:
        finder.import_hook(f"experiment.optimizers.{arm.train.optimizer}")
    files = [vars(module)["__file__"] for module in finder.modules.values()]
    modules = [Path(file).relative_to(Path.cwd()) for file in files if file]
    return [*sorted(modules), data_file(f"{DATA}/{arm.train.data}")]
