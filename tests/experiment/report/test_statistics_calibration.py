"""How often the verdicts are wrong when the truth is known.

The seeds are fixed, so nothing here is flaky; the bounds are those of a binomial count that a
correct procedure would break once in a thousand times.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from experiment.report import statistics
from experiment.report.statistics import ALPHA, Comparison, Floats, compare_paired

Draw = Callable[[np.random.Generator, int], Floats]

REPETITIONS = 400


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a 5 % level, and quick."""
    monkeypatch.setattr(statistics, "RESAMPLES", 399)


def normal(rng: np.random.Generator, replicates: int) -> Floats:
    return rng.normal(size=(2, replicates))


def heavy_tailed(rng: np.random.Generator, replicates: int) -> Floats:
    return rng.lognormal(size=(2, replicates))


def correlated_and_skewed(rng: np.random.Generator, replicates: int) -> Floats:
    return 2 * rng.normal(size=replicates) + rng.exponential(size=(2, replicates))


def accuracies(rng: np.random.Generator, replicates: int) -> Floats:
    return rng.binomial(1000, 0.6, size=(2, replicates)) / 1000


def bound(quantile: float, rate: float) -> float:
    return stats.binom.ppf(quantile, REPETITIONS, rate)


def compare_often(
    draw: Draw, replicates: int, *, margin: float, shift: float = 0.0
) -> list[Comparison]:
    rng = np.random.default_rng([replicates, REPETITIONS])
    results = []
    for seed in range(REPETITIONS):
        treatment, baseline = draw(rng, replicates)
        draws = np.random.default_rng(seed)
        results.append(compare_paired(treatment + shift, baseline, margin=margin, rng=draws))
    return results


@pytest.mark.parametrize("replicates", [8, 30])
@pytest.mark.parametrize("draw", [normal, heavy_tailed, correlated_and_skewed, accuracies])
def test_equal_arms_differ_as_often_as_promised(draw: Draw, replicates: int) -> None:
    verdicts = [c.verdict for c in compare_often(draw, replicates, margin=1e-12)]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    assert bound(0.001, ALPHA) <= better + worse <= bound(0.999, ALPHA)
    assert max(better, worse) <= bound(0.999, ALPHA / 2)


@pytest.mark.parametrize("replicates", [8, 30])
@pytest.mark.parametrize("draw", [normal, heavy_tailed, correlated_and_skewed])
def test_a_difference_of_the_margin_is_seldom_called_equivalent(
    draw: Draw, replicates: int
) -> None:
    results = compare_often(draw, replicates, margin=1.0, shift=1.0)
    false = sum(c.verdict == "equivalent" for c in results)
    assert false <= bound(0.999, ALPHA)


def test_the_interval_covers_a_mean_difference_as_often_as_promised() -> None:
    covered = sum(c.low <= 0.5 <= c.high for c in compare_often(normal, 20, margin=1, shift=0.5))
    assert bound(0.001, 1 - ALPHA) <= covered


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [(-1.0, 0.1, "better"), (1.0, 0.1, "worse"), (0.0, 1.5, "equivalent")],
)
def test_what_is_true_is_found(shift: float, margin: float, verdict: str) -> None:
    results = compare_often(normal, 30, margin=margin, shift=shift)
    assert sum(c.verdict == verdict for c in results) > 0.9 * REPETITIONS
