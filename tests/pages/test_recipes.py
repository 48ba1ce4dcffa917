"""The recipes of the front page, done to the letter by a user of a fresh repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from project import STUDIES, Project, stage_outputs

from ..studies.small import OWN, all_stages, files_below, fresh, results
from .pages import FRONT

pytestmark = pytest.mark.slow  # minutes: pipelines and the published studies run

VERDICTS = {"better", "worse", "equivalent", "inconclusive"}


@dataclass(frozen=True)
class Recipe:
    """What the page tells a user to write, and to run."""

    files: dict[str, str]  # content by path
    commands: list[list[str]]  # arguments of dvc


def recipe(what: str) -> Recipe:
    """Read the part of the page that begins with `what` in bold."""
    section = FRONT.source.partition("\n## Make it your own\n")[2].partition("\n## ")[0]
    part = section.partition(f"**{what}**")[2].partition("\n**")[0]
    assert part, f"no recipe for {what}"
    named = re.findall(r"`(stages/(?:experiment/\w+/\w+\.py|studies/own\.yaml))`", part)
    blocks = re.findall(r"^```(python|yaml)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    endings = {"python": ".py", "yaml": ".yaml"}
    files = {}
    for language, content in blocks:
        (path,) = (path for path in named if path.endswith(endings[language]))
        files[path] = content
    assert files.keys() == set(named)
    prose = re.sub(r"^```.*?^```$", "", part, flags=re.DOTALL | re.MULTILINE)
    commands = [" ".join(one.split()).split() for one in re.findall(r"`dvc ([^`]+)`", prose)]
    return Recipe(files, commands)


def write(project: Project, files: Mapping[str, str]) -> None:
    for path, content in files.items():
        (project.folder / path).write_text(content)


def by_hand(project: Project, before: Mapping[str, bytes]) -> set[str]:
    """The files that differ from before and are no work of DVC: not outputs, locks or ignored."""
    after = files_below(project.folder)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    stages = [*project.stages().values(), *all_stages(project).values()]
    written = {path for stage in stages for path in stage_outputs(stage)}
    own = ("dvc.lock", ".gitignore")
    return {
        path
        for path in changed
        if not path.endswith(own) and written.isdisjoint([path, *map(str, Path(path).parents)])
    }


def one_line_changed(before: bytes, after: bytes, line: str) -> None:
    old, new = before.decode().splitlines(), after.decode().splitlines()
    assert len(old) == len(new)
    assert [b.strip() for a, b in zip(old, new, strict=True) if a != b] == [line]


def test_an_optimizer(tmp_path: Path) -> None:
    project = fresh(tmp_path / "project")
    project.dvc("repro", STUDIES)
    project.commit("Results")
    before, published = files_below(project.folder), results(project)
    given = recipe("An optimizer")
    assert given.files.keys() == {OWN, "stages/experiment/optimizers/clipped.py"}
    arms = yaml.safe_load(given.files[OWN])["own"]

    write(project, given.files)
    (command,) = given.commands
    assert command == ["repro", f"{STUDIES}:compare_own@mine"]
    ran = project.ran(*command)

    own = [f"own@{arm}" for arm in arms]
    assert sorted(address.rpartition(":")[2] for address in ran) == sorted(
        ["check_arms", "compare_own@mine", *own]
    )
    assert by_hand(project, before) == given.files.keys()
    assert {path: results(project)[path] for path in published} == published
    assert (project.folder / "plots/own/mine.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(project.folder / "metrics/own/mine.csv")
    assert set(table["arm"]) == set(arms)
    assert set(table["label"]) == {arm["label"] for arm in arms.values()}
    assert set(table["against"]) == {"adam"}
    assert set(table["verdict"]) <= VERDICTS
    assert table.groupby("arm").size().to_dict() == dict.fromkeys(arms, 4)


def test_a_network(tmp_path: Path) -> None:
    project = Project.fresh(tmp_path / "project")
    before = files_below(project.folder)
    given = recipe("A network")
    assert given.files.keys() == {"stages/experiment/networks/residual.py"}

    write(project, given.files)
    command, wider = given.commands
    assert command == ["exp", "run", "-S", "model.name=residual"]
    project.dvc(*command)

    after = files_below(project.folder)
    assert by_hand(project, before) == {*given.files, "params.yaml"}
    one_line_changed(before["params.yaml"], after["params.yaml"], "name: residual")

    assert wider == [*command, "-S", "+model.width=48"]
    project.dvc(*wider)
    assert b"width: 48" in (project.folder / "params.yaml").read_bytes()
    assert (project.folder / "metrics/adam.json").read_bytes() != after["metrics/adam.json"]


def test_a_data_set(tmp_path: Path) -> None:
    project = Project.fresh(tmp_path / "project")
    before = files_below(project.folder)
    given = recipe("A data set")
    assert given.files.keys() == {"stages/experiment/datasets/flowers.py"}
    write(project, given.files)
    (csv,) = re.findall(r'read_csv\("([^"]+)"\)', *given.files.values())
    write_flowers(project.folder / csv, seed=0)

    command, again = given.commands
    assert command == ["exp", "run", "-S", "data.name=flowers"]
    project.dvc(*command)

    after = files_below(project.folder)
    assert by_hand(project, before) == {*given.files, csv, "params.yaml"}
    one_line_changed(before["params.yaml"], after["params.yaml"], "name: flowers")
    with np.load(project.folder / "data/flowers.npz") as arrays:
        sizes = {name: arrays[name].shape for name in arrays.files if name.startswith("x_")}
    assert sizes == {"x_train": (108, 12), "x_validation": (36, 12), "x_test": (36, 12)}

    write_flowers(project.folder / csv, seed=1)
    assert again == ["repro"]
    assert {"fetch_data", "tune_adam", "final_train@lrg_adam", "plot"} <= set(project.ran(*again))
    assert (project.folder / "data/flowers.npz").read_bytes() != after["data/flowers.npz"]


def write_flowers(path: Path, *, seed: int) -> None:
    """A table of 180 flowers with 12 features and 3 classes."""
    rng = np.random.default_rng(seed)
    classes = np.arange(180) % 3
    columns = {f"feature_{i}": rng.normal(classes * (i % 3), 1).round(3) for i in range(12)}
    pd.DataFrame({**columns, "class": classes}).to_csv(path, index=False)
