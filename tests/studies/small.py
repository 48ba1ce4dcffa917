"""A project whose studies are small enough to run in a test, and what may be asked of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from project import (
    ARMS,
    LAUNCHER,
    ROOT,
    SMALL,
    STUDIES,
    Project,
    declares,
    set_params,
    stage_outputs,
)

TRAINING = "stages/studies/arms/dvc.yaml"
OWN = "stages/studies/own.yaml"


def arm(label: str, *against: str, optimizer: str = "lrg_adam", **train: Any) -> dict[str, Any]:  # noqa: ANN401
    """An arm as a YAML file describes it."""
    return {
        "label": label,
        "against": list(against),
        "train": {"optimizer": optimizer, "model": "mlp", **train},
    }


# An arm of every kind, and everything else as small as it goes.
SMALL_STUDIES: dict[str, Any] = {
    "defaults": {"lrs": [0.001, 0.01, 0.03], "tuning_replicates": 2, "replicates": 4, "group": 4},
    "grids": {"short": [0.01, 0.03]},
    "rank_sweep": {
        "adam": arm("Adam", optimizer="adam"),
        "rank_1": arm("rank 1", "adam", hyperparameters={"rank": 1}),
        # The side of the matrix of 418 weights.
        "rank_21": arm("rank 21", "adam", hyperparameters={"rank": 21}),
    },
    "controls": {
        "random_subspace": arm(
            "a random direction",
            "adam",
            "rank_1",
            optimizer="controls",
            hyperparameters={"keep": "random", "rank": 1},
        ),
        "permuted": arm(
            "entries permuted",
            "rank_1",
            optimizer="controls",
            hyperparameters={"keep": "permuted", "rank": 1},
            lrs=[0.01],
        ),
        "complement": arm(
            "all but the top 1",
            "adam",
            optimizer="controls",
            hyperparameters={"keep": "rest", "rank": 1},
            lrs=[0.01],
        ),
        "energy": arm(
            "88 % of the energy",
            "adam",
            optimizer="controls",
            hyperparameters={"keep": "energy", "energy": 0.88},
            lrs=[0.01],
        ),
        "per_layer": arm(
            "one matrix per layer",
            "adam",
            hyperparameters={"rank": 0.5, "scope": "parameter"},
            lrs=[0.01],
        ),
    },
    "noise_dial": {"noise_0": arm("no noise", "adam", optimizer="adam", noise=0, replicates=3)},
    "elsewhere": {
        "logistic": arm("logistic regression", optimizer="adam", model="logistic"),
        "logistic_rank_1": arm(
            "logistic regression, rank 1",
            "logistic",
            hyperparameters={"rank": 1},
            model="logistic",
            data={"name": "mnist1d", "shuffle": True},
        ),
        "digits": arm(
            "digits", optimizer="adam", model="image_cnn", data={"name": "digits"}, lrs=[0.01]
        ),
        "cnn": arm("CNN", "adam", optimizer="adam", model="cnn", lrs=[0.01]),
    },
    "flipped_labels": {
        "flipped_adam": arm("20 % flipped", optimizer="adam", data={"flipped": 0.2}),
        "none_flipped": arm("none flipped", "flipped_adam", optimizer="adam", data={"flipped": 0}),
        "flipped_rank_1": arm(
            "20 % flipped, rank 1",
            "flipped_adam",
            hyperparameters={"rank": 1},
            data={"flipped": 0.2},
        ),
        "flipped_permuted": arm(
            "20 % flipped, entries permuted",
            "flipped_rank_1",
            optimizer="controls",
            hyperparameters={"keep": "permuted", "rank": 1},
            data={"flipped": 0.2},
            lrs=[0.01],
        ),
    },
    "approximate": {
        "certified": arm(
            "subspace iteration",
            "rank_1",
            hyperparameters={"rank": 1, "method": "subspace", "tolerance": 0.01},
        ),
    },
    "yardstick": {
        "yardstick_sgd": arm(
            "SGD", "adam", optimizer="torch.optim.SGD", hyperparameters={"momentum": 0.9}
        ),
        "yardstick_muon": arm("Muon with Adam", "adam", optimizer="muon", lrs=[0.01]),
    },
    "gradients": {
        "trajectories": {"adam": {}, "rank_1": {}, "flipped_adam": {}},
        "look": {
            "ranks": [1, 5],
            "epochs": [1, 2],
            "replicates": 3,
            "group": 2,
            "batches": 5,
            "fresh_samples": 300,
        },
    },
    "search_budget": {"samplers": 2, "trials": [1, 3]},
    "published": {
        "samplers": 4,
        "hidden": [8],
        "trials": 3,
        "tune_samples": 64,
        "tune_epochs": 1,
        "tune_batch_size": 32,
        "epochs": 2,
        "batch_size": 64,
        "lr": {"low": 0.00001, "high": 0.1},
        "rank": {"low": 2, "high": 20},
        "training_samples": [100, 150],
        "offline_samples": 200,
    },
}
STUDY = {
    name: study
    for study, arms in SMALL_STUDIES.items()
    if study not in ("defaults", "grids", "gradients", "search_budget", "published")
    for name in arms
}

# Other values of the parameters. The name of the data set is declared by the file of the data.
OTHER = {
    "seed": 1,
    "rank": 3,
    "device": "cuda",
    "data.train": 170,
    "data.validation": 90,
    "data.shuffle": True,
    "data.flipped": 0.3,
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

# Two arms of one's own, by a module that SIGN is, and by a dotted name.
OWN_STUDY: dict[str, Any] = {
    "own_studies": ["mine"],
    "own": {
        "sign": {
            "study": "mine",
            "label": "the sign of the gradient",
            "against": ["adam", "rmsprop"],
            # No model: it is the one of params.yaml.
            "train": {"optimizer": "sign", "hyperparameters": {"decay": 0.9}, "lrs": [0.001, 0.01]},
        },
        "rmsprop": {
            "study": "mine",
            **arm(
                "RMSprop",
                "adam",
                optimizer="torch.optim.RMSprop",
                model="logistic",
                hyperparameters={"momentum": 0.9, "centered": True},
            ),
        },
    },
}
SIGN = '''"""Steps along the sign of a moving average of the gradient."""

import torch


class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr, decay):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["decay"])
                weight.sub_(mean.sign(), alpha=group["lr"])


def create(params, *, lr, decay):
    return Sign(params, lr=lr, decay=decay)
'''


def write_yaml(project: Project, path: str, content: Mapping[str, Any]) -> None:
    (project.folder / path).write_text(yaml.safe_dump(content, sort_keys=False))


def read_yaml(project: Project, path: str) -> dict[str, Any]:
    return yaml.safe_load((project.folder / path).read_text())


def edit_arm(project: Project, name: str, **changes: Any) -> None:  # noqa: ANN401
    """Change keys of a published arm; those of `train` are merged with what it has."""
    content = read_yaml(project, ARMS)
    one = content[STUDY[name]][name]
    one |= {**changes, "train": one["train"] | changes.get("train", {})}
    write_yaml(project, ARMS, content)


def add_own_study(project: Project) -> None:
    write_yaml(project, OWN, OWN_STUDY)
    (project.folder / "stages/experiment/optimizers/sign.py").write_text(SIGN)


def fresh(folder: Path) -> Project:
    """A project with small studies, none of which has run."""
    project = Project.fresh(folder, SMALL, SMALL_STUDIES)
    for kind in ("metrics", "plots"):
        shutil.rmtree(project.folder / kind / "studies", ignore_errors=True)
    write_yaml(project, OWN, {"own_studies": [], "own": {}})
    project.commit("No results of studies, and no study of one's own")
    return project


def all_stages(project: Project) -> dict[str, dict]:
    """The stages of the studies by their addresses, those that train published arms among them."""
    return {
        f"{pipeline}:{name}": stage
        for pipeline in (STUDIES, TRAINING)
        for name, stage in project.stages(pipeline).items()
    }


def commands(project: Project) -> dict[str, str]:
    """The commands that DVC ran, with the settings that it wrote into them, by addresses."""
    return {
        f"{pipeline}:{name}": stage["cmd"]
        for pipeline in (STUDIES, TRAINING)
        for name, stage in read_yaml(project, pipeline.replace(".yaml", ".lock"))["stages"].items()
    }


def addresses() -> list[str]:
    """Those of all stages of a project with small studies and a study of one's own."""
    plain = [name for name in Project(ROOT).stages(STUDIES) if not name.startswith("gradients@")]
    looks = [f"gradients@{name}" for name in SMALL_STUDIES["gradients"]["trajectories"]]
    own = [f"own@{name}" for name in OWN_STUDY["own"]]
    own += [f"compare_own@{name}" for name in OWN_STUDY["own_studies"]]
    return [f"{TRAINING}:{study}@{name}" for name, study in STUDY.items()] + [
        f"{STUDIES}:{name}" for name in [*plain, *looks, *own]
    ]


