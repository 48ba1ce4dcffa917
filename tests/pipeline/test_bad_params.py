"""A mistake in params.yaml ends the run before a stage has cost a result."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from processes import forget_tasks
from project import ROOT, Project, edited

import check_params
from experiment.datasets import mnist1d
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.training import loop, work
from experiment.training.network import Weights

STAGES = Project(ROOT).stages()

# Keys that contradict the data, the network, the optimizer or each other, with what
# the line begins with. Only the first stage finds them.
CONTRADICTIONS = [
    ({"rank": "120"}, "rank = 120; allowed: a whole number from 1 to 119 "),
    ({"tune.rank.low": "119"}, "tune.rank.low = 119; allowed: at most 118 "),
    ({"tune.rank.high": "120"}, "tune.rank.high = 120; allowed: a whole number from 1 to 119 "),
    ({"training.batch_size": "2001"}, "training.batch_size = 2001; allowed: at most 2000 "),
    ({"data.train": "63"}, "training.batch_size = 64; allowed: at most 63 "),
    ({"rank": "100", "model.hidden": "[8]"}, "rank = 100; allowed: a whole number from 1 to 21 "),
    ({"tune.rank.high": "22", "model.hidden": "[8]"}, "tune.rank.high = 22; allowed: a whole "),
    ({"rank": "74", "model.name": "cnn"}, "rank = 74; allowed: a whole number from 1 to 73 "),
    ({"data.validation": "2001"}, "data: mnist1d cannot be loaded: ValueError: data.train = "),
    ({"data.name": "nothing"}, "data.name = 'nothing'; allowed: a module in stages/experiment/da"),
    ({"model.name": "nothing"}, "model.name = 'nothing'; allowed: a module in stages/experiment"),
    ({"adam.weight_deca": "0"}, "unknown key adam.weight_deca = 0; allowed in its place: betas, "),
    *[({f"adam.{k}": "1"}, f"unknown key adam.{k} = 1; ") for k in ("lr", "rank", "fused")],
    *[
        ({f"lrg_adam.{k}": "1"}, f"unknown key lrg_adam.{k} = 1; ")
        for k in ("lr", "rank", "fused", "batch_dims", "nonfinite")
    ],
    *[
        ({f"adam.{key}": typed}, "adam = {")
        for key, typed in (
            *(("weight_decay", "-1"), ("weight_decay", "word"), ("betas", "[0.9]")),
            *(("weight_decay", "{low: -1, high: 1}"), ("betas", "{low: 0.1, high: 0.9}")),
        )
    ],
    ({"lrg_adam.method": "grma"}, "lrg_adam = {"),
    ({"lrg_adam.method": "{low: 1, high: 2}"}, "lrg_adam = {"),
    ({"device": "cuda"}, "device = cuda; allowed: cpu "),
]


@pytest.fixture
def published_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate the published data once for all tests, which takes a second."""
    monkeypatch.setattr(mnist1d, "published", PUBLISHED)


PUBLISHED = functools.cache(mnist1d.published)


@pytest.mark.usefixtures("published_once")
@pytest.mark.parametrize(("changes", "named"), CONTRADICTIONS)
def test_a_contradiction_is_named(
    changes: dict[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "constraints.txt", "constraints.txt")
    Path("params.yaml").write_text(edited(changes))

    with pytest.raises(UserError) as refused:
        check_params.main()

    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"params.yaml: {named}")
    assert "; allowed" in line
    # What DVC had deleted is there all the same.
    assert Path("data/versions.json").exists()


@pytest.mark.usefixtures("published_once")
@pytest.mark.parametrize(
    "changes",
    [
        {"rank": "119"},
        {"lrg_adam.weight_decay": "{low: 1e-4, high: 1, log: true}", "adam.amsgrad": "true"},
        {"lrg_adam.method": "randomized", "lrg_adam.iterations": "{low: 1, high: 8}"},
        {"tune.rank.low": "117", "tune.rank.high": "118"},
        {"tune.rank.high": "119"},
        {"training.batch_size": "2000"},
        {"data.train": "3000"},
        {"data.validation": "2000", "data.shuffle": "true"},
        {"data.flipped": "0.999"},
        {"data.flipped": "0.2", "data.name": "digits"},
        {"model.name": "logistic"},
        {"model.name": "cnn", "data.name": "digits"},
    ],
)
def test_what_makes_sense_is_taken(
    changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "constraints.txt", "constraints.txt")
    Path("params.yaml").write_text(edited(changes))

    with files.unchanged():
        check_params.main()


@pytest.mark.parametrize("changes", [{"rank": "ten"}, {"other": "1"}])
def test_no_stage_takes_a_mistake(
    project: Project, changes: dict[str, str], run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    (project.folder / "params.yaml").write_text(edited(changes))

    for stage in STAGES.values():
        with pytest.raises(SystemExit) as ended:
            run_here(project, stage["cmd"])
        (line,) = str(ended.value.code).splitlines()
        assert line.startswith("error: params.yaml: ")

    assert project.read() == before


def poison(project: Project, monkeypatch: pytest.MonkeyPatch, *, above: float) -> None:
    """Let the last replicate of every training with a learning rate above a limit become NaN."""
    forget_tasks(project)
    healthy = loop.train

    def train(config: loop.RunConfig, *arguments: object) -> Iterator[Weights]:
        for weights in healthy(config, *arguments):
            if config.hyperparameters["lr"] > above:
                for tensor in weights.values():
                    tensor.data[-1] = math.nan
            yield weights

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(work, "FOLDER", Path(".scratch/poisoned"))  # which is empty


def test_a_trial_that_diverges_is_a_bad_trial(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    path = project.folder / "metrics/tune_adam.json"
    lrs = sorted(trial["lr"] for trial in json.loads(path.read_text())["trials"])
    limit = lrs[len(lrs) // 2]
    poison(project, monkeypatch, above=limit)

    run_here(project, "python stages tune adam")

    tuned = json.loads(path.read_text())
    trials = tuned["trials"]
    assert len(trials) == len(lrs)
    assert [t["lr"] for t in trials if t["trial_loss_nats"] is None] != []
    assert all((t["trial_loss_nats"] is None) == (t["lr"] > limit) for t in trials)
    assert tuned["best"]["lr"] <= limit


def test_a_search_in_which_all_diverge_is_reported(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    poison(project, monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: every trial diverged; params.yaml: tune.lr = "):
        run_here(project, "python stages tune lrg_adam")

    assert project.read() == before


def test_a_final_training_that_diverges_says_which_replicates_did(
    project: Project, monkeypatch: pytest.MonkeyPatch, run_here: Callable[[Project, str], None]
) -> None:
    before = project.read()
    poison(project, monkeypatch, above=0)

    with pytest.raises(SystemExit, match=r"^error: 2 of 6 replicates diverged with .*: 2, 5$"):
        run_here(project, "python stages final_train adam")

    assert project.read() == before
