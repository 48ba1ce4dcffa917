"""The same bytes from any folder, any number of processes and any environment."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from processes import forget_tasks, same_results
from project import (
    ENVIRONMENT,
    ROOT,
    SMALL,
    STUDIES,
    Project,
    copy_repository,
    set_params,
    stage_outputs,
)

from experiment.stage import run
from experiment.stage.environment import INSTRUCTIONS

# What is promised from one processor to another.
X86_64 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the promise is for x86-64"
)


@pytest.mark.slow
def test_a_cold_run_of_an_archive_in_another_environment_gives_the_same_bytes(
    finished: Project, tmp_path: Path
) -> None:
    project = Project(tmp_path / "an archive, überall")
    copy_repository(project.folder)
    project.dvc("config", "--local", "core.no_scm", "true")
    (project.folder / "dvc.lock").unlink(missing_ok=True)
    for output in project.outputs():
        (project.folder / output).unlink(missing_ok=True)
    set_params(project.folder / "params.yaml", SMALL)

    project.dvc(
        "repro",
        EXPERIMENT_WORKERS="2",
        OMP_NUM_THREADS="3",
        MKL_NUM_THREADS="2",
        PYTHONHASHSEED="77",
        ATEN_CPU_CAPABILITY="default",
        MKL_CBWR="AUTO",
        LC_ALL="C",
        TZ="Asia/Tokyo",
    )

    assert same_results(project, finished)


def again(project: Project, stage: str, **environment: str) -> dict[str, bytes]:
    """The outputs of a stage that is computed again by hand."""
    forget_tasks(project)
    for output in stage_outputs(project.stages()[stage]):
        (project.folder / output).unlink()
    project.shell(project.stages()[stage]["cmd"], **environment)
    return project.read()


# Wherever Python is started with this file on its path, processes begin as on macOS and Windows.
SPAWN = """
import multiprocessing, os, sys
if "--multiprocessing-fork" in sys.orig_argv:
    open(os.environ["SPAWN_LOG"], "a").close()
context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: context("spawn")
"""


@pytest.mark.slow
def test_processes_that_are_spawned_give_the_same_bytes(
    project: Project, finished: Project, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPAWN)
    log = tmp_path / "spawned"

    variables = {"PYTHONPATH": str(tmp_path), "SPAWN_LOG": str(log)}
    found = again(project, "tune_lrg_adam", EXPERIMENT_WORKERS="2", **variables)

    assert log.exists()
    assert found == finished.read()


ARITHMETIC = """
import hashlib
{imports}
import numpy as np
import torch

def show(name, found):
    print(name, hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest())

x = np.random.default_rng(0).standard_normal((119, 119), dtype=np.float32)
t = torch.from_numpy(x)
show("torch", t.softmax(-1).numpy())
show("oneDNN", torch.nn.functional.conv1d(t.view(7, 17, 119), t.view(17, 17, 49)[..., :3]).numpy())
show("MKL", torch.linalg.eigh(t.mT @ t).eigenvectors.numpy())
show("OpenBLAS", np.linalg.svd(x.astype(np.float64))[0])
show("NumPy", np.exp(x) + np.log(abs(x) + 1))
"""
# Of each library, what a user may have set, and what makes it another processor to it.
PROCESSORS = {
    "torch": [{"ATEN_CPU_CAPABILITY": "default"}, {"ATEN_CPU_CAPABILITY": "avx2"}],
    "oneDNN": [{"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}],
    "MKL": [{"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}],
    "OpenBLAS": [{"OPENBLAS_CORETYPE": "Nehalem"}, {"OPENBLAS_CORETYPE": "Haswell"}],
    "NumPy": [
        {"NPY_DISABLE_CPU_FEATURES": f"{more} X86_V4 AVX512_ICL AVX512_SPR"}
        for more in ("", "X86_V3")
    ],
}


def arithmetic(imports: str, **environment: str) -> dict[str, str]:
    """A digest of what each library computes, in a process of its own."""
    # Without the settings of this process, which has imported the package too.
    unset = {name: text for name, text in ENVIRONMENT.items() if name not in INSTRUCTIONS}
    lines = subprocess.run(
        [sys.executable, "-c", ARITHMETIC.format(imports=imports)],
        env=unset | {"PYTHONPATH": str(ROOT / "stages")} | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return dict(line.split() for line in lines)


@pytest.fixture(scope="module")
def digests() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Of two processors, without the pipeline's settings; and with them, of this one as well."""
    two = [
        {name: text for one in PROCESSORS.values() for name, text in one[number].items()}
        for number in (0, 1)
    ]
    free = [arithmetic("", **environment) for environment in two]
    return free, [arithmetic("import experiment", **environment) for environment in ({}, *two)]


@X86_64
@pytest.mark.parametrize("library", PROCESSORS)
@pytest.mark.slow
def test_the_settings_make_equal_what_instructions_would_make_differ(
    digests: tuple[list[dict[str, str]], list[dict[str, str]]], library: str
) -> None:
    free, kept = ([one[library] for one in found] for found in digests)
    assert kept[0] == kept[1] == kept[2]
    if library == "MKL" and free[0] == free[1]:
        # As on some of AMD's, whatever it is told.
        pytest.skip("on this processor MKL has one way to compute")
    assert free[0] != free[1]


ARMS = "stages/studies/arms/dvc.yaml"


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone of this repository with its files as they are now, results included."""
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("no results are committed")
    project = Project(tmp_path_factory.mktemp("committed"))
    copy_repository(project.folder)
    project.run("git", "init", "-q", "-b", "main")
    project.commit("The repository, with its results")
    # The data are not in Git.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        for stage in ("check_params", "fetch_data", "studies.training.check_arms"):
            run(stage)
    return project


@pytest.mark.parametrize("pipeline", ["dvc.yaml", ARMS, STUDIES])
def test_the_committed_results_are_those_of_the_committed_code(
    committed: Project, pipeline: str
) -> None:
    planned = committed.dvc("repro", "--dry", "--allow-missing", pipeline).stdout

    assert "Running stage" not in planned, planned


# The stages that train nothing.
CHEAP = {
    "dvc.yaml": ["check_params", "fetch_data", "compare", "plot"],
    STUDIES: [
        "learning_rate",
        "compare@rank_sweep",
        "compare@controls",
        "plot_gradients",
        "plot_published",
        "conclusion",
    ],
}


@X86_64
@pytest.mark.parametrize(
    ("pipeline", "stage"), [(pipeline, stage) for pipeline in CHEAP for stage in CHEAP[pipeline]]
)
def test_a_cheap_stage_gives_the_committed_bytes(
    committed: Project, pipeline: str, stage: str, run_here: Callable[[Project, str], None]
) -> None:
    committed.run("git", "checkout", "-q", ".")  # undoes what a stage that differs has written

    lock = yaml.safe_load((committed.folder / pipeline).with_suffix(".lock").read_text())

    run_here(committed, lock["stages"][stage]["cmd"])

    assert committed.run("git", "status", "--porcelain", "--untracked-files=no").stdout == ""
    for output in lock["stages"][stage]["outs"]:
        content = (committed.folder / output["path"]).read_bytes()
        assert hashlib.md5(content).hexdigest() == output["md5"]


@X86_64
@pytest.mark.slow
def test_a_whole_run_gives_the_committed_bytes(committed: Project) -> None:
    committed.dvc("repro", "-f", EXPERIMENT_WORKERS=str(os.cpu_count()))

    assert committed.run("git", "status", "--porcelain", "--untracked-files=no").stdout == ""
