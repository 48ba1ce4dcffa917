"""Plot what truncation does to gradients along the trajectories of arms."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report.figures import SERIES, line_with_band, panels
from experiment.report.statistics import MeanInterval
from experiment.stage import files
from studies.report.tables import gradient_tables
from studies.training.arms import BASELINE, NOISY_BASELINE, Arms, read_arms, trajectories


def draw(arms: Arms, along: list[str], rows: pd.DataFrame) -> Figure:
    """Energy with its null references, cosines by rank and epoch, and the effect on steps."""
    ranks = sorted(set(rows["rank"]))
    upper = ranks[len(ranks) // 2 :]  # effects at lower ranks would squash those at these
    figure, every = panels(4, rows=2)
    energy, cosines, by_epoch, steps = every
    of_all_epochs = rows["epoch"] == "all"

    def add(axes: Axes, arm: str, quantity: str, label: str, style: dict[str, Any]) -> None:
        x = "epoch" if axes is by_epoch else "rank"
        drawn = {energy: of_all_epochs, by_epoch: ~of_all_epochs & (rows["rank"] == upper[0])}
        chosen = drawn.get(axes, of_all_epochs & rows["rank"].isin(upper))
        part = rows[chosen & (rows["trajectory"] == arm) & (rows["quantity"] == quantity)]
        interval = MeanInterval(part["mean"], part["low"], part["high"])
        line_with_band(axes, part[x].astype(int), interval, label=label, **style)

    for arm, style in zip(along, SERIES, strict=False):
        where = f"along {arms[arm].label}"
        add(energy, arm, "energy", f"gradients {where}", style)
        add(cosines, arm, "cosine_fresh", where, style)
        add(by_epoch, arm, "cosine_fresh", where, style)
        add(steps, arm, "step_loss_fresh", f"fresh samples, {where}", style)
    first = along[0]
    null = rows.drop_duplicates("rank").set_index("rank")["energy_of_pure_noise_share"]
    add(energy, first, "energy_permuted", "their entries permuted", SERIES[-2])
    energy.plot(null.index, null, label="pure noise", **SERIES[-1], markersize=4)
    add(steps, first, "step_loss_train", f"training samples, along {arms[first].label}", SERIES[-2])
    for axes, ticks in ((energy, ranks), (cosines, upper), (steps, upper)):
        axes.set(xscale="log", xlabel="rank k kept of the gradient matrix")
        axes.set_xticks(ticks, [str(rank) for rank in ticks])
        axes.minorticks_off()
    energy.set(
        ylabel="E = |F g|² / |g|²",
        title="Captured energy E of a batch's gradient g,\ntruncated to F g",
        ylim=(0, 1.45),
        yticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
    )
    cosines.set(
        ylabel="cos(F g, p) - cos(g, p)",
        title="Cosine to the gradient p\nof fresh samples (above 0: cleaner)",
    )
    by_epoch.set(
        xlabel="after epoch",
        ylabel="cos(F g, p) - cos(g, p)",
        title=f"The same at rank {upper[0]} by epoch\n(above 0: cleaner)",
    )
    steps.set(
        ylabel="loss after a step, minus Adam's (nats)",
        title="A step from F g as long as Adam's\n(below 0: better than Adam's)",
    )
    for axes in every:
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.legend(fontsize=8)
    figure.suptitle(
        f"mean over {rows['replicates'].iloc[0]} replicates, batches and (but for one panel) "
        "epochs; 95 % t-interval over replicates"
    )
    return figure


def main() -> None:
    """Write the figures of gradients, one for each setting of the argument."""
    arms = read_arms()
    for baseline, name in {
        BASELINE: "gradients",
        NOISY_BASELINE: "flipped_labels_gradients",
        "noise_double": "batch_noise_gradients",
    }.items():
        along = trajectories(arms, baseline)
        figure = draw(arms, along, gradient_tables(along))
        files.write_figure(Path(f"plots/studies/{name}.png"), figure)
