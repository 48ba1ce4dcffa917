"""A copy of this repository in a folder of its own, in which the real DVC runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from dvc.parsing import DataResolver
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PARAMS = (ROOT / "params.yaml").read_text()
STUDIES = "stages/studies/dvc.yaml"
ARMS = "stages/studies/arms.yaml"
SAID = ".dvc/tmp/said.txt"  # what DVC said while a shared project was made
# What `python stages` needs beside what a stage declares; it computes nothing.
LAUNCHER = ("stages/__main__.py", "stages/experiment/__init__.py")

# What a processor that lacks AVX-512 looks like to MKL: of all libraries it alone chooses its
# instructions by something else than a setting of the pipeline's own.
LESSER_PROCESSOR = {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}

# Small enough for every stage to take seconds.
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

ENVIRONMENT = {
    **os.environ,
    # The stages run as `python`, which must be the one that runs the tests.
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "EXPERIMENT_WORKERS": "1",
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "A researcher",
    "GIT_AUTHOR_EMAIL": "researcher@example.org",
    "GIT_COMMITTER_NAME": "A researcher",
    "GIT_COMMITTER_EMAIL": "researcher@example.org",
}


def set_params(path: Path, changes: Mapping[str, object]) -> None:
    """Change dotted keys of a params.yaml, and leave every other line as it is."""
    params = YAML().load(path.read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        assert name in section, f"no parameter {key}"
        section[name] = value
    with path.open("w") as file:
        YAML().dump(params, file)


def edited(changes: Mapping[str, str | None]) -> str:
    """params.yaml with other text for dotted keys, as a user types it; None deletes a key."""
    params = yaml.safe_load(PARAMS)
    for number, (key, typed) in enumerate(changes.items()):
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[name] = f"@{number}@"
        if typed is None:
            del section[name]
    text = yaml.safe_dump(params, sort_keys=False)
    for number, typed in enumerate(changes.values()):
        text = text.replace(f"'@{number}@'", typed or "")
    return text


def leaves(section: dict, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values in a section and in those within it."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


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
    def fresh(
        cls,
        folder: Path,
        changes: Mapping[str, object] = SMALL,
        studies: Mapping[str, object] | None = None,
    ) -> Project:
        """A new Git repository with this one's files, as they are now, and no results.

        Args:
            folder: where.
            changes: of params.yaml.
            studies: what stages/studies/arms.yaml is to hold instead.

        """
        copy_repository(folder)
        for lock in folder.rglob("dvc.lock"):
            lock.unlink()
        project = cls(folder)
        project.run("git", "init", "-q", "-b", "main")
        for output in project.outputs():
            (folder / output).unlink(missing_ok=True)
        set_params(folder / "params.yaml", changes)
        if studies is not None:
            (folder / ARMS).write_text(yaml.safe_dump(studies, sort_keys=False))
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
        return self._done(list(map(str, command)), check, environment)

    def shell(
        self, command: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in the project's folder, as DVC runs those of its stages."""
        return self._done(command, check, environment)

    def _done(
        self, command: str | list[str], check: bool, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            shell=isinstance(command, str),
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
        """Run DVC with the Python that runs the tests."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check, **environment)

    def ran(self, *arguments: str) -> list[str]:
        """The stages that `dvc <arguments>` ran."""
        return stages_run(self.dvc(*arguments).stdout)

    def commit(self, message: str) -> None:
        """Commit all that Git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def stages(self, pipeline: str = "dvc.yaml") -> dict[str, dict]:
        """The stages as a dvc.yaml declares them, a matrix or foreach stage once for each item."""
        path = self.folder / pipeline
        if not path.exists():
            return {}
        with Repo(self.folder) as repo:
            declared = yaml.safe_load(path.read_text())
            return DataResolver(repo, str(path.parent), declared).resolve()["stages"]

    def studies(self) -> dict[str, dict]:
        """The stages of the studies."""
        return self.stages(STUDIES)

    def outputs(self) -> list[str]:
        """Every path that a stage writes."""
        stages = [*self.stages().values(), *self.studies().values()]
        return [path for stage in stages for path in stage_outputs(stage)]

    def read(self) -> dict[str, bytes]:
        """The bytes of every output that exists."""
        paths = {path: self.folder / path for path in self.outputs()}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def stages_run(said: str) -> list[str]:
    """The stages that ran, by what DVC said."""
    return re.findall(r"^Running stage '([^']+)'", said, re.MULTILINE)


def stage_outputs(stage: dict) -> list[str]:
    """Every path that one stage writes."""
    listed = [path for kind in ("outs", "metrics", "plots") for path in stage.get(kind, [])]
    return [path if isinstance(path, str) else next(iter(path)) for path in listed]


def stage_params(stage: dict) -> dict[str, list[str]]:
    """The keys that a stage declares of each file of parameters; of a whole file, none."""
    declared: dict[str, list[str]] = {}
    for one in stage.get("params", []):
        if isinstance(one, str):
            declared.setdefault("params.yaml", []).append(one)
        else:
            for path, keys in one.items():
                declared.setdefault(path, []).extend(keys or [])
    return declared


def declares(stage: dict, key: str) -> bool:
    """Whether a stage declares a dotted key of params.yaml, or a section that it is in."""
    keys = stage_params(stage).get("params.yaml")
    if keys is None:
        return False
    return not keys or any(key == one or key.startswith(f"{one}.") for one in keys)
