"""Check all of arms.yaml and own.yaml, and try every arm, before any arm is trained."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from importlib.metadata import packages_distributions, version
from modulefinder import ModuleFinder
from pathlib import Path

from experiment.report.statistics import ALPHA
from experiment.stage import files, versions
from experiment.stage.data import Dataset, data_file, load
from experiment.stage.errors import UserError
from experiment.stage.schema import read_yaml
from experiment.training import optimizer
from studies.training import arm as arm_stage
from studies.training import arms
from studies.training.arms import Arm


def main() -> None:
    """Write the data sets, and the complete settings of every arm and of the other studies."""
    files.write_json(versions.LISTED_FILE_OF_STUDIES, {"versions": versions.pinned()})
    every = arms.read_arms() | arms.read_own()
    sections = arms.read_data_sets() | read_yaml(arms.OWN, arms.Own).data
    studies = arms.read_studies_without_arms()
    _note_too_few_replicates(every)
    data_sets = {}
    for name, section in sections.items():
        data_sets[name], title = load(section, studies["gradients"].seed, f"data.{name}")
        data_sets[name].write(f"{arms.DATA}/{name}", title)
    for arm in every.values():
        _try(arm, data_sets[arm.train.data])
    for name, arm in every.items():
        content = {
            "train": arm.train.model_dump(),
            "data": sections[arm.train.data].model_dump(),
            "versions": _versions(arm.train.optimizer),
            "inputs": {path.as_posix(): arm_stage.sha256(path) for path in _inputs(arm)},
        }
        files.write_json(arms.SETTINGS_OF_ARMS / f"{name}.json", content)
    for name, study in studies.items():
        files.write_json(arms.SETTINGS / f"{name}.json", study.model_dump())


def _note_too_few_replicates(every: arms.Arms) -> None:
    """Print which comparisons cannot be decided: p-values are at least 2 / 2^replicates."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for arm in every.values():
        for base in arm.against:
            pairs = min(arm.train.replicates, every[base].train.replicates)
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
    modules = _modules(arm.train.model, arm.train.optimizer)
    return [*modules, data_file(f"{arms.DATA}/{arm.train.data}")]


@functools.cache
def _modules(model: str, optimizer: str) -> list[Path]:
    finder = ModuleFinder(path=["stages"])
    finder.import_hook("studies.training.arm")
    finder.import_hook(f"experiment.networks.{model}")
    if "." not in optimizer:
        finder.import_hook(f"experiment.optimizers.{optimizer}")
    found = [vars(module)["__file__"] for module in finder.modules.values()]
    return sorted(Path(file).relative_to(Path.cwd()) for file in found if file)
