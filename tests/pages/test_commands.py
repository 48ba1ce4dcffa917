"""Every command on the pages names what there is, and the questions are answered."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from processes import AFTER_KILL, PUT_ASIDE, WAY_BACK
from project import ROOT, Project

from .pages import DETAIL, FRONT, PAGES, Page

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
    for quoted in page.quoted:
        first = re.sub(rf"^({VARIABLE} )*", "", quoted).split()
        if first and first[0] in PROGRAMS and not re.search(r"\.\w+$", first[0]):
            lines.append(quoted)
    for line in lines:
        yield from simple(line)


def of(program: str) -> list[list[str]]:
    """The commands of one program on all pages, without the variables before it."""
    found = {}
    for page in PAGES:
        for words in commands(page):
            bare = [word for word in words if not re.fullmatch(VARIABLE, word)]
            if bare and bare[0] == program:
                found[shlex.join(bare[1:])] = bare[1:]
    return list(found.values())


@cache
def addresses() -> set[str]:
    """The pipelines and stages that a command may name."""
    found = {MINE}
    for path in [ROOT / "dvc.yaml", *(ROOT / "stages").rglob("dvc.yaml")]:
        pipeline = str(path.relative_to(ROOT))
        stages = list(Project(ROOT).stages(pipeline))
        names = {*stages, *(stage.split("@")[0] for stage in stages)}
        found |= {pipeline, *(f"{pipeline}:{name}" for name in names)}
        found |= names if pipeline == "dvc.yaml" else set()
    return found


@pytest.mark.parametrize("words", of("dvc"), ids=shlex.join)
def test_dvc_knows_the_command_and_what_it_names(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = get_main_parser()
    try:
        given = parser.parse_args(words)
    except Exception:  # a sentence may name a command without what it needs
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*words, "--help"])
        assert ended.value.code == 0
        assert not any(word.startswith("-") for word in words)
        return
    finally:
        capsys.readouterr()
    if words[0] in ("repro", "status", "commit", "dag") or words[:2] == ["exp", "run"]:
        targets = getattr(given, "targets", None) or [getattr(given, "target", None)]
        assert set(filter(None, targets)) <= addresses()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for change in getattr(given, "set_param", None) or []:
        key, _, _ = change.partition("=")
        found = params
        for part in [] if key.startswith("+") else key.split("."):
            assert part in found
            found = found[part]


@pytest.mark.parametrize("words", of("python") + of("pytest"), ids=shlex.join)
def test_there_is_such_a_module_folder_or_marker(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        markers = CONFIGURATION["tool"]["pytest"]["ini_options"]["markers"]
        assert words[1] in {marker.partition(":")[0] for marker in markers}
    elif words[:1] == ["stages"] and words[1:] != ["NAME"]:
        assert (ROOT / "stages" / f"{words[1].replace('.', '/')}.py").exists()
    else:
        assert all((ROOT / word).exists() for word in words[:1])


@pytest.mark.parametrize("words", of("pip"), ids=shlex.join)
def test_there_are_such_extras(words: list[str]) -> None:
    known = CONFIGURATION["project"]["optional-dependencies"].keys()
    extras = re.search(r"\[([\w,]+)\]$", words[-1])
    assert set(extras[1].split(",") if extras else []) <= known
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert [word for word in words if "==" in word and word not in pinned] == []


def test_the_way_back_is_the_one_that_is_tested() -> None:
    assert WAY_BACK in FRONT.source
    assert AFTER_KILL in DETAIL.source
    assert f"`{PUT_ASIDE}`" in DETAIL.source


# Own studies are asked in the recipe of an optimizer.
QUESTIONS = re.findall(
    r"^\| What .*\| `dvc exp run -S ([\w.]+)=(\w+(?:\.\d+)?)` \|", FRONT.source, re.M
)


@pytest.mark.slow
def test_the_questions_are_answered(project: Project) -> None:
    """All at once: that each parameter changes a result by itself is shown stage by stage."""
    metrics = {path: content for path, content in project.read().items() if "metrics/" in path}

    project.dvc("exp", "run", *(word for key, to in QUESTIONS for word in ("-S", f"{key}={to}")))

    after = project.read()
    assert all(after[path] != content for path, content in metrics.items())
    params = project.run("git", "diff", "--unified=0", "params.yaml").stdout.splitlines()[5:]
    assert len(QUESTIONS) == FRONT.source.count("\n| What ") - 1
    assert sorted(line.strip("+ ") for line in params if line.startswith("+")) == sorted(
        f"{key.rpartition('.')[2]}: {value}" for key, value in QUESTIONS
    )
