"""Statistics of paired replicates: intervals, tests, equivalence and one of four verdicts.

Replicate ``i`` of one arm and replicate ``i`` of the other share their initial weights and their
batch order, so the comparison is of the differences ``d[i] = treatment[i] - baseline[i]``.
The same state of the random generator gives the same bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

# The level of every test; intervals cover 1 - ALPHA. The verdicts promise 5 %.
ALPHA = 0.05
# Draws of the bootstrap and of the sign-flip test. A p-value of 0.05 then has a standard error of
# 0.002, and the smallest possible one, 1e-4, survives a Holm correction over hundreds of tests.
RESAMPLES = 9_999
# Up to this many replicates, all sign flips, at most 2^16, are enumerated, and p is exact.
EXACT_REPLICATES = 16


class MeanInterval(NamedTuple):
    """A mean and its confidence interval, each an array over the remaining axes."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Comparison:
    """A treatment against a baseline over paired replicates, in the units of the measure.

    Attributes:
        mean_difference: mean of treatment minus baseline.
        low: lower end of the 95 % BCa bootstrap interval of the mean difference, widened for few
            replicates.
        high: upper end of it.
        p_value: two-sided sign-flip permutation test of "the arms are exchangeable".
        equivalence_p_value: two one-sided t-tests of "the means differ by ``margin`` or more".
        probability_lower: share of replicates whose treatment is lower, ties counting half.
        replicates: number of pairs.
        margin: the largest difference that does not matter.
        lower_is_better: whether a negative difference is an improvement.

    """

    mean_difference: float
    low: float
    high: float
    p_value: float
    equivalence_p_value: float
    probability_lower: float
    replicates: int
    margin: float
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """What the comparison shows, decided in this order.

        1. ``equivalent``: both one-sided tests reject at 5 %; that is, the 90 % t-interval is
           inside the margin. The difference is too small to matter, even if it is not zero.
        2. ``better`` or ``worse``: the sign-flip test rejects at 5 % and the 95 % interval excludes
           zero. The test keeps its level at any number of replicates if the arms are
           exchangeable; the interval also holds, for many replicates, if they merely share their
           mean. Requiring both ensures that no claim contradicts the interval reported with it.
           Five replicates or fewer are never enough: their smallest p-value is 2 / 2^5 > 5 %.
        3. ``inconclusive``: anything else; more replicates are needed.
        """
        if self.equivalence_p_value <= ALPHA:
            return "equivalent"
        if self.p_value > ALPHA or self.low <= 0 <= self.high:
            return "inconclusive"
        return "better" if (self.mean_difference < 0) == self.lower_is_better else "worse"


def mean_interval(values: ArrayLike) -> MeanInterval:
    """Mean over replicates with its 95 % Student-t interval, pointwise over the other axes.

    The replicates are the first axis of the values, for example ``(replicates, epochs)``. The
    bounds are NaN for one replicate, which says nothing about spread, and wherever a value is not
    finite.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    with np.errstate(invalid="ignore"):
        mean = values.mean(0)
        error = values.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.nan
        half = stats.t.ppf(1 - ALPHA / 2, n - 1) * error
        return MeanInterval(mean, mean - half, mean + half)


def compare_paired(
    treatment: ArrayLike,
    baseline: ArrayLike,
    *,
    margin: float,
    rng: np.random.Generator,
    lower_is_better: bool = True,
) -> Comparison:
    """Compare two arms replicate by replicate; see :class:`Comparison` for the results.

    Swapping the arms mirrors every result; the order of the replicates matters only within Monte
    Carlo error. The bootstrap interval is BCa (Efron 1987). As in the expanded percentile interval
    of Hesterberg (2015), the nominal level corrects for resamples that are too narrow, by
    sqrt(1 - 1/S) for S replicates, and normal instead of t. For normal differences the coverage is
    93 % at 8 replicates and 94 to 95 % from 12 on (plain BCa: 88 % and 91 %); for very heavy-tailed
    ones (lognormal) it is 90 %. The one-sided tests rely on the t distribution: they are sound for
    arms of similar shape, whose differences are nearly symmetric, but liberal for few, strongly
    skewed differences.

    Args:
        treatment: one value per replicate, shape ``(replicates,)``.
        baseline: the same replicates of the other arm.
        margin: the largest difference that does not matter, in the units of the values.
        rng: source of the draws.
        lower_is_better: True for losses and times, False for accuracies.

    Raises:
        ValueError: arms that are not one-dimensional, equally long, finite and of two replicates
            or more.

    References: Efron (1987), "Better bootstrap confidence intervals"; Hesterberg (2015), "What
    teachers should know about the bootstrap"; Phipson and Smyth (2010), "Permutation p-values
    should never be zero"; Schuirmann (1987), "A comparison of the two one-sided tests procedure".

    """
    treatment, baseline = (np.asarray(arm, dtype=np.float64) for arm in (treatment, baseline))
    pairs = np.stack([treatment, baseline])
    if pairs.ndim != 2 or pairs.shape[1] < 2 or not np.isfinite(pairs).all():
        raise ValueError("a comparison needs two finite replicates or more")
    difference = treatment - baseline
    low, high = _bca_interval(difference, rng)
    return Comparison(
        mean_difference=float(difference.mean()),
        low=low,
        high=high,
        p_value=_sign_flip_p_value(difference, rng),
        equivalence_p_value=_equivalence_p_value(difference, margin),
        probability_lower=float((difference < 0).mean() + 0.5 * (difference == 0).mean()),
        replicates=difference.size,
        margin=float(margin),
        lower_is_better=lower_is_better,
    )


def holm(p_values: ArrayLike) -> Floats:
    """Adjust the p-values of a family to control its family-wise error rate.

    Step-down: the i-th smallest of m, counted from 0, is multiplied by ``m - i``, kept monotone and
    capped at 1. Valid under any dependence (Holm 1979, "A simple sequentially rejective multiple
    test procedure").
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1)
    return adjusted


