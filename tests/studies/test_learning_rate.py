"""The study of the learning rate: widths of optima, and arms against Adam at equal train loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.stage import files
from studies.report import learning_rate
from studies.report.learning_rate import at_equal_train_loss, best_range, good_range

Curves = dict[str, np.ndarray]

# Learning rates of the arms, and of curves that go on beyond them, by their logarithms.
LOGS = np.linspace(-4, -2, 21)
BEYOND = np.linspace(-6, 0, 61)
FINE = (LOGS[-1] - LOGS[0]) / 2000


def vee(best: float, left: float, right: float) -> np.ndarray:
    distance = LOGS - best
    return 1 + np.where(distance < 0, -left, right) * distance


def width(lr: np.ndarray, loss: np.ndarray) -> float:
    low, high = good_range(lr, loss)
    return np.log10(high / low)


def assert_width(loss: np.ndarray, expected: float, logs: np.ndarray = LOGS) -> None:
    """The ends are points of a fine grid, so each may fall short by one step but not go beyond."""
    step = (logs[-1] - logs[0]) / 2000
    assert -1e-9 < expected - width(10**logs, loss) < 2 * step + 1e-9


@given(st.integers(0, 20), st.floats(0.01, 5), st.floats(0.01, 5))
@settings(deadline=None)
def test_width_of_two_lines_is_that_of_their_slopes_up_to_the_ends_of_the_grid(
    place: int, left: float, right: float
) -> None:
    best = LOGS[place]
    expected = min(0.05 / left, best - LOGS[0]) + min(0.05 / right, LOGS[-1] - best)
    assert_width(vee(best, left, right), expected)


def test_only_the_basin_of_the_optimum_counts() -> None:
    loss = np.minimum(vee(-3.5, 1, 1), 0.01 + vee(-2.5, 1, 1))
    assert_width(loss, 0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("lost", [slice(11, None), slice(11, 12), slice(0, 10), slice(9, 10)])
def test_width_ends_where_training_diverges(bad: float, lost: slice) -> None:
    loss = vee(-3, 0.1, 0.1)
    loss[lost] = bad
    assert_width(loss, 0.5)


def test_the_best_learning_rate_is_as_uncertain_as_the_seeds_make_it() -> None:
    """Two learning rates, of which one is the lower in all seeds or in a share of them."""
    lr, rng = np.array([1e-3, 1e-2]), np.random.default_rng(0)
    sure = np.array([[0.0, 0.1]] * 6)
    assert best_range(lr, sure, rng) == (1e-3, 1e-3)
    unsure = np.array([[0.0, 0.1]] * 5 + [[0.4, 0.0]])
    # The other one is the best where the sixth seed is drawn twice or more, as 26 % of times.
    assert best_range(lr, unsure, rng) == (1e-3, 1e-2)
    rare = np.array([[0.0, 0.1]] * 5 + [[0.08, 0.0]])
    # Four times or more: 0.9 %.
    assert best_range(lr, rare, rng) == (1e-3, 1e-3)


def test_a_learning_rate_that_diverged_is_never_the_best() -> None:
    loss = np.array([[1.0, np.nan, 2.0], [1.0, 0.5, 2.0]])
    assert best_range(np.array([1.0, 2.0, 3.0]), loss[:1], np.random.default_rng(0)) == (1, 1)


def curves(shift: float = 0.0, offset: float = 0.0, replicates: int = 3) -> Curves:
    """Losses at LOGS that another curve of each replicate has at LOGS + shift."""
    rng = np.random.default_rng(0)
    train, validation = rng.uniform(0.05, 0.5, size=(2, replicates, len(BEYOND)))
    train = train[:, ::-1].cumsum(axis=1)[:, ::-1]
    validation += (BEYOND + 2.6) ** 2
    found = {
        name: np.stack([np.interp(LOGS + shift, BEYOND, losses) for losses in table])
        for name, table in (("train_loss_nats", train), ("validation_loss_nats", validation))
    }
    found["validation_loss_nats"] += offset
    return {"lr": 10**LOGS, **found}


@given(st.floats(-1.5, 1.5), st.floats(-1, 1))
@settings(deadline=None)
def test_adam_with_a_scaled_learning_rate_is_found_with_its_factor_and_its_offset(
    shift: float, offset: float
) -> None:
    logs, gains = at_equal_train_loss(curves(shift, offset), curves())
    np.testing.assert_allclose(logs, [shift] * 3, rtol=0, atol=1e-9)
    np.testing.assert_allclose(gains, [offset] * 3, rtol=0, atol=1e-9)


@pytest.mark.parametrize("of", ["arm", "adam", "both"])
@pytest.mark.parametrize("rise", ["more", "equal", "nan"])
def test_learning_rates_beyond_the_lowest_train_loss_do_not_count(of: str, rise: str) -> None:
    arm, adam = curves(offset=0.2), curves()
    for name, found in (("arm", arm), ("adam", adam)):
        if of in (name, "both"):
            train = found["train_loss_nats"]
            train[:, 15:] = {
                "more": train[:, 13:14] + 0.01,
                "equal": train[:, 14:15],
                "nan": np.nan,
            }[rise]
            found["validation_loss_nats"][:, 15:] = 100
    logs, gains = at_equal_train_loss(arm, adam)
    np.testing.assert_allclose(logs, [0] * 3, atol=1e-9)
    np.testing.assert_allclose(gains, [0.2] * 3)


@pytest.mark.parametrize("way", ["higher", "lower", "nan"])
def test_a_replicate_that_adam_cannot_match_has_no_numbers(way: str) -> None:
    arm = curves(0.3)
    arm["validation_loss_nats"] += np.array([[1.0], [2.0], [3.0]])
    arm["train_loss_nats"][1] += {"higher": 99, "lower": -99, "nan": np.nan}[way]
    logs, gains = at_equal_train_loss(arm, curves())
    np.testing.assert_allclose(logs, [0.3, np.nan, 0.3])
    np.testing.assert_allclose(gains, [1.0, np.nan, 3.0])


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(arm: str, found: Curves) -> None:
    """The tuning of an arm as its stage writes it, but for the order of the rows."""
    replicates = len(found["train_loss_nats"])
    table = pd.DataFrame(
        {
            "lr": np.tile(found["lr"], replicates),
            "replicate": np.repeat(np.arange(replicates), len(found["lr"])),
        }
        | {loss: found[loss].ravel() for loss in learning_rate.LOSSES}
    )
    rows = files.rows(table.sample(frac=1, random_state=0))
    files.write_json(Path(f"metrics/studies/arms/{arm}.json"), {"tuning": rows})


@pytest.mark.usefixtures("empty_folder")
def test_summary_of_adam_with_a_scaled_learning_rate_and_an_offset() -> None:
    shift, offset = 0.3, 0.07
    arm, adam = curves(shift, offset), curves()
    write("adam", adam)
    write("arm", arm)

    row = learning_rate.summary(0, "arm", "an arm")

    mean = arm["validation_loss_nats"].mean(0)
    assert (row["arm"], row["label"]) == ("arm", "an arm")
    assert row["best_lr"] == arm["lr"][mean.argmin()]
    assert row["validation_loss_nats"] == pytest.approx(mean.min())
    assert row["best_lr_low"] <= row["best_lr"] <= row["best_lr_high"]
    assert row["width_decades"] == pytest.approx(width(10**LOGS, mean))
    for prefix in ("", "tuned_"):
        for end in ("", "_low", "_high"):
            ratio = row[f"{prefix}adams_lr_ratio_for_equal_train_loss{end}"]
            gain = row[f"{prefix}validation_loss_nats_minus_adam_at_equal_train_loss{end}"]
            assert (ratio, gain) == (pytest.approx(10**shift), pytest.approx(offset))


@pytest.mark.usefixtures("empty_folder")
def test_summary_compares_at_the_learning_rates_and_replicates_that_both_have() -> None:
    adam = curves()
    part = {name: values[..., 3:18] for name, values in adam.items()}
    write("adam", adam)
    write("arm", part | {name: part[name][:2] for name in part if name != "lr"})
    row = learning_rate.summary(0, "arm", "Adam on a part of the grid, fewer times")
    assert row["adams_lr_ratio_for_equal_train_loss"] == pytest.approx(1)