def results(project: Project) -> dict[str, bytes]:
    """The bytes of every output of the studies that is there."""
    paths = [path for stage in all_stages(project).values() for path in stage_outputs(stage)]
    there = {path: project.folder / path for path in paths}
    return {path: file.read_bytes() for path, file in there.items() if file.exists()}


def files_below(folder: Path) -> dict[str, bytes]:
    """All files in a folder, but for caches and what is DVC's and Git's own."""
    hidden = {"__pycache__", ".git", ".dvc", ".scratch"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not hidden.intersection(path.relative_to(folder).parts)
    }


def long_ones(project: Project, ran: list[str]) -> list[str]:
    """What the stages that train wrote, of those that ran: `arms/adam`, `published` and so on."""
    stages = all_stages(project)
    found = []
    for address in ran:
        outputs = stage_outputs(stages[address]) if address in stages else []
        for path in outputs:
            name = path.replace("metrics/own/arms/", "own/").removeprefix("metrics/studies/")
            name = name.rpartition(".")[0]
            searches = path.endswith(("published.csv", "search_budget.csv"))
            if searches or name.split("/")[0] in ("arms", "own", "gradients"):
                found.append(name)
    return found


def trained(project: Project, *targets: str) -> list[str]:
    """What the stages that train write, of those that `dvc repro <targets>` runs."""
    return long_ones(project, project.ran("repro", *targets))


def isolated(project: Project, stage: dict, folder: Path) -> Project:
    """A folder with the declared inputs of one stage, the launcher's files and nothing else."""
    # Without a file of its own the package would be looked for elsewhere, and found where the
    # project is installed from.
    for path in [*stage["deps"], *LAUNCHER, "stages/studies/__init__.py"]:
        source, target = project.folder / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    # All of params.yaml is checked by every stage; what it does not declare must not matter.
    shutil.copy2(project.folder / "params.yaml", folder / "params.yaml")
    undeclared = {key: value for key, value in OTHER.items() if not declares(stage, key)}
    set_params(folder / "params.yaml", undeclared)
    return Project(folder)


def refused(
    project: Project, command: str, message: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Expect that a stage ends in one line, with `message` in it."""
    failed = project.run("python", "stages", *command.split(), check=False, **environment)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert re.fullmatch(r"error: .*\n", failed.stderr), failed.stderr
    return failed
