"""Plot what the published protocol finds with many seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, differences, panels, plain_ticks
from experiment.report.statistics import mean_interval
from experiment.stage import files
from studies.published.reported import OUTCOMES, REPORTED

TEXT = ("data", "hyperparameters")


def draw(table: pd.DataFrame) -> Figure:
    """What the searches found, and how the final trainings differ, with the published result."""
    figure, (*ends, rates, ranks) = panels(5, rows=2)
    searches = table[(table["data"] == "published") & (table["hyperparameters"] == "searched")]
    searches = searches.drop_duplicates("sampler")
    for optimizer, style in OPTIMIZERS.items():
        line = {name: style[name] for name in ("label", "color", "linestyle")}
        rates.ecdf(searches[f"{optimizer}_lr"], **line)
        published = {"label": f"{style['label']}, as published", "color": style["color"]}
        rates.axvline(REPORTED[optimizer]["lr"], linestyle=":", **published)
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
    ranks.set(xlabel="best rank of a search", ylabel="searches")
    ranks.set_title("Ranks that the protocol finds")
    ranks.locator_params(integer=True)
    ranks.legend(fontsize=8)
    groups = list(table.groupby(["data", "training_samples", "hyperparameters"], sort=False))[::-1]
    names = {"published": "published", "offline": "generated"}
    sources = {"searched": "found", "reported": "published"}
    labels = [
        f"{samples} {names[data_set]} rows,\nhyperparameters {sources[hyperparameters]}"
        for (data_set, samples, hyperparameters), _ in groups
    ]
    for one, (outcome, described) in zip(ends, OUTCOMES.items(), strict=True):
        for place, (_, part) in enumerate(groups):
            gap = np.sort(part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
            heights = place + np.linspace(-0.3, 0.3, len(gap))
            one.plot(gap, heights, "o", color="0.6", markersize=3.5, markerfacecolor="none")
            differences(one, mean_interval(gap), place, color="black", marker="D", zorder=3)
        one.set(
            xlabel=f"LRG-Adam minus Adam ({described.unit})",
            title=f"{described.label.capitalize()}\n"
            f"({'left' if described.lower_is_better else 'right'} of 0: LRG-Adam is better)",
        )
        one.set_yticks(range(len(groups)), labels if one is ends[0] else [], fontsize=8)
    figure.suptitle("grey: one seed each; black: mean and 95 % t-interval over the seeds")
    return figure


def main() -> None:
    """Write plots/studies/published.png."""
    table = files.read_csv(Path("metrics/studies/published.csv"), *TEXT, other=TEXT)
    files.write_figure(Path("plots/studies/published.png"), draw(table))
