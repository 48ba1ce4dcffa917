"""Plug-in packages: how a user's modules are found, and what they are given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment.stage import plugins
from experiment.stage.errors import UserError


@pytest.mark.parametrize("name", ["nobody", "", "__init__", "../networks/mlp", "networks.mlp"])
def test_an_unknown_module_is_told_with_those_that_are_there(name: str) -> None:
    with pytest.raises(UserError) as refused:
        plugins.module("networks", name, "params.yaml: model.name")
    start = f"params.yaml: model.name = {name!r}; allowed: a module in stages/experiment/networks: "
    assert str(refused.value).startswith(start)
    there = {path.stem for path in (plugins.PLUGINS / "networks").glob("[a-z]*.py")}
    assert set(str(refused.value).removeprefix(start).split(", ")) == there


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module among the networks."""
    import experiment.networks

    (tmp_path / "networks").mkdir()
    monkeypatch.setattr(plugins, "PLUGINS", tmp_path)
    monkeypatch.setattr(experiment.networks, "__path__", [str(tmp_path / "networks")])
    monkeypatch.delitem(sys.modules, "experiment.networks.brought", raising=False)
    return tmp_path / "networks/brought.py"


def test_a_module_that_is_put_there_is_found(brought: Path) -> None:
    brought.write_text("def create(): return 5\n")
    assert plugins.module("networks", "brought", "params.yaml: model.name").create() == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *[(c, "cannot be imported: ") for c in ("def create(:\n", "import not_installed\n")],
        *[(c, "has no function create; allowed: ") for c in ("def load(): ...\n", "create = 5\n")],
    ],
)
def test_a_module_that_is_none_is_one_line(brought: Path, content: str, said: str) -> None:
    brought.write_text(content)
    with pytest.raises(UserError) as refused:
        plugins.module("networks", "brought", "params.yaml: model.name")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"stages/experiment/networks/brought.py {said}")


OPTIONS = {"width": 3, "depth": 2}


def given(function: Callable[..., object]) -> dict[str, object]:
    return plugins.arguments(function, OPTIONS, OPTIONS, "params.yaml: model")


def test_a_function_is_given_the_options_that_it_names() -> None:
    assert given(lambda width: None) == {"width": 3}  # noqa: ARG005
    assert given(lambda *, depth=1: None) == {"depth": 2}  # noqa: ARG005
    assert given(lambda **options: None) == OPTIONS  # noqa: ARG005
    assert given(lambda: None) == {}


def create(inputs: int, width: int) -> None: ...


def test_an_option_that_nobody_takes_is_named() -> None:
    known, where = ["hidden"], "params.yaml: model"
    assert plugins.arguments(create, {"hidden": 1, "width": 2}, known, where) == {"width": 2}
    with pytest.raises(UserError) as refused:
        plugins.arguments(create, {"width": 1, "depth": 2}, known, where)
    (line,) = str(refused.value).splitlines()
    assert line.startswith("unknown key params.yaml: model.depth; allowed: hidden and the ")
