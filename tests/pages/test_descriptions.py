"""Parameters, stages, files and examples are what the pages say they are."""

from __future__ import annotations

import re
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import networkx
import pytest
import yaml
from project import ROOT, Project, declares, stage_outputs

from .pages import DETAIL, FRONT, OPTIMIZER, PAGES, Page

PIPELINES = (
    "dvc.yaml",
    "stages/studies/dvc.yaml",
    "stages/studies/arms/dvc.yaml",
    "stages/benchmark/dvc.yaml",
)
# What a command on the pages makes, and no stage.
MADE = {
    "dvc_plots/index.html",
    ".dvc/config",
    ".dvc/tmp/rwlock",
    "data/flowers.csv",
    "metrics/own/mine.csv",
    "metrics/own/arms/*.json",
    "plots/own/mine.png",
    "stages/experiment/networks/residual.py",
    "stages/experiment/optimizers/clipped.py",
    "stages/experiment/datasets/flowers.py",
}
SUFFIXES = {".py", ".yaml", ".lock", ".json", ".csv", ".txt", ".png", ".npz", ".pt", ".md"}
ROOMS = ("datasets", "networks", "optimizers")


def parameters() -> dict[str, object]:
    """Every key in params.yaml with its value, an interval being one value."""
    found: dict[str, object] = {}

    def walk(section: dict, prefix: str) -> None:
        for name, value in section.items():
            if isinstance(value, dict) and "low" not in value:
                walk(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    walk(yaml.safe_load((ROOT / "params.yaml").read_text()), "")
    return found


def shown(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['low']} to {value['high']}"
    return str(value)


def modules(room: str) -> set[str]:
    files = (ROOT / "stages/experiment" / room).glob("*.py")
    return {file.stem for file in files} - {"__init__"}


def outputs() -> set[str]:
    """What the stages of all pipelines write."""
    return {
        path
        for pipeline in PIPELINES
        for stage in Project(ROOT).stages(pipeline).values()
        for path in stage_outputs(stage)
    }


def is_there(path: str, *folders: Path) -> bool:
    """Whether a path, with `*` and `<name>` for anything, is in one of the folders, or made."""
    pattern = re.sub(r"<[^>]+>", "*", path)
    known = outputs() | MADE
    made = any(fnmatch(one, pattern) or one.startswith(pattern) for one in known)
    return made or any(list(folder.glob(pattern)) for folder in (ROOT, *folders))


@pytest.mark.parametrize("key", parameters())
def test_the_table_of_parameters_is_complete(key: str) -> None:
    (row,) = [line for line in DETAIL.lines if line.startswith(f"| `{key}` |")]
    *_, default, reruns, _ = [cell.strip() for cell in row.split("|")]

    readers = [
        name.removesuffix("@adam").removesuffix("@lrg_adam")
        for name, stage in Project(ROOT).stages().items()
        if name != "check_params" and declares(stage, key)
    ]
    assert default == f"`{shown(parameters()[key])}`"
    assert reruns == ", ".join(f"`{name}`" for name in dict.fromkeys(readers))


def test_the_table_of_parameters_has_no_other() -> None:
    names = re.findall(r"^\| `([\w.]+)` \|", DETAIL.source, re.MULTILINE)
    assert names == list(parameters())
    assert "`check_params` reads them all." in DETAIL.text
    stages = Project(ROOT).stages()
    assert all(declares(stages["check_params"], key) for key in parameters())


@pytest.mark.parametrize(("key", "room"), [("data.name", "datasets"), ("model.name", "networks")])
def test_the_table_of_parameters_names_the_modules(key: str, room: str) -> None:
    (row,) = [line for line in DETAIL.lines if line.startswith(f"| `{key}` |")]
    named = row.split("|")[3].partition(":")[2]
    assert set(re.findall(r"`(\w+)`", named)) == modules(room)


def test_the_graph_is_the_one_of_the_pipeline() -> None:
    whole = Project(ROOT).run(sys.executable, "-m", "dvc", "dag", "--md", "dvc.yaml").stdout
    (block,) = FRONT.blocks("mermaid")
    node = re.compile(r'(node\d+)\["(.+)"\]')
    assert node.findall(block) == node.findall(whole)
    # The page leaves out the arrows that follow from others.
    arrow = re.compile(r"(node\d+)-->(node\d+)")
    reduced = networkx.transitive_reduction(networkx.DiGraph(arrow.findall(whole)))
    assert sorted(arrow.findall(block)) == sorted(reduced.edges)


def test_the_table_of_stages_is_the_one_of_the_pipeline() -> None:
    rows = [line.split("|") for line in FRONT.lines if re.match(r"\| `\w+", line)]
    written = {
        stage: set(re.findall(r"`([^`]+)`", row[3]))
        for row in rows
        for stage in re.findall(r"`([^`]+)`", row[1])
    }
    stages = Project(ROOT).stages()
    assert set(written) == set(stages)
    for name, stage in stages.items():
        files = written[name]
        patterns = [re.sub(r"<[^>]+>", "*", file) for file in files]
        assert len(files) == len(stage_outputs(stage))
        for path in stage_outputs(stage):
            assert any(fnmatch(path, pattern) for pattern in patterns), path


def test_the_example_trains() -> None:
    example, schedule = OPTIMIZER.blocks("python")
    names: dict[str, object] = {}
    exec(example, names)
    assert names["loss"] < 0.5
    exec(schedule, names)
    assert names["optimizer"].last_step_info[0].rank == 5


def test_the_front_page_shows_the_lines_of_the_example() -> None:
    example, _ = OPTIMIZER.blocks("python")
    for line in ("from lrg_adam import LRGAdam", "LRGAdam(model.parameters(), lr=1e-3, rank=20)"):
        assert f"`{line}`" in FRONT.source
        assert line in example


def test_the_layout_is_that_of_the_repository() -> None:
    (layout,) = [block for block in FRONT.blocks("") if block.startswith("dvc.yaml")]
    described = set()
    for line in layout.splitlines():
        paths, words = line[:34].strip(), line[34:]
        for path in paths.split():
            assert is_there(path.rstrip("/")), path
            described.add(path.split("/")[0])
        for room in ROOMS:
            if paths == f"stages/experiment/{room}/":
                names = re.match(r"one module each: ([\w, ]+?) *<- ", words)[1]
                assert set(names.split(", ")) == modules(room)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    tracked = Project(ROOT).run("git", "ls-files").stdout.splitlines()
    assert folders & {path.split("/")[0] for path in tracked if not path.startswith(".")} <= (
        described
    )


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_link_leads_somewhere(page: Page) -> None:
    folder = (ROOT / page.path).parent
    for link in re.findall(r"\]\(([^)]+)\)", page.prose):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = folder / name if name else ROOT / page.path
        path = target.resolve().relative_to(ROOT)
        assert target.exists() or str(path) in outputs(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_file_that_is_named_is_there(page: Page) -> None:
    folder = (ROOT / page.path).parent
    for path in page.quoted:
        if not re.fullmatch(r"[\w.<>*/-]+", path):
            continue
        if "/" in path:
            assert is_there(path, folder, ROOT / "stages"), path
        elif Path(path).suffix in SUFFIXES:  # others are parameters and names of Python
            assert (ROOT / path).exists() or list((ROOT / "stages").rglob(path)), path


def test_the_front_page_is_short() -> None:
    assert len(FRONT.lines) <= 230


def test_the_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software"
    assert citation["version"] == package["version"]
    assert citation["license"] == package["license"]
