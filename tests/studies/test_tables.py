"""The tables of the studies: who is compared with whom, over what, and in which Holm family."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from experiment.report.measures import MEASURES
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from studies.report import rank_sweep
from studies.report.tables import comparisons, of_measure
from studies.training.arms import STUDIES, read_arms

ROOT = Path(__file__).parents[2]
MARGIN = 0.03
IN_TUNING = [described.in_tuning for described in MEASURES.values()]
ARMS: dict[str, dict[str, Any]] = {
    "adam": {"study": "rank_sweep"},
    "rank_20": {"study": "rank_sweep", "against": ["adam"]},
    "one": {"study": "controls", "against": ["adam", "rank_20"]},
    "two": {"study": "controls", "against": ["rank_20"]},
    "three": {"study": "controls", "against": ["adam", "rank_20"]},
    "four": {"study": "controls", "against": ["adam"]},
}
SHIFTS = {"adam": 0.0, "rank_20": 0.05, "one": 0.02, "two": 0.08, "three": -0.04, "four": 0.0}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def describe(arms: dict[str, dict[str, Any]] = ARMS) -> None:
    """Write a params.yaml with the margin, and an arms.yaml with the arms."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["compare"]["margin"] = MARGIN
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    content = yaml.safe_load((ROOT / "stages/studies/arms.yaml").read_text())
    content["gradients"]["trajectories"] = {"adam": {}}
    content |= {study: {} for study in STUDIES}
    for name, arm in arms.items():
        described = {"label": name.upper(), "train": {"optimizer": "adam", "model": "mlp"}, **arm}
        content[described.pop("study")][name] = described
    path = Path("stages/studies/arms.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def compared(study: str, arms: dict[str, dict[str, Any]] = ARMS) -> pd.DataFrame:
    """The comparisons of a study among these arms."""
    describe(arms)
    return comparisons(read_params(), study, read_arms())


def drawn(arm: str, replicates: Iterable[int] = range(10)) -> pd.DataFrame:
    """Outcomes by replicate; what an arm shares with others in a replicate depends on both."""
    replicates = list(replicates)
    place = list(SHIFTS).index(arm)
    rows = [
        1.3
        + 0.1 * np.random.default_rng(replicate).standard_normal(len(MEASURES))
        + 0.04 * np.random.default_rng([replicate, place]).standard_normal(len(MEASURES))
        for replicate in replicates
    ]
    return pd.DataFrame(rows, columns=list(MEASURES), index=replicates) + SHIFTS[arm]


def write_tuning(arm: str, losses: dict[float, list[float]]) -> None:
    """A tuning whose every measure has these values for each learning rate, a replicate each."""
    rows = [
        {"lr": lr, "replicate": replicate} | dict.fromkeys(IN_TUNING, value)
        for lr, values in losses.items()
        for replicate, value in enumerate(values)
    ]
    path = Path(f"metrics/studies/arms/{arm}.json")
    files.write_json(path, json.loads(path.read_text()) | {"tuning": rows})


def write(arm: str, table: pd.DataFrame, lr: float = 0.01, on_boundary: bool = False) -> None:
    tuned = {"lr": lr, "on_boundary": on_boundary, "matrix_side": 119, "train": {}}
    replicates = files.rows(table.rename_axis("replicate").reset_index())
    path = Path(f"metrics/studies/arms/{arm}.json")
    files.write_json(path, tuned | {"replicates": replicates})
    write_tuning(arm, {lr: [1.0]})


def write_all() -> None:
    for arm in ARMS:
        write(arm, drawn(arm))


def exact(treatment: pd.Series, baseline: pd.Series) -> float:
    difference = (treatment - baseline).to_numpy()
    return stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue


def equivalence(treatment: pd.Series, baseline: pd.Series) -> float:
    margin = MARGIN * baseline.mean()
    return ttost_paired(treatment.to_numpy(), baseline.to_numpy(), -margin, margin)[0]


@pytest.mark.parametrize(
    ("against", "family"),
    [("adam", ["one", "three", "four"]), ("rank_20", ["one", "two", "three"])],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_family_is_the_arms_with_one_baseline_in_one_measure(
    measure: str, against: str, family: list[str]
) -> None:
    write_all()
    rows = of_measure(compared("controls"), measure, against)
    assert list(rows["arm"]) == family
    baseline = drawn(against)[measure]
    for column, test in (("p_value", exact), ("equivalence_p_value", equivalence)):
        single = [test(drawn(arm)[measure], baseline) for arm in family]
        np.testing.assert_allclose(rows[f"{column}_uncorrected"], single)
        np.testing.assert_allclose(rows[column], multipletests(single, method="holm")[1])


def test_a_study_compares_its_own_arms_and_no_others() -> None:
    write_all()
    table = compared("rank_sweep")
    assert set(zip(table["arm"], table["against"], strict=True)) == {("rank_20", "adam")}
    assert list(table["measure"]) == list(MEASURES)
    assert list(table["p_value"]) == list(table["p_value_uncorrected"])


def test_rows_describe_the_differences_from_the_baseline() -> None:
    write_all()
    table = compared("controls")
    assert len(table) == 6 * len(MEASURES)
    for row in table.itertuples():
        treatment, baseline = (drawn(arm)[row.measure] for arm in (row.arm, row.against))
        difference = treatment - baseline
        assert row.label == row.arm.upper()
        assert row.mean == pytest.approx(treatment.mean())
        assert row.mean_against == pytest.approx(baseline.mean())
        assert row.difference == pytest.approx(difference.mean())
        assert row.interval_low < row.difference < row.interval_high
        assert row.margin == pytest.approx(MARGIN * baseline.mean())
        assert row.probability_lower == (difference < 0).mean()
        assert row.correlation == pytest.approx(np.corrcoef(treatment, baseline)[0, 1])


@pytest.mark.parametrize(("shift", "lower"), [(-1.0, True), (1.0, False)])
def test_lower_is_better_for_losses_and_worse_for_accuracy(shift: float, lower: bool) -> None:
    write_all()
    write("rank_20", drawn("rank_20") + shift)
    verdicts = compared("rank_sweep").set_index("measure")["verdict"]
    for measure in MEASURES:
        expected = "worse" if lower == (measure == "test_accuracy_share") else "better"
        assert verdicts[measure] == expected


def test_only_replicates_that_both_arms_have_are_compared_each_with_its_pair() -> None:
    more = drawn("rank_20", range(3, 15))
    more.loc[10:] += 100
    write("adam", drawn("adam", range(10)))
    write("rank_20", more.sample(frac=1, random_state=0))
    row = of_measure(compared("rank_sweep"), "test_loss_nats").iloc[0]
    treatment, baseline = (
        drawn(arm, range(3, 10))["test_loss_nats"] for arm in ("rank_20", "adam")
    )
    assert row["replicates"] == 7
    assert row["mean"] == pytest.approx(treatment.mean())
    assert row["mean_against"] == pytest.approx(baseline.mean())
    assert row["difference"] == pytest.approx((treatment - baseline).mean())
    assert row["margin"] == pytest.approx(MARGIN * baseline.mean())
    assert row["p_value"] == pytest.approx(exact(treatment, baseline))


def test_every_arm_comes_with_its_own_learning_rate() -> None:
    rates = {name: 10.0**-place for place, name in enumerate(ARMS)}
    for name, lr in rates.items():
        write(name, drawn(name), lr=lr, on_boundary=name in ("three", "rank_20"))
    table = compared("controls")
    assert list(table["lr"]) == [rates[name] for name in table["arm"]]
    assert list(table["lr_against"]) == [rates[name] for name in table["against"]]
    assert list(table["lr_on_boundary"]) == [name == "three" for name in table["arm"]]
    at_the_end = [name == "rank_20" for name in table["against"]]
    assert list(table["lr_against_on_boundary"]) == at_the_end
    assert list(table.columns[-5:-3]) == ["lr_on_boundary", "lr_against_on_boundary"]


def test_at_equal_learning_rates_the_tuning_of_both_is_compared() -> None:
    write_all()
    write("one", drawn("one"), lr=0.02)
    write_tuning("one", {0.01: [9.0] * 4, 0.02: [1.0, 2.0, 4.0, 5.0]})
    write_tuning("adam", {0.02: [1.5, 1.0, 3.5], 0.01: [7.0] * 3})  # a seed less
    write_tuning("rank_20", {0.01: [7.0] * 3})  # not tuned over 0.02
    for measure in MEASURES:
        table = compared("controls").set_index("arm")
        row = of_measure(table, measure, "adam").loc["one"]
        interval = stats.ttest_1samp([-0.5, 1.0, 0.5], 0).confidence_interval()
        found = [row[f"difference_at_equal_lr{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([1 / 3, interval.low, interval.high])
        assert pd.isna(of_measure(table, measure, "rank_20").loc["one", "difference_at_equal_lr"])


@pytest.mark.parametrize("study", ["elsewhere", "noise_dial"])
def test_a_study_that_compares_nothing_is_refused(study: str) -> None:
    arms = ARMS | {"five": {"study": "noise_dial"}}
    with pytest.raises(UserError, match=f"no arm has study: {study} and an against; allowed: "):
        compared(study, arms)


@pytest.mark.parametrize(
    ("arm", "against", "hyperparameters", "message"),
    [
        ("rank_20", ["adam"], {}, "hyperparameters.rank = None; allowed: a whole number"),
        ("rank_20", ["adam"], {"rank": 0.5}, "hyperparameters.rank = 0.5; allowed: a whole number"),
        ("rank_20", ["adam"], {"rank": "x"}, "hyperparameters.rank = 'x'; allowed: a whole number"),
        ("rank_20", [], {"rank": 2}, "rank_20.against = []; allowed: adam among them"),
        ("rank_20", ["one"], {"rank": 2}, "rank_20.against = ['one']; allowed: adam among them"),
        ("adam", ["one"], {}, "adam.against = ['one']; allowed: []"),
    ],
)
def test_an_arm_of_the_sweep_has_a_rank_and_is_compared_with_adam(
    arm: str, against: list[str], hyperparameters: dict[str, Any], message: str
) -> None:
    write_all()
    train = {"optimizer": "lrg_adam", "model": "mlp", "hyperparameters": hyperparameters}
    describe(ARMS | {arm: {"study": "rank_sweep", "against": against, "train": train}})
    with pytest.raises(
        UserError, match=rf"^stages/studies/arms.yaml: rank_sweep\.{arm}\."
    ) as refused:
        rank_sweep.main()
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("rank", "lr", "changed", "refused"),
    [
        (118, 0.01, 3, False),
        (119, 0.01, 3, True),
        (120, 0.01, 3, True),
        (119, 0.02, 3, False),  # at another learning rate
        (119, 0.01, 12, False),  # in a replicate that Adam does not have
    ],
)
def test_a_rank_that_keeps_the_whole_gradient_has_to_be_adam(
    rank: int, lr: float, changed: int, refused: bool
) -> None:
    write("adam", drawn("adam"))
    table = drawn("adam", range(2, 15))
    write("rank_20", table)
    rank_sweep.check_full_rank({"rank_20": rank}, {"rank_20": 119})
    table.loc[changed, "train_loss_nats"] += 1e-9
    write("rank_20", table, lr=lr)
    if refused:
        with pytest.raises(RuntimeError, match="rank_20"):
            rank_sweep.check_full_rank({"rank_20": rank}, {"rank_20": 119})
    else:
        rank_sweep.check_full_rank({"rank_20": rank}, {"rank_20": 119})
