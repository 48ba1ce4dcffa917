"""Plot what the published protocol finds with many sampler seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiment.report.figures import OPTIMIZERS, panels, plain_ticks
from experiment.report.statistics import mean_interval
from experiment.stage import files
from studies.published.reported import OUTCOMES, REPORTED
from studies.training.arms import SETTINGS, ProtocolConfig

TEXT = ("data", "hyperparameters")


def draw(table: pd.DataFrame, highest_rank: int) -> Figure:
    """What the searches found, and the differences in loss, with the published result."""
    figure, (rates, ranks, last, best) = panels(4, rows=2)
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
        ylabel="share of samplers at or below it",
        title=f"Learning rates that the protocol finds\nwith {len(searches)} samplers",
    )
    plain_ticks(rates.xaxis)
    rates.legend(fontsize=8)
    counts = searches["lrg_adam_rank"].value_counts().sort_index()
    ranks.bar(counts.index, counts, color=OPTIMIZERS["lrg_adam"]["color"], alpha=0.7)
    ranks.axvline(REPORTED["lrg_adam"]["rank"], color="black", linestyle=":", label="as published")
    ranks.set(
        xlabel="best rank of a search",
        ylabel="samplers",
        title=f"RankInterval that the protocol finds\nwhich allows {highest_rank} at most",
    )
    for axis in (ranks.xaxis, ranks.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ranks.legend(fontsize=8)
    groups = list(table.groupby(["data", "training_samples", "hyperparameters"], sort=False))[::-1]
    for axes, outcome in ((last, "last_loss_nats"), (best, "best_loss_nats")):
        for place, (_, part) in enumerate(groups):
            difference = np.sort(part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
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
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set(
            xlabel="LRG-Adam minus Adam (nats)",
            title=f"{OUTCOMES[outcome].capitalize()}\nleft of 0 LRG-Adam is lower",
        )
    names = {"published": "published", "offline": "generated"}
    sources = {"searched": "found", "reported": "published"}
    labels = [
        f"{samples} {names[data_set]} rows,\nhyperparameters {sources[hyperparameters]}"
        for (data_set, samples, hyperparameters), _ in groups
    ]
    last.set_yticks(range(len(labels)), labels, fontsize=8)
    best.set_yticks(range(len(labels)), [])
    return figure


def main() -> None:
    """Write plots/studies/published.png."""
    searched = ProtocolConfig.model_validate(files.read_json(SETTINGS / "published.json")).rank
    table = files.read_csv(Path("metrics/studies/published.csv"), *TEXT, other=TEXT)
    files.write_figure(Path("plots/studies/published.png"), draw(table, searched.high))
