"""The rooms for modules of the user's: how they are found, and what they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiment.stage import rooms
from experiment.stage.errors import UserError

SHIPPED = {
    "datasets": ["digits", "mnist1d"],
    "networks": ["cnn", "logistic", "mlp"],
    "optimizers": ["adam", "controls", "lrg_adam"],
}


@pytest.mark.parametrize("room", SHIPPED)
def test_every_module_that_ships_is_found(room: str) -> None:
    there = sorted(path.stem for path in (rooms.ROOMS / room).glob("[a-z]*.py"))
    assert set(SHIPPED[room]) <= set(there)
    for name in there:
        found = rooms.module(room, name, "params.yaml: key")
        assert callable(found.load if room == "datasets" else found.create)
        assert Path(found.__file__) == rooms.ROOMS / room / f"{name}.py"


@pytest.mark.parametrize("name", ["nobody", "", "__init__", "../networks/mlp", "networks.mlp"])
def test_an_unknown_module_is_told_with_those_that_are_there(name: str) -> None:
    with pytest.raises(UserError) as refused:
        rooms.module("networks", name, "params.yaml: model.name")
    (line,) = str(refused.value).splitlines()
    assert line == (
        f"params.yaml: model.name = {name!r}; allowed: a module in stages/experiment/networks: "
        "cnn, logistic, mlp"
    )


def test_a_module_that_is_put_there_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import experiment.networks

    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/brought.py").write_text("create = 5\n")
    monkeypatch.setattr(rooms, "ROOMS", tmp_path)
    monkeypatch.setattr(experiment.networks, "__path__", [str(tmp_path / "networks")])
    assert rooms.module("networks", "brought", "params.yaml: model.name").create == 5


OPTIONS = {"width": 3, "depth": 2}


def test_a_function_is_given_the_options_that_it_names() -> None:
    assert rooms.arguments(lambda inputs, width: None, OPTIONS) == {"width": 3}  # noqa: ARG005
    assert rooms.arguments(lambda *, depth=1: None, OPTIONS) == {"depth": 2}  # noqa: ARG005
    assert rooms.arguments(lambda **options: None, OPTIONS) == OPTIONS  # noqa: ARG005
    assert rooms.arguments(lambda: None, OPTIONS) == {}


def test_an_option_that_nobody_knows_is_refused() -> None:
    def create(inputs: int, width: int) -> None: ...

    rooms.refuse_unknown(create, ["width", "hidden"], ["hidden"], "params.yaml: model")
    with pytest.raises(UserError) as refused:
        rooms.refuse_unknown(create, ["width", "depth"], ["hidden"], "params.yaml: model")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(
        "unknown key params.yaml: model.depth; allowed: hidden and the arguments"
    )
