"""arms.yaml and own.yaml: a mistake is found before anything trains, and told in one line."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.parsing.interpolate import to_str
from project import SMALL, set_params

from experiment.datasets import mnist1d
from experiment.stage.data import Dataset, Split
from experiment.stage.errors import UserError
from studies.gradients import trajectory
from studies.training import arm, check_arms, shared
from studies.training.arms import (
    OWN,
    PUBLISHED,
    STUDIES,
    ArmTraining,
    read_arms,
    read_own,
    result_file,
)
from studies.training.words import parse

from .small import OWN_STUDY, SMALL_STUDIES

ROOT = Path(__file__).parents[2]


def copy(content: Any) -> Any:  # noqa: ANN401 - what YAML has
    return json.loads(json.dumps(content))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("constraints.txt", "params.yaml"):
        shutil.copy2(ROOT / name, name)
    write(SMALL_STUDIES, OWN_STUDY)
    return tmp_path


def write(arms: Any, own: Any) -> None:  # noqa: ANN401 - what YAML has
    PUBLISHED.parent.mkdir(parents=True, exist_ok=True)
    PUBLISHED.write_text(yaml.safe_dump(arms))
    OWN.write_text(yaml.safe_dump(own))


def refused(function: Callable[[], object]) -> str:
    with pytest.raises(UserError) as found:
        function()
    assert "\n" not in str(found.value)
    return str(found.value)


def test_the_published_files_make_sense() -> None:
    for path in (PUBLISHED, OWN):
        shutil.copy2(ROOT / path, path)
    check_arms.main()
    assert shared.SHARED_FILE.exists()
    assert read_own() == {}
    assert len(read_arms()) == 29
    assert list(dict.fromkeys(one.study for one in read_arms().values())) == list(STUDIES)


def test_the_example_in_own_yaml_is_one() -> None:
    shutil.copy2(ROOT / PUBLISHED, PUBLISHED)
    lines = (ROOT / OWN).read_text().splitlines()
    example = [line[2:] for line in lines if line.startswith(("# own_studies:", "# own:", "#   "))]
    OWN.write_text("\n".join(example))
    assert [(one.study, one.against) for one in read_own().values()] == [("mine", ["adam"])]


def test_an_arm_has_the_defaults_but_for_what_it_says() -> None:
    arms = read_arms()
    assert arms["rank_1"].train.lrs == [0.001, 0.01, 0.03]
    assert (arms["cnn"].train.lrs, arms["cnn"].train.replicates) == ([0.01], 4)
    assert (arms["noise_0"].train.replicates, arms["noise_0"].train.noise) == (3, 0)
    own = read_own()
    assert (own["sign"].train.model, own["sign"].train.lrs) == (None, [0.001, 0.01])
    assert own["sign"].against == ["adam", "rmsprop"]


Change = Callable[[dict[str, Any]], object]


def train(name: str, **changes: Any) -> Change:  # noqa: ANN401 - what YAML has
    study = next(study for study in STUDIES if name in SMALL_STUDIES[study])
    return lambda arms: arms[study][name]["train"].update(changes)


def entry(**changes: Any) -> Change:  # noqa: ANN401 - what YAML has
    return lambda arms: arms["rank_sweep"]["rank_1"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arms: arms.pop("controls"), "controls is missing; allowed: arms by their names"),
        (lambda arms: arms.pop("gradients"), "gradients is missing; allowed: "),
        (lambda arms: arms.update(contorls={}), "unknown key contorls = {}; allowed in its place"),
        (lambda arms: arms.update(controls=[]), "controls = []; allowed: arms by their names"),
        (entry(agianst=["adam"]), "unknown key rank_sweep.rank_1.agianst = ['adam']; allowed in"),
        (entry(against=["nobody"]), "rank_sweep.rank_1.against = ['nobody']; allowed: names of ar"),
        (entry(against="adam"), "rank_sweep.rank_1.against = 'adam'; allowed: a list of arms"),
        (entry(against=["sign"]), "rank_sweep.rank_1.against = ['sign']; allowed: names of arms"),
        (entry(label="$1"), "rank_sweep.rank_1.label = '$1'; allowed: how tables and figures"),
        (entry(label=""), "rank_sweep.rank_1.label = ''; allowed: how tables and figures"),
        (entry(label=1), "rank_sweep.rank_1.label = 1; allowed: how tables and figures"),
        (entry(train={}), "rank_sweep.rank_1.train.optimizer is missing; allowed: a module in"),
        (entry(train=None), "rank_sweep.rank_1.train = None; allowed: a section"),
        (
            train("rank_1", optimiser="adam"),
            "unknown key optimiser = 'adam'; allowed in its place: optimizer",
        ),
        (train("rank_1", noise="much"), "noise = 'much'; allowed: a number from 0 to 100"),
        (train("rank_1", noise=-1), "noise = -1; allowed: a number from 0 to 100"),
        (train("rank_1", shuffle="yes"), "shuffle = 'yes'; allowed: true or false"),
        (train("rank_1", lrs=[]), "lrs = []; allowed: an ascending list of numbers"),
        (train("rank_1", lrs=[0.1, 0.01]), "lrs = [0.1, 0.01]; allowed: an ascending list"),
        (train("rank_1", lrs=[0.1, 0.1]), "lrs = [0.1, 0.1]; allowed: an ascending list"),
        (train("rank_1", lrs=[11]), "lrs = 11; allowed: an ascending list of numbers from 1e-8"),
        (train("rank_1", replicates=1), "replicates = 1; allowed: a whole number from 2 to 10000"),
        (train("rank_1", group=True), "group = True; allowed: a whole number from 1 to 1000"),
        (train("rank_1", model="../mlp"), "model = '../mlp'; allowed: a module in stages/"),
        (train("rank_1", optimizer="a b"), "optimizer = 'a b'; allowed: a module in stages/"),
        *(
            (train("rank_1", hyperparameters=given), f"hyperparameters = {given}; allowed: argum")
            for given in (
                {"lr": 0.1},
                {"rank": [1]},
                {"rank": []},
                {"rank": None},
                {"rank": float("nan")},
                {"rank": float("inf")},
                {"rank": {"high": 1}},
                {"betas": [0.9, float("nan")]},
            )
        ),
        *(
            (
                lambda arms, name=name: arms["controls"].update({name: arms["controls"]["energy"]}),
                "",
            )
            for name in ("Rank", "rank-1", "rank.1", "1", "1_rank", "_rank", "a b", "ränk", "")
        ),
        (
            lambda arms: arms["controls"].update(rank_1=arms["controls"]["energy"]),
            "controls.rank_1; allowed: a name that no other study has",
        ),
        (
            lambda arms: arms["gradients"]["trajectories"].update(nobody={}),
            "gradients.trajectories has nobody; allowed: names of arms",
        ),
        (
            lambda arms: arms["gradients"].update(trajectories={}),
            "gradients.trajectories = {}; allowed: arms, each with an empty section",
        ),
        (
            lambda arms: arms["gradients"].update(trajectories=["adam"]),
            "gradients.trajectories = ['adam']; allowed: arms, each with an empty section",
        ),
        (lambda arms: arms["defaults"].update(lrs=[]), "defaults.lrs = []; allowed: an ascending"),
        (lambda arms: arms["defaults"].pop("group"), "defaults.group is missing; allowed: a whole"),
    ],
)
def test_a_mistake_in_arms_yaml_is_told_in_one_line(change: Change, message: str) -> None:
    arms = copy(SMALL_STUDIES)
    change(arms)
    write(arms, {"own_studies": [], "own": {}})
    found = refused(check_arms.main)
    assert found.startswith("stages/studies/arms.yaml: ")
    assert message in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("own"), "own is missing; allowed: arms by their names"),
        (lambda own: own.update(own=None), "own = None; allowed: arms by their names"),
        (lambda own: own.update(owm={}), "unknown key owm = {}; allowed in its place: own"),
        (lambda own: own.update(own_studies="mine"), "own_studies = 'mine'; allowed: a list of"),
        (lambda own: own.update(own_studies=["Mine"]), "own_studies = 'Mine'; allowed: a list of"),
        (
            lambda own: own.update(own_studies=[]),
            ".study = 'mine'; allowed: one of own_studies, []",
        ),
        (
            lambda own: own.update(own_studies=["mine", "yours"]),
            "own_studies has 'yours'; allowed: names that arms.yaml does not have, each the study",
        ),
        (
            lambda own: own.update(own_studies=["mine", "controls"]),
            "own_studies has 'controls'; allowed: names that arms.yaml does not have",
        ),
        (
            lambda own: own["own"]["sign"].update(study="controls"),
            "own.sign.study = 'controls'; allowed: one of own_studies, ['mine']",
        ),
        (
            lambda own: [one.pop("against") for one in own["own"].values()],
            "own_studies has 'mine'; allowed: names that arms.yaml does not have, each the study",
        ),
        (
            lambda own: own["own"].update(adam=own["own"]["sign"]),
            "own.adam; allowed: a name that arms.yaml does not have",
        ),
        (
            lambda own: own["own"]["sign"].update(against=["nobody", "adam"]),
            "own.sign.against = ['nobody', 'adam']; allowed: names of arms, which nobody is not",
        ),
        (lambda own: own["own"]["sign"].pop("study"), "own.sign.study is missing; allowed: one of"),
        (lambda own: own["own"]["sign"].pop("train"), "own.sign.train is missing; allowed: a sec"),
        (
            lambda own: own["own"]["sign"]["train"].update(lr=0.1),
            "unknown key lr = 0.1; allowed in its place: lrs",
        ),
        (
            lambda own: own["own"]["sign"]["train"].pop("optimizer"),
            "own.sign.train.optimizer is missing; allowed: a module in",
        ),
        (
            lambda own: own["own"].update({"No": own["own"]["sign"]}),
            "own.No; allowed: names of a-z, 0-9 and _ that begin with a letter",
        ),
    ],
)
def test_a_mistake_in_own_yaml_is_told_in_one_line(change: Change, message: str) -> None:
    own = copy(OWN_STUDY)
    change(own)
    write(SMALL_STUDIES, own)
    found = refused(check_arms.main)
    assert found.startswith("stages/studies/own.yaml: ")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own: {a: 1", "not YAML"),
        ("", "no parameters; allowed: own_studies, own"),
        ("[]", "no parameters; allowed: own_studies, own"),
        ("own: {}\nown: {}\nown_studies: []", "not YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_told_in_one_line(text: str, message: str) -> None:
    OWN.write_text(text)
    assert refused(check_arms.main).startswith(f"stages/studies/own.yaml: {message}")


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "-1",
        "1.0e-5",
        "true",
        "null",
        "~",
        "",
        " ",
        "a: b",
        "[1]",
        "@",
        "# x",
        "--x",
        "2020-01-01",
    ],
)
def test_a_text_reaches_the_optimizer_as_it_is_or_is_refused(text: str) -> None:
    """In a command a text is not told from what it spells."""
    own = copy(OWN_STUDY)
    own["own"]["sign"]["train"]["hyperparameters"] = {"decay": text}
    write(SMALL_STUDIES, own)
    try:
        check_arms.main()
        written = to_str({**SMALL_STUDIES["defaults"], **own["own"]["sign"]["train"]})
        found = parse(ArmTraining, shlex.split(written), "arm sign: ")
    except UserError:
        return
    assert found.hyperparameters == {"decay": text}


def test_results_of_ones_own_arms_are_kept_apart() -> None:
    own = Path("metrics/own/arms/mine.json")
    own.parent.mkdir(parents=True)
    own.touch()
    published = Path("metrics/studies/arms/adam.json")
    published.parent.mkdir(parents=True)
    published.touch()
    own.with_name("adam.json").touch()  # left behind, under a name that is taken
    assert result_file("mine") == own
    assert result_file("adam") == published


# Other data than MNIST-1D


@pytest.fixture
def digits() -> Dataset:
    """A params.yaml for another data set, and data in its place."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["name"] = "digits"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    shared.write()
    split = Split(*mnist1d.fresh(100, 0))
    dataset = Dataset(split, split, split)
    dataset.write("digits", "digits")
    return dataset