def correct_family(family: Sequence[Comparison]) -> list[Comparison]:
    """Replace both p-values of every comparison, and so its verdict, by Holm-adjusted ones.

    The sign-flip tests are one family and the equivalence tests another: the chance of any false
    "better" or "worse" is at most 5 %, and so is that of any false "equivalent". Claims are only
    lost, never gained; a comparison that loses "equivalent" may show the "better" or "worse" that
    it also supports. A family of one is unchanged, and intervals are not corrected. Correct a
    family only once.
    """
    differs = holm([c.p_value for c in family])
    equivalent = holm([c.equivalence_p_value for c in family])
    return [
        replace(c, p_value=float(p), equivalence_p_value=float(q))
        for c, p, q in zip(family, differs, equivalent, strict=True)
    ]


def _bca_interval(difference: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Bootstrap interval of the mean; the mean itself if all differences are the same."""
    # Sums on an integer grid are exact, so resamples tie where they should on every machine.
    unit = np.abs(difference).max() / 2**40 or 1.0
    grid = np.rint(difference / unit)
    if np.ptp(grid) == 0:
        return float(difference.mean()), float(difference.mean())
    n = difference.size
    tail = stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.isf(ALPHA / 2, n - 1))
    interval = stats.bootstrap(
        (grid,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * max(tail, 1 / RESAMPLES),  # no finer than one draw
        method="BCa",
        rng=rng,
    ).confidence_interval
    return float(interval.low * unit), float(interval.high * unit)


def _sign_flip_p_value(difference: Floats, rng: np.random.Generator) -> float:
    """Share of sign flips with a mean at least as far from zero as the observed one."""
    total = difference.sum()
    extreme = abs(total) - 1e-12 * np.abs(difference).sum()  # sums that tie up to rounding
    if difference.size <= EXACT_REPLICATES:
        sums = np.array([total])
        for value in difference[1:]:  # not the first: flips come in mirrored pairs of equal size
            sums = np.concatenate((sums, sums - 2 * value))
        return float((np.abs(sums) >= extreme).mean())
    flips = rng.integers(2, size=(RESAMPLES, difference.size), dtype=bool)
    count = int(np.count_nonzero(np.abs(total - 2 * (flips @ difference)) >= extreme))
    return (1 + count) / (1 + RESAMPLES)  # the observed signs are one of the possible flips


def _equivalence_p_value(difference: Floats, margin: float) -> float:
    """Larger p-value of the two one-sided t-tests, the one for the nearer side."""
    slack = margin - abs(difference.mean())
    if np.ptp(difference) == 0:
        return float(slack <= 0)
    error = difference.std(ddof=1) / math.sqrt(difference.size)
    return float(stats.t.sf(slack / error, difference.size - 1))
