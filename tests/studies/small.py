"""A project whose studies are small enough to run in a test, and what may be asked of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo
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


def arm(
    study: str,
    label: str,
    *against: str,
    optimizer: str = "lrg_adam",
    **train: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """An arm as a YAML file describes it."""
    return {
        "study": study,
        "label": label,
        "against": list(against),
        "train": {"optimizer": optimizer, **train},
    }


def rank(rank: float, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """The hyperparameters of LRG-Adam."""
    return {"hyperparameters": {"rank": rank, **options}}


def control(label: str, *against: str, **train: Any) -> dict[str, Any]:  # noqa: ANN401
    """An arm of the study `controls` with a single learning rate."""
    return arm("controls", label, *against, lrs=[0.01], **train)


# What an arm of the small studies trains with.
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "model": "mlp",
    "data": "mnist1d",
    "epochs": 2,
    "batch_size": 64,
    "schedule": "constant",
    "warmup": 0,
    "noise": 1,
    "lrs": [0.001, 0.01, 0.03],
    "finest_ratio": None,
    "search": 0,
    "tuning_replicates": 2,
    "replicates": 4,
    "group": 4,
}
DIGITS = {"name": "digits", "train": 160, "validation": 80, "shuffle": False, "flipped": 0}
MNIST1D = {**DIGITS, "name": "mnist1d", "fresh_test": 200}
GRADIENTS = {
    "ranks": [1, 5],
    "epochs": [1, 2],
    "replicates": 3,
    "group": 2,
    "batches": 5,
    "fresh_samples": 300,
}
# An arm of every kind, and everything else as small as it goes. Reports know arms by their names:
# `rank_20` keeps one direction here.
SMALL_STUDIES: dict[str, Any] = {
    "defaults": DEFAULTS,
    "networks": {"mlp": {"hidden": [8]}},
    "grids": {"short": [0.01, 0.03]},
    "data": {
        "mnist1d": MNIST1D,
        "shuffled": {**MNIST1D, "shuffle": True},
        "flipped_20": {**MNIST1D, "flipped": 0.2},
        "digits": DIGITS,
        "text": {**DIGITS, "name": "text"},
    },
    "arms": {
        "adam": arm("rank_sweep", "Adam", optimizer="adam"),
        "rank_20": arm("rank_sweep", "one direction", "adam", lrs="same", **rank(1)),
        # The side of the matrix of 418 weights.
        "rank_21": arm("rank_sweep", "rank 21", "adam", lrs="same", **rank(21)),
        "random_subspace": arm(
            "controls",
            "a random direction",
            "adam",
            "rank_20",
            optimizer="controls",
            lrs="same",
            **rank(1, keep="random"),
        ),
        "permuted": control(
            "entries permuted", "rank_20", optimizer="controls", **rank(1, keep="permuted")
        ),
        "per_layer": control("one matrix per layer", "adam", **rank(0.5, scope="parameter")),
        "noise_0": arm(
            "noise_dial", "no noise", "adam", optimizer="adam", noise=0, replicates=3, lrs=[0.01]
        ),
        "logistic": arm("elsewhere", "logistic regression", optimizer="adam", model="logistic"),
        "logistic_rank": arm(
            "elsewhere", "logistic regression, rank 1", "logistic", model="logistic", **rank(1)
        ),
        "digits": arm(
            "elsewhere", "digits", optimizer="adam", model="image_cnn", data="digits", lrs=[0.01]
        ),
        "shuffled_adam": arm(
            "elsewhere", "shuffled", optimizer="adam", data="shuffled", lrs=[0.01]
        ),
        "shuffled_rank_20": arm(
            "elsewhere", "shuffled, one direction", "shuffled_adam", data="shuffled", **rank(1)
        ),
        "flipped_adam": arm("flipped_labels", "20 %", optimizer="adam", data="flipped_20"),
        "none_flipped": arm("flipped_labels", "none", "flipped_adam", optimizer="adam"),
        "flipped_rank_20": arm(
            "flipped_labels", "20 %, rank 1", "flipped_adam", data="flipped_20", **rank(1)
        ),
        "randomized": arm(
            "approximate",
            "randomized",
            "rank_20",
            lrs=[0.01],
            **rank(1, method="randomized", iterations=1),
        ),
        "yardstick_rmsprop": arm(
            "yardstick",
            "RMSprop",
            "adam",
            optimizer="torch.optim.RMSprop",
            hyperparameters={"momentum": 0.9},
        ),
        "yardstick_muon": arm("yardstick", "Muon", "adam", optimizer="muon", lrs=[0.01]),
        "noise_double": arm(
            "noise_dial", "twice the noise", "adam", optimizer="adam", noise=2, lrs=[0.01]
        ),
        "double_rank_20": arm(
            "batch_noise", "rank 1, noisy", "noise_double", noise=2, lrs="same", **rank(1)
        ),
        "text_adam": arm(
            "text", "text", optimizer="adam", model="transformer", data="text", lrs=[0.01]
        ),
        "text_rank": arm(
            "text",
            "text, rank 1",
            "text_adam",
            model="transformer",
            data="text",
            lrs="same",
            **rank(1),
        ),
        "transposed": arm(
            "layout",
            "transposed",
            "rank_20",
            optimizer="low_rank",
            lrs=[0.01],
            **rank(1, base="torch.optim.Adam", layout="transposed"),
        ),
        "cosine": arm(
            "schedule", "cosine", "adam", optimizer="adam", schedule="cosine", lrs=[0.01]
        ),
        "update": arm(
            "division", "update", "adam", optimizer="filtered_update", lrs=[0.01], **rank(1)
        ),
    },
    "trajectories": ["adam", "rank_20", "flipped_adam", "noise_double"],
    "gradients": GRADIENTS,
    "search_budget": {
        "samplers": 2,
        "trials": [1, 3],
        "wave": 2,
        "replicates": 2,
        "lr": {"low": 0.0001, "high": 0.1},
        "rank": {"low": 1, "high": 8},
        "model": "mlp",
        "options": {"hidden": [8]},
        "data": "mnist1d",
        "epochs": 2,
        "batch_size": 64,
    },
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
        "rmsprop": arm(
            "mine",
            "RMSprop",
            "adam",
            optimizer="torch.optim.RMSprop",
            hyperparameters={"momentum": 0.9, "centered": True},
        ),
        "sign": arm(
            "mine",
            "the sign of the gradient",
            "adam",
            "rmsprop",
            optimizer="sign",
            hyperparameters={"decay": 0.9},
            lrs=[0.001, 0.01],
        ),
    },
    "data": {},
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
    one = content["arms"][name]
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
    write_yaml(project, OWN, {"own_studies": [], "own": {}, "data": {}})
    project.commit("No results of studies, and no study of one's own")
    return project


def all_stages(project: Project) -> dict[str, dict]:
    """The stages of the studies by their addresses, those that train published arms among them."""
    return {
        f"{pipeline}:{name}": stage
        for pipeline in (STUDIES, TRAINING)
        for name, stage in project.stages(pipeline).items()
    }


def bring_a_module() -> list[str]:
    """The first of the arms with each optimizer, network and data set: one for each module."""
    found = {}
    for name, one in SMALL_STUDIES["arms"].items():
        train = DEFAULTS | one["train"]
        for key in ("optimizer", "model", "data"):
            found.setdefault((key, train[key]), name)
    return list(dict.fromkeys(found.values()))


def addresses() -> list[str]:
    """Those of all stages of a project with small studies and a study of one's own."""
    expanded = ("gradients@", "own@", "compare_own@")
    plain = [name for name in Project(ROOT).stages(STUDIES) if not name.startswith(expanded)]
    plain += [f"gradients@{name}" for name in SMALL_STUDIES["trajectories"]]
    plain += [f"own@{name}" for name in OWN_STUDY["own"]]
    plain += [f"compare_own@{name}" for name in OWN_STUDY["own_studies"]]
    arms = [f"{TRAINING}:arm@{name}" for name in SMALL_STUDIES["arms"]]
    return arms + [f"{STUDIES}:{name}" for name in plain]


def results(project: Project) -> dict[str, bytes]:
    """The bytes of every result of the studies that is there."""
    paths = [path for stage in all_stages(project).values() for path in stage_outputs(stage)]
    there = {path: project.folder / path for path in paths if not path.startswith("data/")}
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


def would_train(project: Project) -> list[str]:
    """The same of those that would run after check_arms, without running them."""
    project.dvc("repro", "-s", f"{STUDIES}:check_arms")
    with chdir(project.folder), Repo() as repo:
        return long_ones(project, list(repo.status(targets=[STUDIES, TRAINING])))


def isolated(project: Project, stage: dict, folder: Path) -> Project:
    """A folder with the declared inputs of one stage, the launcher's files and nothing else."""
    # Without a file of its own the package would be looked for elsewhere, and found where the
    # project is installed from.
    inputs = [*stage["deps"], *LAUNCHER, "stages/studies/__init__.py"]
    for path in stage["deps"]:
        if path.startswith("data/arms/"):  # it stands for the files of which it holds digests
            inputs += json.loads((project.folder / path).read_text())["inputs"]
    for path in inputs:
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
