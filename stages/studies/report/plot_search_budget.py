"""Plot the best loss of the searches against the number of trials."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, line_with_band, panels
from experiment.report.statistics import mean_interval
from experiment.stage import files
from experiment.stage.params import read_params


def draw(trials: pd.DataFrame, budget: int) -> Figure:
    """The best loss so far of both optimizers, per search and on average; and the difference.

    `budget` is the number of trials of the main pipeline.
    """
    figure, (best, difference) = panels(2)
    found = trials.pivot(index="trial", columns=["optimizer", "sampler"], values="best_so_far_nats")
    found.index += 1
    for optimizer, style in OPTIMIZERS.items():
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        best.plot(found[optimizer], alpha=0.5, linewidth=1, **line)
        best.plot(found[optimizer].mean(axis=1), linewidth=2.5, label=style["label"], **line)
    gap = found["lrg_adam"] - found["adam"]
    interval = mean_interval(gap.T)
    line_with_band(difference, gap.index, interval, color="#009E73")
    difference.axhline(0, color="0.4", linewidth=0.8)
    for axes in (best, difference):
        axes.axvline(budget, color="0.4", linestyle=":", label=f"{budget} trials: the main result")
        axes.set_xlabel("trials")
    lowest = found.min(axis=None)
    best.set(
        ylabel="best validation loss so far (nats)",
        title=f"Each of {gap.shape[1]} searches (thin), and their mean",
        ylim=(lowest - 0.01, lowest + 0.2),
    )
    # Intervals of fewer trials would squash the rest.
    start = max(1, min(budget, len(gap)) * 4 // 5)
    low, high = interval.low[start - 1 :].min(), interval.high[start - 1 :].max()
    difference.set(
        ylabel="LRG-Adam minus Adam (nats)",
        title="Difference (below 0: LRG-Adam is better),\nmean and 95 % t-interval over searches",
        xlim=(start, None),
        ylim=(min(0, low) - 0.01, high + 0.01),
    )
    best.legend()
    return figure


def main() -> None:
    """Write plots/studies/search_budget.png."""
    columns = ("optimizer", "sampler", "trial", "best_so_far_nats")
    path = Path("metrics/studies/search_budget.csv")
    trials = files.read_csv(path, *columns, other=("optimizer",))
    figure = draw(trials, read_params().tune.trials)
    files.write_figure(Path("plots/studies/search_budget.png"), figure)
