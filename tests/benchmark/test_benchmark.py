"""Every stage of the benchmark runs on what it declares, and writes what it declares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import Project, stage_outputs
from test_hermetic import files_below, isolated

pytestmark = pytest.mark.slow

BENCHMARK = "stages/benchmark/dvc.yaml"
# Arguments that make each stage as short as possible.
SHORTEST = {
    "steps": "--sides 119 --seconds 0.1",
    "plot": "",
    "throughput": "--epochs 1 --rounds 1",
}


def test_every_stage_is_run_here(finished: Project) -> None:
    assert finished.stages(BENCHMARK).keys() == SHORTEST.keys()


@pytest.mark.parametrize("names", [["throughput"], ["steps", "plot"]], ids=" ".join)
def test_a_stage_needs_its_declared_inputs_alone_and_warns_of_nothing(
    project: Project, names: list[str], tmp_path: Path
) -> None:
    for name in names:
        stage = project.stages(BENCHMARK)[name]
        folder = tmp_path / name
        sandbox = isolated(project, stage, folder)
        before = files_below(folder)

        sandbox.shell(f"{stage['cmd']} {SHORTEST[name]}", PYTHONWARNINGS="error")

        after = files_below(folder)
        (output,) = set(after) - set(before)
        assert [output] == stage_outputs(stage)
        assert {path: after[path] for path in before} == before
        if output.endswith(".json"):
            found = json.loads(after[output])
            assert found
            for row in found["against_the_least"] if name == "steps" else ():
                assert row["randomized_over_its_products"] > 0
                assert row["gram_over_its_own_eigendecomposition"] > 0
        else:
            assert after[output].startswith(b"\x89PNG")
        shutil.copy2(folder / output, project.folder / output)  # for the stage after it
