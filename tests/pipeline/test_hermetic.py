"""Every stage reads what dvc.yaml says it reads, and writes what it says it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from project import (
    LAUNCHER,
    LESSER_PROCESSOR,
    ROOT,
    Project,
    declares,
    leaves,
    set_params,
    stage_outputs,
    stage_params,
)
from test_offline import run_audited

STAGES = Project(ROOT).stages()

# A value for every parameter that differs from the one in the small project.
OTHER = {
    "seed": 1,
    "rank": 3,
    "device": "cuda",
    "adam.weight_decay": 0.1,
    "lrg_adam.weight_decay": 0.1,
    "lrg_adam.method": "svd",
    "data.train": 170,
    "data.validation": 90,
    "data.shuffle": True,
    "data.flipped": 0.3,
    "model.hidden": [9],
    "training.epochs": 3,
    "training.batch_size": 32,
    "training.schedule": "cosine",
    "training.warmup": 0.5,
    "tune.trials": 4,
    "tune.wave": 1,
    "tune.replicates": 3,
    "tune.lr.low": 0.001,
    "tune.lr.high": 0.01,
    "tune.rank.low": 2,
    "tune.rank.high": 7,
    "final_train.replicates": 7,
    "final_train.group": 4,
    "compare.margin": 0.9,
    "compare.targets": [2.25],
}
# DVC makes paths of these: another value needs other files.
IN_PATHS = {"data.name", "model.name"}
# These two may change the last bits of a result, which is why stages declare them, and need not.
MAY_CHANGE_NOTHING = {"device", "final_train.group"}
# Keys that a stage declares and that do not matter to it.
BROUGHT_ALONG = {
    # Every key can end this stage; what it writes is always the same.
    "check_params": set(OTHER),
    # MNIST-1D is the published one whatever the seed; other data are split by it.
    "fetch_data": {"seed"},
}


def files_below(folder: Path) -> dict[str, bytes]:
    """The files in a folder, without what Git ignores: bytecode and finished tasks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".scratch"} & set(path.parts)
    }


def isolated(project: Project, stage: dict, folder: Path) -> Project:
    """A folder with the declared inputs of one stage, the launcher's files and nothing else.

    Every stage checks all of params.yaml; what it does not declare has another value there.
    """
    for path in [*stage["deps"], *LAUNCHER, *stage_params(stage), "params.yaml"]:
        source, target = project.folder / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    undeclared = {key: value for key, value in OTHER.items() if not declares(stage, key)}
    set_params(folder / "params.yaml", undeclared)
    return Project(folder)


def test_every_parameter_has_another_value(finished: Project) -> None:
    params = yaml.safe_load((finished.folder / "params.yaml").read_text())
    assert set(leaves(params)) == OTHER.keys() | IN_PATHS
    for key, other in OTHER.items():
        value = params
        for part in key.split("."):
            value = value[part]
        assert value != other


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_needs_its_declared_inputs_alone_and_gives_the_same_bytes_on_a_lesser_processor(
    finished: Project, name: str, tmp_path: Path
) -> None:
    """It also warns of nothing, unpickles nothing, connects to nothing and needs no notebook."""
    sandbox = isolated(finished, STAGES[name], tmp_path / "sandbox")
    before = files_below(sandbox.folder)

    environment = {"PYTHONWARNINGS": "error", "MPLBACKEND": "module://of_a_notebook"}
    environment |= LESSER_PROCESSOR
    run_audited(sandbox, STAGES[name]["cmd"], tmp_path, **environment)

    after = files_below(sandbox.folder)
    written = set(after) - set(before)
    assert written == set(stage_outputs(STAGES[name]))
    assert {name: after[name] for name in before} == before
    assert all(after[path] == (finished.folder / path).read_bytes() for path in written)


@pytest.mark.parametrize("name", STAGES)
def test_every_declared_parameter_changes_an_output(
    finished: Project, name: str, tmp_path: Path, run_here: Callable[[Project, str], None]
) -> None:
    sandbox = isolated(finished, STAGES[name], tmp_path)
    params = sandbox.folder / "params.yaml"
    text = params.read_text()

    outputs = stage_outputs(STAGES[name])
    before = {path: (finished.folder / path).read_bytes() for path in outputs}

    def same() -> bool:
        run_here(sandbox, STAGES[name]["cmd"])
        return {path: (tmp_path / path).read_bytes() for path in outputs} == before

    exempt = MAY_CHANGE_NOTHING | BROUGHT_ALONG.get(name, set())
    matter = {key for key in OTHER if declares(STAGES[name], key)} - exempt
    idle = set()
    assert same()
    for key in sorted(matter):
        params.write_text(text)
        set_params(params, {key: OTHER[key]})
        if same():
            idle.add(key)
    assert idle == set()
