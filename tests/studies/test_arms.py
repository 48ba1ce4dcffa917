"""arms.yaml and own.yaml: a mistake is found before anything trains, and told in one line."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.parsing.interpolate import to_str
from project import SMALL, set_params

from experiment.datasets import mnist1d
from experiment.stage import files
from experiment.stage.data import Dataset, Split, load
from experiment.stage.errors import UserError
from experiment.stage.params import Data, read_params
from studies.gradients import trajectory
from studies.gradients.analysis import Samples
from studies.training import arm, check_arms, shared
from studies.training.arms import (
    BASELINE,
    NOISY_BASELINE,
    OWN,
    PUBLISHED,
    STUDIES,
    ArmTraining,
    data_of,
    read_arms,
    read_own,
    result_file,
    trajectories,
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
    assert len(read_arms()) == 51
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
        (train("rank_1", shuffle=True), "unknown key shuffle = True; allowed in its place: "),
        *(
            (train("rank_1", data=given), f"data = {given!r}; allowed: keys under data in params.")
            for given in ("digits", ["digits"], {"flipped": None}, {"rows": {"high": 1}})
        ),
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
    ("given", "message"),
    [
        *(
            ({"flipped": share}, f"data.flipped = {share!r}; allowed: a number of at least 0 and ")
            for share in (1, 1.5, -0.1, True, "many", [0.1, 0.2])
        ),
        ({"name": "Digits"}, "data.name = 'Digits'; allowed: the name of a module"),
        ({"train": 0}, "data.train = 0; allowed: a whole number from 1 to 10000000"),
        ({"name": "digits", "shuffle": 2}, "data.shuffle = 2; allowed: true or false"),
    ],
)
@pytest.mark.parametrize("name", ["rank_1", "sign"])
def test_bad_values_of_an_arm_s_data_are_told_before_any_arm_trains(
    name: str, given: dict[str, Any], message: str
) -> None:
    arms, own = copy(SMALL_STUDIES), copy(OWN_STUDY)
    one = own["own"][name] if name == "sign" else arms["rank_sweep"][name]
    one["train"]["data"] = given
    write(arms, own)
    assert refused(check_arms.main).startswith(f"arm {name}: {message}")
    assert not shared.SHARED_FILE.exists()


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


# Other data than those of the main pipeline


@pytest.fixture
def small_data() -> Dataset:
    """A params.yaml with a small network, and data in the place of MNIST-1D's."""
    set_params(Path("params.yaml"), SMALL)
    shared.write()
    split = Split(*mnist1d.fresh(100, 0))
    dataset = Dataset(split, split, split)
    dataset.write("mnist1d", "MNIST-1D")
    return dataset


def same(one: Dataset, other: Dataset) -> bool:
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def data_of_arm(**changes: object) -> Dataset:
    """The data that an arm with these changes trains on."""
    return arm.read_data(shared.read(), changes, "arm a")


def test_an_arm_that_changes_nothing_reads_the_file(small_data: Dataset) -> None:
    assert same(data_of_arm(), small_data)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    "given",
    [{"name": "digits"}, {"flipped": 0}, {"flipped": 0.25}, {"shuffle": True}, {"train": 90}],
)
def test_an_arm_on_other_data_has_those_that_the_main_pipeline_would_make(
    given: dict[str, Any],
) -> None:
    set_params(Path("params.yaml"), {f"data.{key}": value for key, value in given.items()})
    params = read_params()
    expected, _ = load(params.data, params.seed)
    assert same(data_of_arm(**given), expected)


def test_another_data_set_does_not_get_the_options_of_the_users_own() -> None:
    own = Data(name="mine", train=9, validation=9, shuffle=False, flipped=0, path="mine.csv")
    assert data_of(own, {"flipped": 0.1}, "arm a").options["path"] == "mine.csv"
    assert "path" not in data_of(own, {"name": "digits"}, "arm a").options


@pytest.mark.usefixtures("small_data")
def test_shuffled_data_are_shuffled_once() -> None:
    shuffled = data_of_arm(shuffle=True)
    set_params(Path("params.yaml"), {"data.shuffle": True})
    shared.write()
    assert same(data_of_arm(shuffle=True), shuffled)


WORDS = "--lrs 0.1 --tuning_replicates 1 --replicates 2 --group 1 --optimizer adam"


