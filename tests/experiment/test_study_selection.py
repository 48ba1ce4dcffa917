"""The choice of a learning rate: the lowest loss where losses are sure, a smooth one where not."""

from __future__ import annotations

import numpy as np
import pytest

from studies.selection import best

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3, 2, 1, 2, 3], 2),
        ([1, 2, 3], 0),
        ([3, 2, 1], 2),
        ([1], 0),
        ([2, 1], 1),
        ([1.42, 1.30, 1.279, 1.275, 1.40], 2),  # a tie, but for the neighbours
        ([2, 1, INF], 1),
        ([INF, 2, 1, NAN, 3], 2),
        ([NAN, 5, INF], 1),
    ],
)
def test_the_best_is_the_lowest_among_its_neighbours(losses: list[float], expected: int) -> None:
    assert best(losses) == expected


def test_where_everything_diverged_nothing_is_the_best() -> None:
    with pytest.raises(ValueError, match="All-NaN"):
        best([NAN, INF])


@pytest.mark.parametrize("replicates", [1, 2, 4])
def test_few_seeds_mislead_it_less_than_the_lowest_mean(replicates: int) -> None:
    """Losses around a parabola: what the chosen rate loses against the best, on average."""
    rng = np.random.default_rng(0)
    loss = 0.02 * np.arange(-4.3, 5.7) ** 2
    drawn = loss + rng.normal(0, 0.05, (2000, replicates, len(loss)))
    regret = {
        "smooth": np.mean([loss[best(one)] for one in drawn.mean(axis=1)]) - loss.min(),
        "lowest": loss[drawn.mean(axis=1).argmin(axis=1)].mean() - loss.min(),
    }
    assert regret["smooth"] < 0.8 * regret["lowest"]
