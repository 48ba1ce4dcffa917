"""Plot what the published protocol finds with many seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiment.report.figures import OPTIMIZERS, panels, plain_ticks
from experiment.report.statistics import mean_interval
from experiment.stage import files
from studies.published.reported import OUTCOMES, REPORTED

TEXT = ("data", "hyperparameters")


def draw(table: pd.DataFrame) -> Figure:
    """What the searches found, and how the final trainings differ, with the published result."""
    figure, axes = panels(6, rows=2)
    rates, ranks, explained, *ends = axes
    explained.remove()
    searches = table[(table["data"] == "published") & (table["hyperparameters"] == "searched")]
    searches = searches.drop_duplicates("sampler")
    for optimizer, style in OPTIMIZERS.items():
        values = np.sort(searches[f"{optimizer}_lr"])
        share = np.arange(1, len(values) + 1) / len(values)
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        rates.step(values, share, where="post", label=style["label"], **line)
        reported = REPORTED[optimizer]["lr"]
        rates.plot(
            reported,
            (values <= reported).mean(),
            marker="*",
            markersize=14,
            linestyle="none",
            color=style["color"],
            label=f"{style['label']}, as published",
        )
    rates.set(
        xscale="log",
        xlabel="best learning rate of a search",
        ylabel="share of the searches at or below it",
        title=f"Learning rates that the protocol finds\nin {len(searches)} searches each",
    )
    plain_ticks(rates.xaxis)
    rates.legend(fontsize=8)
    counts = searches["lrg_adam_rank"].value_counts().sort_index()
    ranks.bar(counts.index, counts, color=OPTIMIZERS["lrg_adam"]["color"], alpha=0.7)
    ranks.axvline(REPORTED["lrg_adam"]["rank"], color="black", linestyle=":", label="as published")
    ranks.set(
        xlabel="best rank of a search",
        ylabel="searches",
        title="Ranks that the protocol finds",
    )
    for axis in (ranks.xaxis, ranks.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ranks.legend(fontsize=8)
    groups = list(table.groupby(["data", "training_samples", "hyperparameters"], sort=False))[::-1]
    for one, (outcome, described) in zip(ends, OUTCOMES.items(), strict=True):
        for place, (_, part) in enumerate(groups):
            _draw_differences(one, place, part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
        one.axvline(0, color="0.4", linewidth=0.8)
        one.grid(axis="y", visible=False)
        one.set(
            xlabel=f"LRG-Adam minus Adam ({described.unit})",
            title=f"{described.label.capitalize()}\n"
            f"({'left' if described.lower_is_better else 'right'} of 0: LRG-Adam is better)",
        )
        one.set_yticks(range(len(groups)), [])
    names = {"published": "published", "offline": "generated"}
    sources = {"searched": "found", "reported": "published"}
    labels = [
        f"{samples} {names[data_set]} rows,\nhyperparameters {sources[hyperparameters]}"
        for (data_set, samples, hyperparameters), _ in groups
    ]
    ends[0].set_yticks(range(len(labels)), labels, fontsize=8)
    figure.suptitle("grey: one seed each; black: mean and 95 % t-interval over the seeds")
    return figure


def _draw_differences(axes: Axes, place: int, values: pd.Series[float]) -> None:
    difference = np.sort(values)
    axes.plot(
        difference,
        place + np.linspace(-0.3, 0.3, len(difference)),
        "o",
        color="0.6",
        markersize=3.5,
        markerfacecolor="none",
    )
    interval = mean_interval(difference)
    axes.errorbar(
        interval.mean,
        place,
        xerr=interval.high - interval.mean,
        color="black",
        marker="D",
        markersize=5,
        capsize=4,
        zorder=3,
    )


def main() -> None:
    """Write plots/studies/published.png."""
    table = files.read_csv(Path("metrics/studies/published.csv"), *TEXT, other=TEXT)
    files.write_figure(Path("plots/studies/published.png"), draw(table))
