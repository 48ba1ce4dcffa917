"""A copy of this repository in a folder of its own, to run the real dvc in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STUDIES = "stages/studies/dvc.yaml"
ARMS = "stages/studies/arms/dvc.yaml"

# Small enough that every stage is done in seconds.
SMALL = {
    "data.train": 160,
    "data.validation": 80,
    "model.hidden": [8],
    "training.epochs": 2,
    "tune.trials": 3,
    "tune.wave": 2,
    "tune.replicates": 2,
    "tune.rank.high": 8,  # below 10: pinning the rank at 10 is a change
    "final_train.replicates": 6,
    "final_train.group": 3,
    "compare.targets": [2.3, 2.2],
}

# An arm of every kind, and everything else as small as it goes.
SMALL_STUDIES = SMALL | {
    "studies.lrs": [0.001, 0.01, 0.03],
    "studies.tuning_replicates": 2,
    "studies.replicates": 4,
    "studies.group": 4,
    "studies.arms": {
        name: {"label": name.replace("_", " "), **arm}
        for name, arm in {
            "adam": {"study": "rank_sweep", "train": {"optimizer": "adam"}},
            "rank_1": {
                "study": "rank_sweep",
                "against": ["adam"],
                "train": {"optimizer": "lrg_adam", "hyperparameters": {"rank": 1}},
            },
            # The side of the matrix of 418 weights.
            "rank_21": {
                "study": "rank_sweep",
                "against": ["adam"],
                "train": {"optimizer": "lrg_adam", "hyperparameters": {"rank": 21}},
            },
            "random_subspace": {
                "study": "controls",
                "against": ["adam", "rank_1"],
                "train": {"optimizer": "adam_random_subspace", "hyperparameters": {"rank": 1}},
            },
            "noise_0": {
                "study": "noise_dial",
                "against": ["adam"],
                "train": {"optimizer": "adam", "noise": 0, "replicates": 3},
            },
            "logistic": {
                "study": "elsewhere",
                "train": {"optimizer": "adam", "model": "logistic"},
            },
            "logistic_rank_1": {
                "study": "elsewhere",
                "against": ["logistic"],
                "train": {
                    "optimizer": "lrg_adam",
                    "hyperparameters": {"rank": 1},
                    "model": "logistic",
                    "shuffle": True,
                },
            },
            "certified": {
                "study": "approximate",
                "against": ["rank_1"],
                "train": {
                    "optimizer": "lrg_adam",
                    "hyperparameters": {"rank": 1, "method": "subspace", "tolerance": 0.01},
                },
            },
        }.items()
    },
    "studies.gradients": {
        "trajectories": ["adam", "rank_1"],
        "ranks": [1, 5],
        "epochs": [1, 2],
        "replicates": 3,
        "group": 2,
        "batches": 5,
        "fresh_samples": 300,
    },
    "studies.published.samplers": 4,
    "studies.published.group": 2,
    "studies.published.trials": 3,
    "studies.published.tune_samples": 64,
    "studies.published.tune_epochs": 1,
    "studies.published.epochs": 2,
    "studies.published.training_samples": [100, 150],
    "studies.published.offline_samples": 200,
}

ENVIRONMENT = {
    **os.environ,
    # The stages run as `python`, which is to be the one that runs the tests.
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "EXPERIMENT_WORKERS": "1",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "A researcher",
    "GIT_AUTHOR_EMAIL": "researcher@example.org",
    "GIT_COMMITTER_NAME": "A researcher",
    "GIT_COMMITTER_EMAIL": "researcher@example.org",
}


def set_params(path: Path, changes: dict[str, object]) -> None:
    """Change dotted keys of a params.yaml."""
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        assert name in section, f"no parameter {key}"
        section[name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def copy_repository(folder: Path) -> None:
    """Copy all files of this repository that Git does not ignore, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Project:
    """A copy of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def fresh(cls, folder: Path, changes: dict[str, object] = SMALL) -> Project:
        """A new Git repository with this one's files, as they are now, and no results."""
        copy_repository(folder)
        for lock in folder.rglob("dvc.lock"):
            lock.unlink()
        project = cls(folder)
        for output in project.outputs():
            (folder / output).unlink(missing_ok=True)
        set_params(folder / "params.yaml", changes)
        project.run("git", "init", "-q", "-b", "main")
        project.commit("The repository, with small parameters")
        return project

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Project(folder)

    def run(
        self, *command: str | Path, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def dvc(
        self, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the dvc that is installed beside the tests."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check, **environment)

    def ran(self, *arguments: str) -> list[str]:
        """The stages that `dvc <arguments>` ran."""
        return re.findall(r"^Running stage '([^']+)'", self.dvc(*arguments).stdout, re.MULTILINE)

    def commit(self, message: str) -> None:
        """Commit all that Git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def stages(self, pipeline: str = "dvc.yaml") -> dict[str, dict]:
        """The stages as a dvc.yaml declares them, a matrix or foreach stage once for each item."""
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        stages = {}
        for name, stage in yaml.safe_load((self.folder / pipeline).read_text())["stages"].items():
            for suffix, one in _expanded(stage, params):
                stages[f"{name}@{suffix}" if suffix else name] = one
        return stages

    def studies(self) -> dict[str, dict]:
        """The stages of the studies, the arms first."""
        return self.stages(ARMS) | self.stages(STUDIES)

    def outputs(self) -> list[str]:
        """Every path that a stage writes."""
        stages = [*self.stages().values(), *self.studies().values()]
        return [path for stage in stages for path in stage_outputs(stage)]

    def read(self) -> dict[str, bytes]:
        """The bytes of every output that is there."""
        paths = {path: self.folder / path for path in self.outputs()}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def _expanded(stage: dict, params: dict) -> Iterator[tuple[str, dict]]:
    """A stage for each of its items, with the suffix that dvc gives to its name."""
    if "matrix" in stage:
        ((key, values),) = stage["matrix"].items()
        replaced = {str(value): {f"${{item.{key}}}": str(value)} for value in values}
        body = stage
    elif "foreach" in stage:
        section = params
        for part in stage["foreach"][2:-1].split("."):
            section = section[part]
        if isinstance(section, dict):
            replaced = {
                name: {"${key}": name, **dict(_references("item", item))}
                for name, item in section.items()
            }
        else:
            replaced = {str(item): {"${item}": str(item)} for item in section}
        body = stage["do"]
    else:
        replaced, body = {"": {}}, stage
    for suffix, names in replaced.items():
        text = yaml.safe_dump(body)
        for name, value in names.items():
            text = text.replace(name, value)
        yield suffix, yaml.safe_load(text)


def _references(name: str, value: object) -> Iterator[tuple[str, str]]:
    """How a dvc.yaml refers to the values in a section, with what stands there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _references(f"{name}.{key}", inner)
    else:
        yield f"${{{name}}}", str(value)


def stage_outputs(stage: dict) -> list[str]:
    """Every path that one stage writes."""
    listed = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [path if isinstance(path, str) else next(iter(path)) for path in listed]