WORDS = "--lrs 0.1 --tuning_replicates 1 --replicates 2 --group 1 --optimizer adam --model mlp"


@pytest.mark.usefixtures("digits")
def test_pixels_of_other_data_are_not_shuffled() -> None:
    words = [*WORDS.split(), "--shuffle"]
    message = refused(lambda: arm.main("metrics/studies/arms/a.json", *words))
    assert message == "arm a: shuffle = true; allowed: with data.name = mnist1d"
    assert not Path("metrics").exists()


@pytest.mark.usefixtures("digits")
def test_gradients_on_other_data_are_not_looked_at() -> None:
    words = "--ranks 1 2 --epochs 1 2 --replicates 2 --group 1 --batches 1 --fresh_samples 100"
    message = refused(lambda: trajectory.main("adam", *words.split()))
    assert message.startswith("data.name = 'digits'; ")
    assert message.endswith("allowed: mnist1d")
    assert not Path("metrics").exists()


def test_shuffled_data_are_shuffled_once(digits: Dataset) -> None:
    digits.write("mnist1d", "MNIST-1D")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for shuffled in (False, True):  # what the stage fetch_data did already
        params["data"]["shuffle"] = shuffled
        Path("params.yaml").write_text(yaml.safe_dump(params))
        shared.write()
        found = arm.read_data(shared.read(), True, "arm a")
        expected = digits.train if shuffled else mnist1d.shuffled(digits.train)
        assert (found.train.x == expected.x).all()
        assert (arm.read_data(shared.read(), False, "").train.x == digits.train.x).all()


