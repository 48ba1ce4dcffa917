"""Every stage reads what dvc.yaml says it reads, and writes what it says it writes."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, set_params, stage_outputs

STAGES = Project(ROOT).stages()


def declared_params(project: Project, stage: dict) -> dict:
    """The part of params.yaml that a stage declares."""
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    declared: dict = {}
    for key in stage.get("params", []):
        *sections, name = key.split(".")
        source, target = params, declared
        for part in sections:
            source, target = source[part], target.setdefault(part, {})
        target[name] = source[name]
    return declared


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def isolated(project: Project, stage: dict, folder: Path) -> Project:
    """A folder with the declared inputs of one stage and nothing else."""
    for dependency in stage["deps"]:
        (folder / dependency).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (project.folder / dependency).is_dir() else shutil.copy2
        copy(project.folder / dependency, folder / dependency)
    (folder / "params.yaml").write_text(yaml.safe_dump(declared_params(project, stage)))
    return Project(folder)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_needs_its_declared_inputs_alone(
    finished: Project, name: str, tmp_path: Path
) -> None:
    sandbox = isolated(finished, STAGES[name], tmp_path)
    before = files_below(tmp_path)

    sandbox.run("sh", "-c", STAGES[name]["cmd"])

    after = files_below(tmp_path)
    written = set(after) - set(before)
    assert written == set(stage_outputs(STAGES[name]))
    assert {name: after[name] for name in before} == before
    assert all(after[path] == (finished.folder / path).read_bytes() for path in written)


# A value for every parameter that differs from the one in the small project.
OTHER = {
    "seed": 1,
    "rank": 3,
    "data.train": 170,
    "data.validation": 90,
    "data.shuffle": True,
    "model.name": "cnn",
    "model.hidden": [9],
    "training.epochs": 3,
    "training.batch_size": 32,
    "tune.trials": 4,
    "tune.wave": 1,
    "tune.replicates": 3,
    "tune.lr": {"low": 0.001, "high": 0.01},
    "tune.rank": {"low": 2, "high": 7},
    "final_train.replicates": 7,
    "final_train.group": 4,
    "compare.margin": 0.9,
    "compare.targets": [2.25],
}
# These two may change the last bits of a result, which is why stages declare them, and need not.
MAY_CHANGE_NOTHING = {"device", "final_train.group"}
DECLARED = [
    (name, key)
    for name, stage in STAGES.items()
    for key in stage.get("params", [])
    if key not in MAY_CHANGE_NOTHING
]


@pytest.mark.parametrize(("name", "key"), DECLARED)
def test_every_declared_parameter_changes_an_output(
    finished: Project, name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = isolated(finished, STAGES[name], tmp_path)
    _, script, *arguments = STAGES[name]["cmd"].split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    monkeypatch.setattr(sys, "argv", [script, *arguments])

    def outputs() -> dict[str, bytes]:
        # In this process: there are many parameters, and loading torch takes seconds.
        runpy.run_path(script, run_name="__main__")
        return {path: (tmp_path / path).read_bytes() for path in stage_outputs(STAGES[name])}

    assert outputs().items() <= finished.read().items()
    set_params(sandbox.folder / "params.yaml", {key: OTHER[key]})
    assert not outputs().items() <= finished.read().items()


def test_every_parameter_is_declared_by_a_stage() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    stages = [*STAGES.values(), *Project(ROOT).studies().values()]
    declared = {key for stage in stages for key in stage.get("params", [])}
    keys = {
        f"{section}.{name}" if isinstance(value, dict) else section
        for section, value in params.items()
        for name in (value if isinstance(value, dict) else [""])
    }
    # Of these, stages declare single ones too.
    keys |= {f"studies.gradients.{name}" for name in params["studies"]["gradients"]}
    assert keys == {key for key in declared if not key.startswith("studies.arms.")}
