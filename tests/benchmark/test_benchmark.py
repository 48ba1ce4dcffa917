"""Every stage of the benchmark runs on what it declares, and writes what it declares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import Project, stage_outputs
from test_hermetic import files_below, isolated

pytestmark = pytest.mark.slow

BENCHMARK = "stages/benchmark/dvc.yaml"
# Arguments that make each stage as short as possible.
SHORTEST = {
    "steps": "--sides 119 --seconds 0.1",
    "plot": "",
}


def test_every_stage_is_run_here(finished: Project) -> None:
    assert finished.stages(BENCHMARK).keys() == SHORTEST.keys()


def test_a_stage_needs_its_declared_inputs_alone_and_warns_of_nothing(
    project: Project, tmp_path: Path
) -> None:
    for name in SHORTEST:
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
            rows = pd.DataFrame(json.loads(after[output])["steps"]).set_index("method")
            assert (rows.loc[["gram", "randomized"], "filter_over_its_least"] > 0).all()
            assert (rows.loc["gram", "excess_error"].abs() < 1e-3).all()
        else:
            assert after[output].startswith(b"\x89PNG")
        shutil.copy2(folder / output, project.folder / output)  # for the stage after it
