import dataclasses
import math
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from compare import epochs_to_targets
from experiment.report import statistics
from experiment.report.measures import CURVE
from experiment.report.statistics import (
    Comparison,
    Floats,
    compare_paired,
    correct_family,
    holm,
    mean_interval,
)
from experiment.stage.params import read_params

OPPOSITE = {
    "better": "worse",
    "worse": "better",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
}


def arms(replicates: int, shift: float = 0.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Skewed, correlated losses of both arms; the treatment's are higher by about ``shift``."""
    rng = np.random.default_rng(seed)
    shared = rng.gamma(2.0, size=replicates)
    treatment, baseline = shared + rng.exponential(0.5, size=(2, replicates))
    return treatment + shift, baseline


def compare(
    treatment: ArrayLike,
    baseline: ArrayLike,
    margin: float = 0.05,
    seed: int = 0,
    resamples: int = 999,
    lower_is_better: bool = True,
) -> Comparison:
    with mock.patch.object(statistics, "RESAMPLES", resamples):
        return compare_paired(
            treatment,
            baseline,
            margin=margin,
            rng=np.random.default_rng(seed),
            lower_is_better=lower_is_better,
        )


def comparison(
    mean: float = 1.0,
    low: float = 0.5,
    high: float = 1.5,
    p: float = 0.01,
    q: float = 0.5,
    lower_is_better: bool = True,
) -> Comparison:
    return Comparison(mean, low, high, p, q, 0.1, 30, 0.1, lower_is_better)


# Means and intervals


def test_mean_interval_is_that_of_scipys_t_test_at_every_epoch() -> None:
    curves = np.random.default_rng(0).normal(size=(12, 5))
    interval = mean_interval(curves)
    reference = stats.ttest_1samp(curves, 0.0).confidence_interval()
    np.testing.assert_allclose(interval.mean, curves.mean(0))
    np.testing.assert_allclose(interval.low, reference.low)
    np.testing.assert_allclose(interval.high, reference.high)


def test_one_replicate_has_a_mean_but_no_interval() -> None:
    interval = mean_interval([[1.0, 2.0]])
    np.testing.assert_array_equal(interval.mean, [1.0, 2.0])
    assert np.isnan([interval.low, interval.high]).all()


# The parts of a comparison against independent references


@pytest.mark.parametrize("replicates", [5, 12, 40])
@pytest.mark.parametrize("shift", [0.0, 0.2, -0.3])
def test_equivalence_p_value_is_that_of_statsmodels(replicates: int, shift: float) -> None:
    treatment, baseline = arms(replicates, shift)
    expected, *_ = ttost_paired(treatment, baseline, -0.25, 0.25)
    result = compare(treatment, baseline, margin=0.25)
    assert result.equivalence_p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("replicates", [2, 5, 9])
def test_sign_flip_p_value_is_that_of_scipy_when_exact(replicates: int) -> None:
    treatment, baseline = arms(replicates, shift=0.3, seed=replicates)
    expected = stats.permutation_test(
        (treatment - baseline,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert compare(treatment, baseline).p_value == pytest.approx(expected.pvalue)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=20))
@settings(deadline=None)
def test_sign_flip_p_value_counts_ties_in_spite_of_rounding(steps: list[int]) -> None:
    zeros, whole = np.zeros(len(steps)), np.array(steps)
    assert compare(whole * 0.1, zeros).p_value == compare(whole, zeros).p_value


def test_drawn_sign_flips_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    treatment, baseline = arms(14, shift=0.4, seed=3)
    exact = compare(treatment, baseline).p_value
    monkeypatch.setattr(statistics, "EXACT_REPLICATES", 0)
    drawn = compare(treatment, baseline, resamples=50_000).p_value
    assert 0.01 < exact < 0.5
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 50_000))


def test_interval_is_efrons_bca_at_hesterbergs_level() -> None:
    difference = np.random.default_rng(0).exponential(size=8) - 0.5
    result = compare(difference, np.zeros(8), resamples=100_000)

    n, normal = difference.size, stats.norm
    deviation = difference - difference.mean()
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    draws = np.random.default_rng(99).choice(difference, size=(100_000, n)).mean(axis=1)
    bias = normal.ppf((draws < difference.mean()).mean())
    z = bias + math.sqrt(n / (n - 1)) * stats.t.ppf([0.025, 0.975], n - 1)
    low, high = np.quantile(draws, normal.cdf(bias + z / (1 - acceleration * z)))
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.01 * (high - low))


def test_pairing_finds_what_unpaired_noise_would_hide() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=30)
    treatment = shared - 0.05 + rng.normal(scale=0.02, size=30)
    result = compare(treatment, shared, margin=0.01)
    assert result.verdict == "better"
    assert compare(rng.permutation(treatment), shared, margin=0.01).verdict == "inconclusive"