# An optimizer that does not take what it is given


@pytest.fixture
def small_data() -> None:
    """A params.yaml with a small network, and data in the place of MNIST-1D's."""
    set_params(Path("params.yaml"), SMALL)
    shared.write()
    split = Split(*mnist1d.fresh(100, 0))
    Dataset(split, split, split).write("mnist1d", "MNIST-1D")


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("optimizer", "given", "message"),
    [
        (
            "nonexistent",
            {},
            ".optimizer = 'nonexistent'; allowed: a module in stages/experiment/opt",
        ),
        (
            "torch.optim.Nobody",
            {},
            ".optimizer = 'torch.optim.Nobody'; allowed: a module in stages",
        ),
        ("nowhere.Nobody", {}, ".optimizer = 'nowhere.Nobody'; allowed: a module in stages"),
        (
            "torch.optim.RMSprop",
            {"alhpa": 1},
            ".hyperparameters = {'alhpa': 1}; allowed: what torch",
        ),
        ("torch.optim.LBFGS", {}, ".hyperparameters = {}; allowed: what torch.optim.LBFGS takes"),
        ("adam", {"rnak": 1}, ".hyperparameters = {'rnak': 1}; allowed: what adam takes"),
        ("lrg_adam", {}, ".hyperparameters = {}; allowed: what lrg_adam takes"),
        (
            "lrg_adam",
            {"rank": -3},
            ".hyperparameters.rank = -3; allowed: a whole number from 1 to 21",
        ),
        (
            "lrg_adam",
            {"rank": 22},
            ".hyperparameters.rank = 22; allowed: a whole number from 1 to 21",
        ),
        ("lrg_adam", {"rank": "ten"}, ".hyperparameters = {'rank': 'ten'}; allowed: what lrg_adam"),
        (
            "lrg_adam",
            {"rank": 1.5},
            ".hyperparameters = {'rank': 1.5}; allowed: what lrg_adam takes",
        ),
        ("lrg_adam", {"rank": True}, ".hyperparameters = {'rank': True}; allowed: what lrg_adam"),
        *(
            (
                "lrg_adam",
                {"rank": 1, name: value},
                ".hyperparameters = {'rank': 1, '" + name + "': ",
            )
            for name, value in (
                ("method", "qr"),
                ("scope", "layer"),
                ("amsgrad", 1),
                ("foreach", 1),
                ("differentiable", 1),
                ("betas", 1),
            )
        ),
        ("lrg_adam", {"rank": 1.5, "scope": "parameter"}, ".hyperparameters = {'rank': 1.5, "),
        ("controls", {"rank": 1}, ".hyperparameters = {'rank': 1}; allowed: what controls takes"),
        (
            "controls",
            {"keep": "all", "rank": 1},
            ".hyperparameters = {'keep': 'all', 'rank': 1}; al",
        ),
        *(
            ("controls", {"keep": keep, "rank": rank}, f".hyperparameters{message}")
            for keep in ("random", "permuted", "rest")
            for rank, message in (
                (22, ".rank = 22; allowed: a whole number from 1 to 21"),
                (0, ".rank = 0; allowed: a whole number from 1 to 21"),
                (0.5, f" = {{'keep': '{keep}', 'rank': 0.5}}; allowed: what controls takes"),
                ("ten", f" = {{'keep': '{keep}', 'rank': 'ten'}}; allowed: what controls takes"),
            )
        ),
        (
            "controls",
            {"keep": "rest", "rank": 21},
            ".hyperparameters = {'keep': 'rest', 'rank': 21}",
        ),
        *(
            (
                "controls",
                {"keep": "energy", "energy": energy},
                ".hyperparameters = {'keep': 'energy'",
            )
            for energy in ("most", 88, 0, -0.5)
        ),
        (
            "controls",
            {"keep": "energy"},
            ".hyperparameters = {'keep': 'energy'}; allowed: what con",
        ),
        (
            "controls",
            {"keep": "energy", "energy": 0.5, "rank": 1},
            ".hyperparameters = {'keep': 'en",
        ),
        (
            "controls",
            {"keep": "random", "rank": 1, "energy": 0.5},
            ".hyperparameters = {'keep': 'ra",
        ),
    ],
)
def test_what_an_optimizer_does_not_take_is_told_before_it_trains(
    optimizer: str, given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm, "Work", None)
    words = f"--lrs 0.1 --tuning_replicates 1 --replicates 2 --group 1 --optimizer {optimizer}"
    words += "".join(f" --hyperparameters.{key} {value}" for key, value in given.items())
    found = refused(lambda: arm.main("metrics/studies/arms/adam.json", *words.split()))
    assert found.startswith(f"arm adam: train{message}"), found
    assert "; allowed: " in found
    assert not Path("metrics").exists()


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": 0.5}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam that train"),
        ({"shuffle": True}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam"),
        ({"model": "logistic"}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam"),
        ({"optimizer": "controls"}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam"),
        ({"optimizer": "torch.optim.Adam"}, "gradients.trajectories: a; allowed: arms of adam or"),
        ({"ranks": "1 22"}, "gradients.look.ranks = [1, 22]; allowed: at most 21"),
        ({"epochs": "1 3"}, "gradients.look.epochs = [1, 3]; allowed: at most 2"),
        ({"epochs": "2 1"}, "gradients.look: epochs = [2, 1]; allowed: an ascending list"),
        (
            {"ranks": "0 1"},
            "gradients.look: ranks = 0; allowed: an ascending list of whole numbers",
        ),
        ({"replicates": "1"}, "gradients.look: replicates = 1; allowed: a whole number from 2"),
    ],
)
def test_what_cannot_be_looked_at_is_told_before_it_trains(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectory, "Work", None)
    look = {"ranks": "1 2", "epochs": "1 2", "replicates": "2", "group": "1", "batches": "1"}
    look |= {"fresh_samples": "100"}
    trained = {"optimizer": "adam", "model": "mlp", "noise": 1, "shuffle": False}
    trained |= {"hyperparameters": {}}
    for key, value in changes.items():
        (look if key in look else trained)[key] = value
    tuned = {"lr": 0.1, "on_boundary": False, "matrix_side": 21, "train": trained}
    path = Path("metrics/studies/arms/a.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(tuned))
    words = " ".join(f"--{key} {value}" for key, value in look.items())
    assert refused(lambda: trajectory.main("a", *words.split())).startswith(message)
    assert not Path("metrics/studies/gradients").exists()


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("ranks", ["1", "1 2"])
def test_one_rank_may_be_looked_at(ranks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC writes a list of one as a single value."""

    class AskedError(Exception):
        pass

    def work(*_: object, **__: object) -> None:
        raise AskedError

    monkeypatch.setattr(trajectory, "Work", work)
    trained = {"optimizer": "adam", "model": "mlp", "noise": 1, "shuffle": False}
    tuned = {"lr": 0.1, "on_boundary": False, "matrix_side": 21}
    path = Path("metrics/studies/arms/a.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**tuned, "train": {**trained, "hyperparameters": {}}}))
    words = f"--ranks {ranks} --epochs 1 --replicates 2 --group 1 --batches 1 --fresh_samples 100"
    with pytest.raises(AskedError):
        trajectory.main("a", *words.split())
