"""arms.yaml and own.yaml: each arm is complete, and a mistake is found before anything trains."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiment.stage.errors import UserError
from studies.training import arm as arm_stage
from studies.training import check_arms
from studies.training.arms import (
    BASELINE,
    NOISY_BASELINE,
    OWN,
    PUBLISHED,
    SETTINGS,
    SETTINGS_OF_ARMS,
    read_arms,
    read_own,
    read_studies_without_arms,
    result_file,
    trajectories,
)

from .small import OWN_STUDY, SMALL_STUDIES, arm

ROOT = Path(__file__).parents[2]
Content = dict[str, Any]
# The own study without the module that it brings.
MINE: Content = {**OWN_STUDY, "own": {"rmsprop": OWN_STUDY["own"]["rmsprop"]}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with small studies, in which check_arms can run."""
    monkeypatch.chdir(tmp_path)
    write_project()


def write_project() -> None:
    for name in ("constraints.txt", "stages/experiment", "stages/lrg_adam"):
        link(name)
    for name in ("__init__.py", "training"):
        link(f"stages/studies/{name}")
    write(SMALL_STUDIES, MINE)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which check_arms has run, and what it said."""
    path = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.chdir(path)
        write_project()
        check_arms.main()
        Path("said").write_text(said.getvalue())
    return path


@pytest.fixture
def checked(folder: None, once: Path) -> str:  # noqa: ARG001
    """The project after check_arms; what it said."""
    shutil.copytree(once / "data", "data")
    return (once / "said").read_text()


def link(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(ROOT / name)


def write(arms: Content, own: Content) -> None:
    PUBLISHED.write_text(yaml.safe_dump(arms, sort_keys=False))
    OWN.write_text(yaml.safe_dump(own, sort_keys=False))


def copy(content: Content) -> Content:
    return json.loads(json.dumps(content))


def refused(function: Callable[[], object]) -> str:
    with pytest.raises(UserError) as found:
        function()
    assert "\n" not in str(found.value)
    return str(found.value)


# The files of the repository


def test_the_published_files_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    arms = read_arms()
    read_studies_without_arms()
    check_arms._note_too_few_replicates(arms)
    assert capsys.readouterr().out == ""
    # Each has a grid of its own, so no published result depends on how a grid is refined.
    assert {one.train.finest_ratio for one in arms.values()} == {None}
    for baseline in (BASELINE, NOISY_BASELINE):
        assert baseline in trajectories(arms, baseline)


def test_the_example_in_own_yaml_is_one() -> None:
    lines = (ROOT / OWN).read_text().splitlines()
    example = [line[2:] for line in lines if line.startswith(("# own_studies:", "# own:", "#   "))]
    OWN.write_text("\n".join(example))
    assert [(one.study, one.against) for one in read_own().values()] == [("mine", ["adam"])]


# Settings


def test_an_arm_has_the_defaults_but_for_what_it_says() -> None:
    arms = read_arms()
    assert arms["rank_20"].train.options == {"hidden": [8]}
    assert (arms["noise_0"].train.replicates, arms["noise_0"].train.noise) == (3, 0)
    assert arms["digits"].train.options == {}
    assert read_own()["rmsprop"].train.model == "mlp"


def test_all_of_an_arm_s_settings_reach_its_training() -> None:
    changes = {"epochs": 7, "batch_size": 16, "noise": 0.5, "seed": 3, "model": "cnn"}
    changes |= {"options": {"width": 3}, "hyperparameters": {"betas": [0.5, 0.9]}}
    train = read_arms()["adam"].train.model_copy(update=changes)
    run = arm_stage.config(train, 0.1, "a purpose")
    expected = {**changes, "hyperparameters": {"lr": 0.1, "betas": [0.5, 0.9]}}
    assert {key: asdict(run)[key] for key in changes} == expected
    assert replace(run, purpose="tune") != run


def grid(**train: Any) -> tuple[list[float], float | None]:  # noqa: ANN401 - what YAML has
    """The grid of an own arm against `adam`, whose grid has three rates; the default has two."""
    arms = copy(SMALL_STUDIES)
    arms["arms"]["adam"]["train"]["lrs"] = [0.001, 0.002, 0.01]
    arms["defaults"] |= {"lrs": [0.001, 0.1], "finest_ratio": 3}
    own = copy(MINE)
    own["own"]["rmsprop"]["train"] |= train
    write(arms, own)
    found = read_own()["rmsprop"].train
    return found.lrs, found.finest_ratio


def test_an_arm_is_tuned_as_finely_as_its_baseline() -> None:
    assert grid() == ([0.001, 0.1], 2)  # the wide grid, refined until neighbours are as near
    assert grid(lrs="same") == ([0.001, 0.002, 0.01], None)
    assert grid(lrs=[0.5]) == ([0.5], None)
    assert grid(lrs=[0.1, 0.5], finest_ratio=1.5) == ([0.1, 0.5], 1.5)


@pytest.mark.parametrize("best", [0.001, 0.0031, 0.1])
def test_a_refined_grid_is_fine_around_its_best_rate_alone(best: float) -> None:
    def nearest(lrs: list[float]) -> float:
        return min(lrs, key=lambda lr: abs(lr - best))

    lrs = [0.001, 0.01, 0.1]
    while more := arm_stage.between(lrs, nearest(lrs), 1.4):
        lrs = sorted([*lrs, *more])
    around = [high / low for low, high in pairwise(lrs) if nearest(lrs) in (low, high)]
    assert max(around) < 1.42
    assert len(lrs) < 20


def test_a_search_varies_the_rate_and_what_is_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERIMENT_WORKERS", "1")
    own = copy(MINE)
    given = {"momentum": 0.9, "alpha": {"low": 0.5, "high": 0.9}}
    own["own"]["rmsprop"]["train"] |= {"search": 6, "lrs": [0.001, 0.1], "hyperparameters": given}
    write(SMALL_STUDIES, own)
    check_arms.main()
    arm_stage.main("metrics/own/arms/rmsprop.json")
    found = json.loads(result_file("rmsprop").read_text())
    tuning = pd.DataFrame(found["tuning"])
    losses = tuning.groupby(["lr", "alpha"])["validation_loss_nats"].agg(["mean", "size"])
    assert list(losses["size"]) == [2] * 6  # trials, each with the tuning replicates
    assert tuning["lr"].between(0.001, 0.1).all()
    assert tuning["alpha"].between(0.5, 0.9).all()
    lr, alpha = losses["mean"].idxmin()
    assert found["hyperparameters"] == {"lr": lr, "momentum": 0.9, "alpha": alpha}
    # An edge is the last twentieth of an interval, that of the rate on its log scale.
    places = (math.log(lr / 0.001) / math.log(100), (alpha - 0.5) / 0.4)
    assert found["on_boundary"] == any(not 0.05 < place < 0.95 for place in places)
    assert len(found["replicates"]) == 4


# Mistakes

Change = Callable[[Content], object]


def train(name: str, **changes: Any) -> Change:  # noqa: ANN401 - what YAML has
    return lambda content: content.get("own", content.get("arms"))[name]["train"].update(changes)


def entry(**changes: Any) -> Change:  # noqa: ANN401 - what YAML has
    return lambda content: content["arms"]["rank_20"].update(changes)


def named(name: str) -> Change:
    return lambda content: content["arms"].update({name: content["arms"]["rank_20"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arms: arms.pop("arms"), "arms is missing; allowed: arms by their names"),
        (lambda arms: arms.update(amrs={}), "unknown key amrs = {}; allowed in its place"),
        (entry(agianst=["adam"]), "unknown key arms.rank_20.agianst = ['adam']; allowed in"),
        (entry(against=["nobody"]), "arms.rank_20.against = ['nobody']; allowed: names of arms"),
        (entry(against=["rmsprop"]), "arms.rank_20.against = ['rmsprop']; allowed: names of arms"),
        (entry(label="$1"), "arms.rank_20.label = '$1'; allowed: a text without $"),
        (entry(train={}), "arms.rank_20.train: optimizer is missing; allowed: a module in"),
        (entry(train=None), "arms.rank_20.train = None; allowed: a section"),
        (train("rank_20", optimiser="adam"), "arms.rank_20.train: unknown key optimiser"),
        (train("rank_20", noise="much"), "train: noise = 'much'; allowed: a number from 0 to 100"),
        (
            train("rank_20", schedule="cosin"),
            "train: schedule = 'cosin'; allowed: constant, cosine",
        ),
        (
            train("rank_20", warmup=2),
            "train: warmup = 2; allowed: a number of at least 0 and below",
        ),
        (train("rank_20", lrs=[0.1, 0.01]), "train: lrs = [0.1, 0.01]; allowed: an ascending list"),
        (train("adam", lrs="same"), "arms.adam.train: lrs = 'same'; allowed: an ascending list"),
        (train("rank_20", replicates=1), "replicates = 1; allowed: a whole number from 2 to 10000"),
        (train("rank_20", model="../mlp"), "model = '../mlp'; allowed: a module in stages/"),
        (
            train("rank_20", hyperparameters={"lr": 1}),
            "train: hyperparameters = {'lr': 1}; allowed",
        ),
        (
            train("rank_20", hyperparameters={"rank": float("nan")}),
            "rank = nan; allowed: keywords of the optimizer",
        ),
        *(
            (named(name), "; allowed: names of a-z, 0-9 and _ that begin with a letter")
            for name in ("Rank", "1", "", "a;touch x;")
        ),
        (lambda arms: arms["trajectories"].append("nobody"), "trajectories has nobody; allowed"),
        (lambda arms: arms["defaults"].pop("group"), "train: group is missing; allowed: a whole"),
        (
            lambda arms: arms["data"]["digits"].update(flipped=1),
            "data.digits.flipped = 1; allowed",
        ),
        (lambda arms: arms["gradients"].update(ranks=[5, 1]), "gradients: ranks = [5, 1]; allowed"),
        (
            lambda arms: arms["search_budget"].update(samplers=1),
            "search_budget: samplers = 1; allo",
        ),
        (
            lambda arms: arms["published"].update(trials=0),
            "published: trials = 0; allowed: a whole",
        ),
    ],
)
def test_a_mistake_in_arms_yaml_is_one_line(change: Change, message: str) -> None:
    arms = copy(SMALL_STUDIES)
    change(arms)
    write(arms, {"own_studies": [], "own": {}})
    found = refused(check_arms.main).splitlines()[0]
    assert found.startswith("stages/studies/arms.yaml: ")
    assert message in found
    assert not SETTINGS_OF_ARMS.exists()


RANKS = {"rank": {"low": 1, "high": 22, "log": True}}


def own_study(name: str) -> Change:
    return lambda own: own["own_studies"].append(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("own"), "own is missing; allowed: arms by their names"),
        (lambda own: own.update(own=None), "own = None; allowed: arms by their names"),
        (lambda own: own.update(owm={}), "unknown key owm = {}; allowed in its place: own"),
        (lambda own: own.update(own_studies="mine"), "own_studies = 'mine'; allowed: a list of"),
        (lambda own: own.update(own_studies=[]), "study = 'mine'; allowed: one of own_studies, []"),
        (own_study("yours"), "own_studies has 'yours'; allowed: names that arms.yaml does not"),
        (own_study("controls"), "own_studies has 'controls'; allowed: names that arms.yaml does"),
        (
            lambda own: own["own"].update(adam=own["own"]["rmsprop"]),
            "own.adam; allowed: a name that arms.yaml does not have",
        ),
        (
            lambda own: own["data"].update(digits=SMALL_STUDIES["data"]["digits"]),
            "data.digits; allowed: a name that arms.yaml does not have",
        ),
        (
            lambda own: own["data"].update({"a b": SMALL_STUDIES["data"]["digits"]}),
            "data.a b; allowed: names of a-z",
        ),
        (
            train("rmsprop", hyperparameters={"alpha": {"low": 0.5, "high": 0.9}}),
            "train: search = 0; allowed: a number of trials up to 10000, with at least two lrs, or",
        ),
        (train("rmsprop", search=9, lrs=[0.1]), "train: search = 9; allowed: a number of trials"),
        (
            train("rmsprop", optimizer="lrg_adam", search=9, hyperparameters=RANKS),
            "train.hyperparameters.rank = 22; allowed: a whole number from 1 to 21",
        ),
        (train("rmsprop", lr=0.1), "unknown key lr = 0.1; allowed in its place: lrs"),
        (train("rmsprop", data="digit"), "train.data = 'digit'; allowed: one of the data sets"),
        (train("rmsprop", data="digits"), "train.data = 'digits'; allowed: that of adam, which is"),
        (train("rmsprop", model="cnn"), "train.model = 'cnn'; allowed: that of adam, which is in"),
        (train("rmsprop", epochs=3), "train.epochs = 3; allowed: that of adam, which is in aga"),
        (train("rmsprop", options={"hidden": [9]}), "train.options = {'hidden': [9]}; allowed: th"),
        (train("rmsprop", batch_size=161), "train.batch_size = 161; allowed: at most 160"),
        (train("rmsprop", optimizer="nobody"), "train.optimizer = 'nobody'; allowed: a module in"),
        (train("rmsprop", optimizer="torch.optim.No"), "train.optimizer = 'torch.optim.No'; allow"),
        (train("rmsprop", hyperparameters={"alhpa": 1}), "train.hyperparameters = {'alhpa': 1}; a"),
        (
            train("rmsprop", optimizer="lrg_adam", hyperparameters={"rank": 22}),
            "train.hyperparameters.rank = 22; allowed: a whole number from 1 to 21",
        ),
        (
            train("rmsprop", optimizer="controls", hyperparameters={"keep": "all", "rank": 1}),
            "train.hyperparameters = {'keep': 'all', 'rank': 1}; allowed: values of lr, keep, rank",
        ),
    ],
)
def test_a_mistake_in_own_yaml_is_one_line(change: Change, message: str) -> None:
    own = copy(MINE)
    change(own)
    write(SMALL_STUDIES, own)
    found = refused(check_arms.main)
    assert found.startswith("stages/studies/own.yaml: ")
    assert message in found
    assert not SETTINGS_OF_ARMS.exists()


@pytest.mark.parametrize("text", ["own: {a: 1", "", "[]", "own: {}\nown: {}\nown_studies: []"])
def test_a_file_that_is_no_mapping_is_one_line(text: str) -> None:
    OWN.write_text(text)
    assert refused(read_own).startswith("stages/studies/own.yaml: ")


def test_a_mistake_in_the_last_own_arm_is_found_before_any_trains() -> None:
    own = copy(MINE)
    bad = arm("mine", "bad", "adam", optimizer="torch.optim.SGD", hyperparameters={"momentun": 1})
    write(SMALL_STUDIES, {**own, "own": {**own["own"], "bad": bad}})
    assert "own.bad.train.hyperparameters = {'momentun': 1}" in refused(check_arms.main)


def test_too_few_replicates_are_told(checked: str) -> None:
    """With 4 pairs no sign-flip p-value is below 2 / 2^4."""
    line = "note: study mine: with 4 replicates no difference from adam can be shown; allowed: "
    assert f"{line}replicates of at least 6\n" in checked


# What decides a result


@pytest.mark.usefixtures("checked")
def test_an_arm_s_file_names_its_modules_and_its_data_and_no_others() -> None:
    inputs = {
        name: set(json.loads((SETTINGS_OF_ARMS / f"{name}.json").read_text())["inputs"])
        for name in ("adam", "permuted", "digits", "rmsprop")
    }
    rooms = ("stages/experiment/networks", "stages/experiment/optimizers", "data", "stages/lrg")
    used = {name: {one for one in of if one.startswith(rooms)} for name, of in inputs.items()}
    mlp, data = "stages/experiment/networks/mlp.py", "data/studies/mnist1d.npz"
    package = "stages/experiment/optimizers/__init__.py"
    assert used["adam"] == used["rmsprop"] | {package, package.replace("__init__", "adam")}
    assert used["rmsprop"] == {mlp, mlp.replace("mlp", "__init__"), data}
    assert {"stages/experiment/optimizers/controls.py", "stages/lrg_adam/flatten.py"} <= used[
        "permuted"
    ]
    assert {"stages/experiment/networks/image_cnn.py", "data/studies/digits.npz"} <= used["digits"]
    assert all("stages/experiment/training/loop.py" in of for of in inputs.values())
    assert {path.stem for path in SETTINGS.glob("*.json")} == {
        "gradients",
        "search_budget",
        "published",
    }


@pytest.mark.usefixtures("checked")
def test_a_package_that_a_class_comes_from_is_named_with_its_version() -> None:
    content = json.loads((SETTINGS_OF_ARMS / "rmsprop.json").read_text())
    assert list(content["versions"]) == ["torch"]


@pytest.mark.usefixtures("checked")
def test_an_input_that_changes_after_the_check_is_named() -> None:
    assert arm_stage.read_settings("adam") == read_arms()["adam"].train
    path = Path("data/studies/mnist1d.npz")
    path.write_bytes(path.read_bytes() + b"0")
    assert refused(lambda: arm_stage.read_settings("adam")).startswith(f"{path} has changed since")


def test_results_of_ones_own_arms_are_kept_apart() -> None:
    own, published = Path("metrics/own/arms/mine.json"), Path("metrics/studies/arms/adam.json")
    for path in (own, published, own.with_name("adam.json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert result_file("mine") == own
    assert result_file("adam") == published
