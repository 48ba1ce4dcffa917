"""Every stage of the studies reads what it says it reads, and writes what it says it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import STUDIES, Project, stage_outputs

from .small import TRAINING, addresses, all_stages, bring_a_module, files_below, isolated

pytestmark = pytest.mark.slow  # minutes: there are many stages


def within(path: str, declared: list[str]) -> bool:
    return any(f"{path}/".startswith(f"{one}/") for one in declared)


def test_these_are_all_stages(with_own: Project) -> None:
    listed = with_own.dvc("stage", "list", "--name-only", STUDIES, TRAINING).stdout.split()
    names = sorted(address.rpartition(":")[2] for address in addresses())
    assert sorted(name.rpartition(":")[2] for name in listed) == names
    assert sorted(addresses()) == sorted(all_stages(with_own))


# There are many stages of these kinds, which run the same modules but for those of an arm.
MANY = (f"{TRAINING}:arm@", f"{STUDIES}:compare@", f"{STUDIES}:gradients@")
SOME = {f"{TRAINING}:arm@{name}" for name in bring_a_module()}
SOME |= {f"{STUDIES}:{name}" for name in ("compare@controls", "compare@text", "gradients@rank_20")}


@pytest.mark.parametrize(
    "address", [one for one in addresses() if one in SOME or not one.startswith(MANY)]
)
def test_a_stage_needs_its_declared_inputs_alone_and_warns_of_nothing(
    with_own: Project, address: str, tmp_path: Path
) -> None:
    stage = all_stages(with_own)[address]
    sandbox = isolated(with_own, stage, tmp_path)
    before = files_below(tmp_path)

    sandbox.shell(stage["cmd"], PYTHONWARNINGS="error")

    after = files_below(tmp_path)
    written = after.keys() - before.keys()
    assert all(within(path, stage_outputs(stage)) for path in written)
    assert all((tmp_path / path).exists() for path in stage_outputs(stage))
    assert {path: after[path] for path in before} == before
    # The same bytes again: nothing depends on time, on place or on what ran before.
    assert all(after[path] == (with_own.folder / path).read_bytes() for path in written)


@pytest.mark.parametrize(
    "address",
    [f"{TRAINING}:arm@rank_20", f"{STUDIES}:published", f"{STUDIES}:gradients@adam"],
)
def test_two_processes_give_the_same_bytes(studied: Project, address: str, tmp_path: Path) -> None:
    stage = all_stages(studied)[address]
    sandbox = isolated(studied, stage, tmp_path)
    sandbox.shell(stage["cmd"], EXPERIMENT_WORKERS="2")
    for path in stage_outputs(stage):
        assert (tmp_path / path).read_bytes() == (studied.folder / path).read_bytes()
