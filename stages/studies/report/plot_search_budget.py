"""Plot the best loss of the searches against the number of trials."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, line_with_band, panels
from experiment.report.statistics import mean_interval
from experiment.stage import files

TRIALS = Path("metrics/studies/search_budget.csv")
COLUMNS = ("optimizer", "sampler", "trial", "best_so_far_nats")


def draw(trials: pd.DataFrame) -> Figure:
    """The best loss so far of both optimizers, per search and on average; and the difference."""
    figure, (best, difference) = panels(2)
    means = {}
    for optimizer, style in OPTIMIZERS.items():
        own = trials[trials["optimizer"] == optimizer]
        searches = own.pivot(index="trial", columns="sampler", values="best_so_far_nats")
        count = searches.index + 1
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        best.plot(count, searches, alpha=0.3, linewidth=0.8, **line)
        best.plot(count, searches.mean(axis=1), linewidth=2.2, label=style["label"], **line)
        means[optimizer] = searches
    gap = means["lrg_adam"] - means["adam"]
    line_with_band(difference, gap.index + 1, mean_interval(gap.T), color="#009E73")
    difference.axhline(0, color="0.4", linewidth=0.8)
    lowest = min(float(found.min().min()) for found in means.values())
    best.set(
        xlabel="trials",
        ylabel="best validation loss so far (nats)",
        title=f"Each of {gap.shape[1]} searches, and their mean",
        ylim=(lowest - 0.01, lowest + 0.2),
    )
    difference.set(
        xlabel="trials",
        ylabel="LRG-Adam minus Adam (nats)",
        title="Difference of the best loss\nmean and 95 % interval over searches",
        xlim=(5, None),
        ylim=(-0.05, 0.15),
    )
    best.legend()
    return figure


def main() -> None:
    """Write plots/studies/search_budget.png."""
    trials = files.read_csv(TRIALS, *COLUMNS, other=("optimizer",))
    files.write_figure(Path("plots/studies/search_budget.png"), draw(trials))
