"""The tables are those of the committed files, and links, files and examples lead somewhere."""

from __future__ import annotations

import ast
import re
import sys
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from project import ROOT, Project, stage_outputs

from .pages import FRONT, OPTIMIZER, PAGES, Page

# What a command on the pages makes, and no stage.
MADE = {
    "dvc_plots/index.html",
    ".dvc/config",
    ".dvc/tmp/rwlock",
    ".scratch/tasks",
    "data/source/flowers.csv",
    "metrics/own/mine.csv",
    "metrics/own/arms/*.json",
    "plots/own/mine.png",
    "plots/own/mine_curves.png",
    "stages/experiment/networks/residual.py",
    "stages/experiment/optimizers/clipped.py",
    "stages/experiment/datasets/flowers.py",
}
SUFFIXES = {".py", ".yaml", ".lock", ".json", ".csv", ".txt", ".png", ".npz", ".pt", ".md"}


@cache
def outputs() -> set[str]:
    """What the stages of all pipelines write."""
    pipelines = [ROOT / "dvc.yaml", *(ROOT / "stages").rglob("dvc.yaml")]
    return {
        path
        for pipeline in pipelines
        for stage in Project(ROOT).stages(str(pipeline.relative_to(ROOT))).values()
        for path in stage_outputs(stage)
    }


def is_there(path: str, *folders: Path) -> bool:
    """Whether a path, with `*` and `<name>` for anything, is in one of the folders, or made."""
    pattern = re.sub(r"<[^>]+>", "*", path)
    made = any(fnmatch(one, pattern) or one.startswith(pattern) for one in outputs() | MADE)
    return made or any(list(folder.glob(pattern)) for folder in (ROOT, *folders))


def test_the_tables_are_up_to_date() -> None:
    check = Project(ROOT).run(sys.executable, "stages/pages.py", "--check", check=False)
    assert check.returncode == 0, f"{check.stdout}{check.stderr}\npython stages/pages.py"
    empty = [page.path for page in PAGES if re.search(r"--- \|\n<!-- \[\[\[end", page.source)]
    assert not empty


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_link_leads_somewhere(page: Page) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.prose):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.folder / name if name else ROOT / page.path
        assert target.exists() or str(target.resolve().relative_to(ROOT)) in outputs(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_file_that_is_named_is_there(page: Page) -> None:
    for path in page.quoted:
        if not re.fullmatch(r"[\w.<>*/-]+", path):
            continue
        if "/" in path:
            assert is_there(path, page.folder, ROOT / "stages"), path
        elif Path(path).suffix in SUFFIXES:  # others are parameters and names of Python
            assert (ROOT / path).exists() or list((ROOT / "stages").rglob(path)), path


def test_the_layout_is_that_of_the_repository() -> None:
    (layout,) = [block for block in FRONT.blocks("") if block.startswith("dvc.yaml")]
    paths = [path.rstrip("/") for line in layout.splitlines() for path in line[:34].split()]
    assert [path for path in paths if not is_there(path)] == []
    tracked = Project(ROOT).run("git", "ls-files").stdout.splitlines()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert folders <= {path.split("/")[0] for path in paths}


def test_the_front_page_is_short() -> None:
    assert len(FRONT.source.splitlines()) <= 230


def model() -> dict[str, object]:
    """What the examples take as given."""
    network = torch.nn.Linear(40, 10)
    loss = torch.nn.functional.cross_entropy(network(torch.randn(8, 40)), torch.arange(8))
    return {
        "model": network,
        "loss": loss,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
    }


def test_the_filter_of_the_front_page_works() -> None:
    (example,) = [block for block in FRONT.blocks("python") if "truncate_grad_rank_" in block]
    names = model()
    before = names["model"].weight.clone()
    exec(example, names)
    assert 0 < float(names["kept"]) <= 1
    assert not torch.equal(names["model"].weight, before)


def test_the_examples_of_the_optimizer_run() -> None:
    names = model()
    for example in OPTIMIZER.blocks("python"):
        modules = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Import)]
        if all(find_spec(name.name.split(".")[0]) for node in modules for name in node.names):
            exec(example, names)
