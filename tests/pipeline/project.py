"""A copy of this repository in a folder of its own, to run the real dvc in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

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


class Project:
    """A copy of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def fresh(cls, folder: Path, changes: dict[str, object] = SMALL) -> Project:
        """A new Git repository with this one's files, as they are now, and no results."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        for name in filter(None, listed):
            source = ROOT / name
            if source.is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / name)
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

    def stages(self) -> dict[str, dict]:
        """The stages as dvc.yaml declares them, a matrix stage once for each of its items."""
        stages = {}
        for name, stage in yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"].items():
            for item in stage.get("matrix", {"": [None]}).get("optimizer", [None]):
                text = yaml.safe_dump(stage).replace("${item.optimizer}", str(item))
                stages[f"{name}@{item}" if item else name] = yaml.safe_load(text)
        return stages

    def outputs(self) -> list[str]:
        """Every path that a stage writes."""
        return [path for stage in self.stages().values() for path in stage_outputs(stage)]

    def read(self) -> dict[str, bytes]:
        """The bytes of every output that is there."""
        paths = {path: self.folder / path for path in self.outputs()}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def stage_outputs(stage: dict) -> list[str]:
    """Every path that one stage writes."""
    listed = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [path if isinstance(path, str) else next(iter(path)) for path in listed]
