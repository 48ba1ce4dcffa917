"""Every command on the pages names stages, modules, parameters and options that there are."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from project import ROOT, Project

from .pages import FRONT, PAGES, Page

CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROGRAMS = ("dvc", "python", "pip", "pytest", "git", "dask", "ruff", "mypy", "rm")
VARIABLE = r"[A-Z][A-Z_]+=\S+"
MINE = "stages/studies/dvc.yaml:compare_own@mine"  # of the study that the front page describes


def simple(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, word by word."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        if end:
            yield words[:end]
        words = words[end + 1 :]


def commands(page: Page) -> Iterator[list[str]]:
    """Every command on a page, in blocks and in sentences."""
    lines = [line for block in page.blocks("sh") for line in block.splitlines()]
    for block in page.blocks("console"):
        lines += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    for quoted in page.quoted:
        first = re.sub(rf"^({VARIABLE} )*", "", quoted).split()
        if first and first[0] in PROGRAMS and not re.search(r"\.\w+$", first[0]):
            lines.append(quoted)
    for line in lines:
        yield from simple(line)


ALL = [(page, words) for page in PAGES for words in commands(page)]


def of(program: str) -> list[tuple[Page, list[str]]]:
    """The commands of one program, without the variables before it."""
    found = []
    for page, words in ALL:
        bare = [word for word in words if not re.fullmatch(VARIABLE, word)]
        if bare and bare[0] == program:
            found.append((page, bare[1:]))
    return found


def described(case: object) -> str:
    return " ".join(case) if isinstance(case, list) else case.path


def understood(words: list[str]) -> Namespace | None:
    """What DVC makes of a command; None for one that a sentence only names."""
    parser = get_main_parser()
    try:
        return parser.parse_args(words)
    except Exception:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*words, "--help"])
        assert ended.value.code == 0
        assert not any(word.startswith("-") for word in words)
        return None


def addresses() -> set[str]:
    """The pipelines and stages that a command may name."""
    found = set()
    for path in [ROOT / "dvc.yaml", *(ROOT / "stages").rglob("dvc.yaml")]:
        pipeline = str(path.relative_to(ROOT))
        stages = list(Project(ROOT).stages(pipeline))
        names = [*stages, *{stage.split("@")[0] for stage in stages}]
        found |= {pipeline, *(f"{pipeline}:{name}" for name in names)}
        if pipeline == "dvc.yaml":
            found |= set(names)
    return found | {MINE}


@pytest.mark.parametrize(("page", "words"), of("dvc"), ids=described)
def test_dvc_understands_it_and_knows_what_it_names(
    page: Page, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = understood(words)
    capsys.readouterr()
    if given is None:
        return
    if words[0] in ("repro", "status", "commit", "dag") or words[:2] == ["exp", "run"]:
        targets = getattr(given, "targets", None) or [getattr(given, "target", None)]
        assert set(filter(None, targets)) <= addresses(), page.path
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for change in getattr(given, "set_param", None) or []:
        key, value = change.split("=")
        found = params
        for part in key.split("."):
            assert part in found, page.path
            found = found[part]
        if key in ("data.name", "model.name"):
            room = {"data.name": "datasets", "model.name": "networks"}[key]
            module = f"stages/experiment/{room}/{value}.py"
            assert (ROOT / module).exists() or f"`{module}`" in FRONT.source


@pytest.mark.parametrize(("page", "words"), of("python"), ids=described)
def test_there_is_such_a_module(page: Page, words: list[str]) -> None:
    assert words[0] == "stages", page.path
    if words[1:] and words[1] != "NAME":
        assert (ROOT / "stages" / f"{words[1].replace('.', '/')}.py").exists()


@pytest.mark.parametrize(("page", "words"), of("pip"), ids=described)
def test_there_are_such_extras(page: Page, words: list[str]) -> None:
    if words[1].startswith("torch"):
        assert words[1] in (ROOT / "constraints.txt").read_text().splitlines(), page.path
        assert words[2:] == ["--index-url", "https://download.pytorch.org/whl/cpu"]
        return
    assert words[:4] == ["install", "-c", "constraints.txt", "-e"], page.path
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[4])[1] or ""
    known = CONFIGURATION["project"]["optional-dependencies"]
    assert set(filter(None, extras.split(","))) <= known.keys()


@pytest.mark.parametrize(("page", "words"), of("pytest"), ids=described)
def test_there_is_such_a_marker_or_folder(page: Page, words: list[str]) -> None:
    markers = CONFIGURATION["tool"]["pytest"]["ini_options"]["markers"]
    names = {marker.partition(":")[0] for marker in markers}
    if words[:1] == ["-m"]:
        assert words[1] in names, page.path
    else:
        assert all((ROOT / word).exists() for word in words), page.path


def test_there_are_such_variables() -> None:
    source = "".join(path.read_text() for path in (ROOT / "stages").rglob("*.py"))
    set_ = {word.partition("=")[0] for _, words in ALL for word in words[:1] if "=" in word}
    assert set_ >= {"EXPERIMENT_WORKERS", "DASK_SCHEDULER_ADDRESS"}
    assert all(variable in source for variable in set_ - {"PYTHONPATH"})


def test_the_same_line_shows_experiments_on_both_pages() -> None:
    lines = {shlex.join(words) for _, words in of("dvc") if words[:2] == ["exp", "show"]}
    assert len(lines) == 1, lines


def test_the_way_back_is_the_one_that_is_tested() -> None:
    """Of the tests of interruptions, which take this way after all that may have gone wrong."""
    found = [
        ast.literal_eval(node.value)
        for path in (ROOT / "tests/pipeline").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WAY_BACK"
    ]
    after = FRONT.source.partition("To return to the committed parameters and results")[2]
    block = re.search(r"^```sh\n(.*?)^```$", after, re.DOTALL | re.MULTILINE)
    assert [block[1].strip()] == [given.strip() for given in found]


@pytest.mark.slow  # a pipeline runs
def test_the_table_of_experiments_shows_the_comparison_and_fits_a_screen(tmp_path: Path) -> None:
    project = Project.fresh(tmp_path / "project")
    project.dvc("exp", "run", "-S", "rank=3", "-S", "seed=1")
    (show,) = {shlex.join(words) for _, words in of("dvc") if words[:2] == ["exp", "show"]}

    table = project.dvc(*shlex.split(show), "--no-pager", COLUMNS="120").stdout

    _, header, _, *rows, _ = filter(str.strip, table.splitlines())
    measure = "test_loss_nats"
    assert set(header.split()) == {
        *("rank", "seed"),
        *(f"{measure}.{name}" for name in ("adam", "lrg_adam", "difference", "verdict")),
    }
    assert max(map(len, table.splitlines())) <= 120
    shown = [dict(zip(header.split(), row.split(), strict=True)) for row in rows]
    assert {"3", "tuned"} == {row["rank"] for row in shown}
    assert {"1", "0"} == {row["seed"] for row in shown}
    found = json.loads((project.folder / "metrics/comparison.json").read_text())[measure]
    for row in shown:
        if row["rank"] == "3":
            assert row[f"{measure}.verdict"] == found["verdict"]
            assert float(row[f"{measure}.adam"]) == pytest.approx(found["adam"], rel=1e-4)