# Verdicts


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, "worse"),
        ({"lower_is_better": False}, "better"),
        ({"mean": -1.0, "low": -1.5, "high": -0.5}, "better"),
        ({"mean": -1.0, "low": -1.5, "high": -0.5, "lower_is_better": False}, "worse"),
        ({"p": 0.05}, "worse"),
        ({"p": 0.051}, "inconclusive"),
        ({"low": 0.0}, "inconclusive"),
        ({"low": -0.1}, "inconclusive"),
        ({"q": 0.05}, "equivalent"),
        ({"low": -0.1, "p": 0.9, "q": 0.01}, "equivalent"),
        ({"low": -0.1, "p": 0.9, "q": 0.051}, "inconclusive"),
    ],
)
def test_verdict(facts: dict[str, Any], verdict: str) -> None:
    assert comparison(**facts).verdict == verdict


def test_a_real_but_negligible_difference_is_equivalent() -> None:
    treatment, baseline = np.linspace(1, 2, 30) + 0.001, np.linspace(1, 2, 30)
    treatment[::2] += 0.0001
    result = compare(treatment, baseline, margin=0.02)
    assert result.low > 0
    assert result.p_value < 0.01
    assert result.verdict == "equivalent"


def test_five_replicates_cannot_be_better_or_worse_but_six_can() -> None:
    assert compare(np.arange(5) - 100.0, np.zeros(5)).verdict == "inconclusive"
    assert compare(np.arange(6) - 100.0, np.zeros(6)).verdict == "better"


# Degenerate data


@pytest.mark.parametrize("replicates", [2, 10, 40])
def test_equal_arms_are_equivalent(replicates: int) -> None:
    _, baseline = arms(replicates)
    result = compare(baseline.copy(), baseline, margin=1e-12)
    assert dataclasses.astuple(result)[:6] == (0.0, 0.0, 0.0, 1.0, 0.0, 0.5)
    assert result.verdict == "equivalent"


@pytest.mark.parametrize(("margin", "verdict"), [(0.5, "equivalent"), (0.25, "worse")])
def test_equal_differences_are_judged_by_their_size(margin: float, verdict: str) -> None:
    baseline = np.arange(30.0)
    result = compare(baseline + 0.25, baseline, margin=margin)
    assert (result.mean_difference, result.low, result.high) == (0.25, 0.25, 0.25)
    assert result.p_value == 1 / 1000
    assert result.verdict == verdict


def test_differences_that_are_equal_but_for_rounding_have_an_interval_of_no_width() -> None:
    result = compare([0.3, 0.4, 0.8], [0.2, 0.3, 0.7], margin=0.2)
    assert result.low == result.high == result.mean_difference == pytest.approx(0.1)
    assert result.verdict == "equivalent"


@pytest.mark.parametrize(
    ("treatment", "baseline"),
    [
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, -math.inf]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
        ([1.0], [1.0]),
        ([], []),
        ([[1.0, 2.0]], [[1.0, 2.0]]),
    ],
)
def test_unfit_arms_are_rejected(treatment: ArrayLike, baseline: ArrayLike) -> None:
    with pytest.raises(ValueError, match=r"two finite replicates|same shape"):
        compare(treatment, baseline)


values = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(values, values), min_size=2, max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_finite_single_precision_arms_give_a_complete_answer(
    pairs: list[tuple[float, float]],
) -> None:
    result = compare(*np.transpose(pairs), resamples=99)
    numbers = [result.mean_difference, result.low, result.high]
    probabilities = [result.p_value, result.equivalence_p_value, result.probability_lower]
    assert np.isfinite(numbers).all()
    assert result.low <= result.high
    assert all(0 <= p <= 1 for p in probabilities)
    assert result.p_value > 0
    assert result.verdict in OPPOSITE


# Symmetries


@given(st.integers(2, 40), st.floats(-1, 1), st.integers(0, 10**6), st.booleans())
@settings(deadline=None)
def test_swapping_the_arms_mirrors_the_comparison(
    replicates: int, shift: float, seed: int, lower_is_better: bool
) -> None:
    treatment, baseline = arms(replicates, shift, seed)
    there = compare(treatment, baseline, lower_is_better=lower_is_better)
    back = compare(baseline, treatment, lower_is_better=lower_is_better)
    assert back.mean_difference == -there.mean_difference
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), rel=1e-9, abs=1e-12)
    assert back.p_value == there.p_value
    assert back.equivalence_p_value == there.equivalence_p_value
    assert back.probability_lower == pytest.approx(1 - there.probability_lower)
    assume(min(abs(there.low), abs(there.high)) > 1e-9)
    assert back.verdict == OPPOSITE[there.verdict]


