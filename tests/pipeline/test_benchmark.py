"""Every benchmark runs, on what it declares, and writes what it declares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import Project, set_params, stage_outputs
from test_hermetic import files_below, isolated

pytestmark = pytest.mark.slow

BENCHMARKS = "stages/benchmark/dvc.yaml"
# Arguments with which each is as short as it goes.
SMALLEST = {
    "steps": "--sides 119 --seconds 0.1",
    "plot": "",
    "throughput": "--epochs 1 --rounds 1",
    "pipeline": "--epochs 1 --rounds 1",
}
# The pipeline's own files, which `dvc repro` in a copy needs; they are no dependencies of a stage.
PIPELINE = ("dvc.yaml", ".dvcignore")


def test_every_benchmark_is_run_here(finished: Project) -> None:
    assert finished.stages(BENCHMARKS).keys() == SMALLEST.keys()


@pytest.mark.parametrize("names", [["throughput"], ["steps", "plot"], ["pipeline"]], ids=" ".join)
def test_a_benchmark_needs_its_declared_inputs_alone(
    project: Project, names: list[str], tmp_path: Path
) -> None:
    # Pieces of work enough that some are left after the kill that is timed.
    set_params(project.folder / "params.yaml", {"final_train.replicates": 24})
    for name in names:
        stage = project.stages(BENCHMARKS)[name]
        folder = tmp_path / name
        sandbox = isolated(project, stage, folder)
        if name == "pipeline":
            for file in PIPELINE:
                shutil.copy2(project.folder / file, folder)
        before = files_below(folder)

        sandbox.run("sh", "-c", f"{stage['cmd']} {SMALLEST[name]}")

        after = files_below(folder)
        (output,) = set(after) - set(before)
        assert [output] == stage_outputs(stage)
        assert {path: after[path] for path in before} == before
        if output.endswith(".json"):
            assert json.loads(after[output])
        else:
            assert after[output].startswith(b"\x89PNG")
        shutil.copy2(folder / output, project.folder / output)  # for the stage after it
