"""Every stage of the benchmark runs on what it declares, and writes what it declares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import Project, set_params, stage_outputs
from test_hermetic import files_below, isolated

pytestmark = pytest.mark.slow

BENCHMARK = "stages/benchmark/dvc.yaml"
# Arguments that make each stage as short as possible.
SHORTEST = {
    "steps": "--sides 119 --seconds 0.1",
    "plot": "",
    "throughput": "--epochs 1 --rounds 1",
    "pipeline": "--epochs 1 --rounds 1",
}
# Files that `dvc repro` needs in the copy of the pipeline; a stage cannot depend on them.
PIPELINE = ("dvc.yaml", ".dvcignore")


def test_every_stage_is_run_here(finished: Project) -> None:
    assert finished.stages(BENCHMARK).keys() == SHORTEST.keys()


@pytest.mark.parametrize("names", [["throughput"], ["steps", "plot"], ["pipeline"]], ids=" ".join)
def test_a_stage_needs_its_declared_inputs_alone_and_warns_of_nothing(
    project: Project, names: list[str], tmp_path: Path
) -> None:
    # Enough work that some is left after the kill that is timed.
    set_params(project.folder / "params.yaml", {"final_train.replicates": 24})
    for name in names:
        stage = project.stages(BENCHMARK)[name]
        folder = tmp_path / name
        sandbox = isolated(project, stage, folder)
        if name == "pipeline":
            for file in PIPELINE:
                shutil.copy2(project.folder / file, folder)
        before = files_below(folder)

        # This stage runs DVC, whose libraries warn.
        warnings = "default" if name == "pipeline" else "error"
        sandbox.shell(f"{stage['cmd']} {SHORTEST[name]}", PYTHONWARNINGS=warnings)

        after = files_below(folder)
        (output,) = set(after) - set(before)
        assert [output] == stage_outputs(stage)
        assert {path: after[path] for path in before} == before
        if output.endswith(".json"):
            found = json.loads(after[output])
            assert found
            for row in found["against_the_least"] if name == "steps" else ():
                assert row["subspace_over_its_three_products"] > 0
                assert row["gram_over_its_own_eigendecomposition"] > 0
        else:
            assert after[output].startswith(b"\x89PNG")
        shutil.copy2(folder / output, project.folder / output)  # for the stage after it
