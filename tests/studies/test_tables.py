"""The tables of the studies: who is compared with whom, over what, and in which Holm family."""

from __future__ import annotations

import json
import re
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
from studies.report import compare, contrasts, export
from studies.report.tables import comparisons
from studies.training.arms import read_arms

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
    train = {"optimizer": "adam", "model": "mlp"}
    content["trajectories"] = ["adam"]
    content["arms"] = {
        name: {"label": name.upper(), "train": train, **arm} for name, arm in arms.items()
    }
    path = Path("stages/studies/arms.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def of_measure(table: pd.DataFrame, measure: str, against: str | None = None) -> pd.DataFrame:
    rows = table[table["measure"] == measure]
    return rows if against is None else rows[rows["against"] == against]


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
    curves = {
        str(number): [2.3, 2.0, 1.9, 1.8, 1.5, loss] for number, loss in table.iloc[:, 2].items()
    }
    files.write_json(path, tuned | {"replicates": replicates, "validation_losses_nats": curves})
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


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ([0.007, 0.01, 0.014], [0.0075, 0.01, 0.0135], False),
        ([0.001, 0.01, 0.1], [0.007, 0.01, 0.014], True),
        ([0.007, 0.01, 0.014], [0.001, 0.01, 0.1], True),
        ([0.001, 0.007, 0.01, 0.014, 0.1], [0.007, 0.01, 0.014], False),  # far from the best
        ([0.01, 0.014], [0.007, 0.01], False),  # the best is at an end
        ([0.01], [0.007, 0.01, 0.014], True),
    ],
)
def test_grids_differ_by_how_far_the_neighbours_of_the_best_rate_are(
    one: list[float], other: list[float], differ: bool
) -> None:
    write_all()
    for arm, rates in (("rank_20", one), ("adam", other)):
        write_tuning(arm, {lr: [1.0] for lr in rates})
    assert (compared("rank_sweep")["grids_differ"] == differ).all()


@pytest.mark.parametrize("study", ["elsewhere", "noise_dial"])
def test_a_study_that_compares_nothing_is_refused(study: str) -> None:
    arms = ARMS | {"five": {"study": "noise_dial"}}
    with pytest.raises(UserError, match=f"no arm has study: {study} and an against; allowed: "):
        compared(study, arms)


# Figures and other forms


def test_a_figure_has_the_verdict_beside_each_point_in_per_cent_of_the_baseline() -> None:
    write_all()
    write("one", drawn("one"), on_boundary=True)
    table = compared("controls")
    figure = compare.draw(read_arms(), table, MARGIN)
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        rows = of_measure(table, measure)
        assert sorted(text.get_text() for text in axes.texts) == sorted(rows["verdict"])
        points = [x for line in axes.lines for x in line.get_xdata() if line.get_marker() in "os"]
        percent = 100 * rows["difference"] / rows["mean_against"]
        np.testing.assert_allclose(sorted(points), sorted(percent))
        better = "right" if measure == "test_accuracy_share" else "left"
        assert f"better to the {better}" in axes.get_xlabel()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "ONE\nlearning rate 0.01, the edge of its grid"


def test_arms_on_other_data_than_their_baseline_have_axes_of_their_own() -> None:
    write_all()
    on_other_data = {"train": {"optimizer": "adam", "data": "flipped_20"}}
    table = compared("controls", ARMS | {"four": ARMS["four"] | on_other_data})
    figure = compare.draw(read_arms(), table, MARGIN)
    rows = [
        [label.get_text().split()[0] for label in axes.get_yticklabels()]
        for axes in figure.axes[:: len(MEASURES)]
    ]
    assert rows == [["THREE", "TWO", "ONE"], ["FOUR"]]


def test_curves_are_those_of_the_arms_and_of_what_they_are_compared_with() -> None:
    write_all()
    describe()
    first, second = compare.draw_curves(read_arms(), "controls").axes
    names = [[line.get_label() for line in axes.lines] for axes in (first, second)]
    assert names == [["ADAM", "RANK_20", "ONE", "THREE", "FOUR"], ["RANK_20", "TWO"]]
    losses = drawn("three")["best_validation_loss_nats"]
    assert first.lines[3].get_ydata()[-1] == pytest.approx(losses.mean())


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [(-0.012, 0.014, 3), (1, 4, 1), (-0.00011, 0.0002, 5), (10, 90, 0), (0, 0, 4)],
)
def test_digits_follow_the_width_of_the_interval(low: float, high: float, places: int) -> None:
    assert export.decimals(low, high) == places


def test_a_table_to_take_away_has_every_row_in_both_forms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_all()
    table = compared("controls").assign(label="50 % | a_b & c")
    files.write_csv(Path("metrics/studies/controls.csv"), table)
    export.main("controls")
    markdown, latex = capsys.readouterr().out.strip().split("\n\n")
    rows = [line for line in markdown.splitlines() if "50 %" in line]
    assert [line.split()[-2] for line in rows] == list(table["verdict"])
    first = r"| 50 % \| a_b & c, at 0.01 | adam | test loss, last epoch (nats) |"
    assert " ".join(rows[0].split()).startswith(first)
    lines = [line for line in latex.splitlines() if "50" in line]
    assert len(lines) == len(table)
    assert lines[0].startswith(r"50 \% | a\_b \& c, at 0.01 & adam &")
    with pytest.raises(UserError, match="study = 'nothing'; allowed: one that has a table"):
        export.main("nothing")


def test_a_study_of_ones_own_writes_and_prints_its_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_all()
    describe({name: ARMS[name] for name in ("adam", "rank_20")})
    train = {"optimizer": "adam", "model": "mlp"}
    one = {"study": "mine", "label": "my arm", "against": ["adam", "rank_20"], "train": train}
    own = {"own_studies": ["mine"], "own": {"one": one}}
    Path("stages/studies/own.yaml").write_text(yaml.safe_dump(own))

    compare.main("mine")

    table = of_measure(pd.read_csv("metrics/own/mine.csv"), "test_loss_nats")
    assert files.read_json(Path("metrics/own/mine.json")) == {
        f"one against {row.against}": {
            "difference": row.difference,
            "interval_95": [row.interval_low, row.interval_high],
            "verdict": row.verdict,
        }
        for row in table.itertuples()
    }
    printed = capsys.readouterr().out
    for row in table.itertuples():
        assert re.search(rf"my arm, .* {row.against} .* {row.verdict} ", printed)
    assert {path.name for path in Path("plots/own").iterdir()} == {"mine.png", "mine_curves.png"}


def test_a_contrast_is_the_paired_difference_of_two_effects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over the replicates that all four arms have; the family is Holm-corrected."""
    write_all()
    write("four", drawn("four", range(2, 12)))
    pairs = {
        "first": (("one", "two"), ("three", "four")),
        "second": (("one", "adam"), ("rank_20", "adam")),
    }
    monkeypatch.setattr(contrasts, "CONTRASTS", pairs)
    describe()
    table = contrasts.contrasts(read_params()).set_index("contrast")
    arms = {name: drawn(name)["test_loss_nats"] for name in SHIFTS}
    arms["four"] = drawn("four", range(2, 12))["test_loss_nats"]
    first = ((arms["one"] - arms["two"]) - (arms["three"] - arms["four"])).dropna()
    second = arms["one"] - arms["rank_20"]
    for name, difference in (("first", first), ("second", second)):
        row = table.loc[name]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["interval_low"] < row["difference"] < row["interval_high"]
        assert row["replicates"] == len(difference)
    single = [exact(one, one * 0) for one in (first, second)]
    np.testing.assert_allclose(table["p_value"], multipletests(single, method="holm")[1])