@given(st.integers(2, 16), st.integers(0, 10**6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_replicates_does_not_matter(
    replicates: int, seed: int, random: Random
) -> None:
    treatment, baseline = arms(replicates, 0.2, seed)
    order = random.sample(range(replicates), replicates)
    before = compare(treatment, baseline, resamples=99)
    after = compare(treatment[order], baseline[order], resamples=99)
    for field in dataclasses.fields(Comparison):
        if field.name not in ("low", "high"):
            expected = getattr(before, field.name)
            assert getattr(after, field.name) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("replicates", [10, 30])
def test_the_seed_decides_every_bit(replicates: int) -> None:
    treatment, baseline = arms(replicates)
    result = compare(treatment, baseline, seed=7)
    assert compare(treatment, baseline, seed=7) == result
    assert compare(treatment, baseline, seed=8) != result


# Families


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, rtol=1e-12)


def test_correction_takes_back_what_the_family_does_not_support() -> None:
    clear, faint, same = comparison(p=0.001), comparison(p=0.03), comparison(low=-1, p=0.5, q=0.001)
    corrected = correct_family([faint, clear, same])
    assert [c.verdict for c in (faint, clear, same)] == ["worse", "worse", "equivalent"]
    assert [c.verdict for c in corrected] == ["inconclusive", "worse", "equivalent"]
    assert [c.p_value for c in corrected] == pytest.approx([0.06, 0.003, 0.5])
    assert [c.equivalence_p_value for c in corrected] == pytest.approx([1.0, 1.0, 0.003])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8))
@settings(deadline=None)
def test_correction_never_makes_a_claim(p_values: list[tuple[float, float]]) -> None:
    family = [comparison(p=p, q=q) for p, q in p_values]
    for before, after in zip(family, correct_family(family), strict=True):
        assert after.p_value >= before.p_value
        assert after.equivalence_p_value >= before.equivalence_p_value
        if before.verdict == "inconclusive":
            assert after.verdict == "inconclusive"
        if after.verdict == "equivalent":
            assert before.verdict == "equivalent"


# Epochs to a target loss


CURVES = np.array(
    [
        [2.0, 1.0, 0.5, 0.4],  # reaches 0.5 at epoch 2
        [2.0, 0.5, 0.9, 0.3],  # at epoch 1, though it rises again
        [2.0, 1.9, 1.8, 0.5],  # at the last epoch
        [2.0, 1.0, 0.7, 0.6],  # never
        [2.0, math.nan, math.nan, math.nan],  # diverges
    ]
)


def targets(treatment: Floats, baseline: Floats, *levels: float) -> list[dict[str, Any]]:
    """The comparison of the main pipeline, with a margin of a tenth of all epochs."""
    params = read_params()
    given = params.compare.model_copy(update={"targets": levels, "margin": 0.1})
    adam, lrg_adam = (pd.DataFrame({CURVE: arm.tolist()}) for arm in (baseline, treatment))
    return epochs_to_targets(params.model_copy(update={"compare": given}), adam, lrg_adam)


def test_replicates_that_never_reach_a_target_count_as_the_last_epoch() -> None:
    (found,) = targets(np.maximum(CURVES - 0.5, 0.0), CURVES, 0.5)
    assert (found["lrg_adam_share_reaching"], found["adam_share_reaching"]) == (0.8, 0.6)
    assert found["lrg_adam_mean_epochs"] == pytest.approx(np.mean([1, 1, 3, 1, 3]))
    assert found["adam_mean_epochs"] == pytest.approx(np.mean([2, 1, 3, 3, 3]))
    expected = compare([1, 1, 3, 1, 3], [2, 1, 3, 3, 3], margin=0.1 * 3)
    for name in ("mean_difference", "p_value", "equivalence_p_value", "margin", "verdict"):
        assert found["difference_epochs"][name] == getattr(expected, name)


@given(st.integers(2, 30), st.integers(1, 20), st.floats(0.1, 2.0), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_mean_epochs_are_areas_under_kaplan_meier(
    replicates: int, epochs: int, target: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    curves = 2 * rng.uniform(0.8, 1.0, size=(2, replicates, epochs + 1)).cumprod(axis=2)
    (found,) = targets(*curves, target)
    for arm, name in zip(curves, ("lrg_adam", "adam"), strict=True):
        # The curves fall.
        survival = SurvfuncRight((arm[:, :-1] > target).sum(axis=1), arm[:, -1] <= target)
        knots = np.concatenate(([0], survival.surv_times, [epochs]))
        area = (np.diff(knots) * np.concatenate(([1], survival.surv_prob))).sum()
        assert found[f"{name}_mean_epochs"] == pytest.approx(area)


def test_a_target_nobody_reaches_is_not_compared_and_not_in_the_family() -> None:
    nobody, half = targets(np.maximum(CURVES - 0.5, 0.0), CURVES, -0.1, 0.5)
    assert (nobody["adam_share_reaching"], nobody["adam_mean_epochs"]) == (0.0, 3)
    assert nobody["difference_epochs"] is None
    tested = half["difference_epochs"]
    assert tested["p_value_holm"] == tested["p_value"]