class AskedError(Exception):
    """Work was begun."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """The data that work was begun with; none is done."""
    seen: list[Dataset] = []

    def work(_: str, data: Dataset, **__: object) -> None:
        seen.append(data)
        raise AskedError

    for module in (arm, trajectory):
        monkeypatch.setattr(module, "Work", work)
    return seen


@pytest.mark.usefixtures("small_data")
def test_an_arm_on_digits_trains_on_digits(asked: list[Dataset]) -> None:
    words = [*WORDS.split(), "--model", "image_cnn", "--data.name", "digits"]
    with pytest.raises(AskedError):
        arm.main("metrics/studies/arms/a.json", *words)
    assert [part.x.shape for part in asked[0]] == [(1077, 64), (360, 64), (360, 64)]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "--data.name nothing",
            "arm a: data.name = 'nothing'; allowed: a module in stages/experiment/datasets: ",
        ),
        ("--data.flippd 0.2", "unknown key arm a: data.flippd; allowed: flipped, name, shuffle, "),
        ("--data.train 4000", "arm a: data: mnist1d refuses: data.train = 4000 and data.valid"),
        ("--data.flipped 1", "arm a: data.flipped = 1; allowed: a number of at least 0 and below"),
    ],
)
def test_data_that_an_arm_cannot_have_are_told_before_it_trains(
    given: str, message: str, asked: list[Dataset]
) -> None:
    words = [*WORDS.split(), *given.split()]
    assert refused(lambda: arm.main("metrics/studies/arms/a.json", *words)).startswith(message)
    assert asked == []
    assert not Path("metrics").exists()


# An optimizer that does not take what it is given


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


# A look at gradients


def train_along(**changes: object) -> None:
    """Write the result of an arm, as far as a look reads it."""
    trained = {"optimizer": "adam", "model": "mlp", "noise": 1, "data": {}, "hyperparameters": {}}
    tuned = {"lr": 0.1, "on_boundary": False, "matrix_side": 21, "train": trained | changes}
    files.write_json(Path("metrics/studies/arms/a.json"), tuned)


LOOK = {"ranks": "1 2", "epochs": "1 2", "replicates": "2", "group": "1", "batches": "1"}
LOOK |= {"fresh_samples": "100"}


def look(**changes: str) -> None:
    """Look at gradients along the trajectory of that arm."""
    words = " ".join(f"--{key} {value}" for key, value in (LOOK | changes).items())
    trajectory.main("a", *words.split())


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": 0.5}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam that train"),
        ({"model": "logistic"}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam"),
        ({"optimizer": "controls"}, "gradients.trajectories: a; allowed: arms of adam or lrg_adam"),
        ({"optimizer": "torch.optim.Adam"}, "gradients.trajectories: a; allowed: arms of adam or"),
        ({"data": {"name": "digits"}}, "data.name = 'digits'; the look at gradients generates "),
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
    changes: dict[str, Any], message: str, asked: list[Samples]
) -> None:
    how = {key: value for key, value in changes.items() if key in LOOK}
    train_along(**{key: value for key, value in changes.items() if key not in how})
    assert refused(lambda: look(**how)).startswith(message)
    assert asked == []
    assert not Path("metrics/studies/gradients").exists()


@pytest.mark.usefixtures("small_data")
def test_a_look_is_on_the_data_of_its_arm(asked: list[Samples]) -> None:
    changes: list[dict[str, Any]] = [{}, {"flipped": 0.25}, {"shuffle": True}]
    for given in changes:
        train_along(data=given)
        with pytest.raises(AskedError):
            look()
    for samples, given in zip(asked, changes, strict=True):
        for one, other in zip(samples.train, data_of_arm(**given).train, strict=True):
            assert np.array_equal(one, other)
    plain, flipped, shuffled = (samples.fresh for samples in asked)
    assert np.array_equal(flipped.y, plain.y)  # wrong labels are of the training samples alone
    assert np.array_equal(shuffled.x, mnist1d.shuffled(plain).x)


@pytest.mark.usefixtures("small_data", "asked")
@pytest.mark.parametrize("ranks", ["1", "1 2"])
def test_one_rank_may_be_looked_at(ranks: str) -> None:
    """DVC writes a list of one as a single value."""
    train_along()
    with pytest.raises(AskedError):
        look(ranks=ranks)


def test_a_look_belongs_to_the_argument_on_its_data() -> None:
    shutil.copy2(ROOT / PUBLISHED, PUBLISHED)
    arms = read_arms()
    assert trajectories(arms, BASELINE) == ["adam", "rank_20"]
    assert trajectories(arms, NOISY_BASELINE) == ["flipped_adam", "flipped_rank_20"]
