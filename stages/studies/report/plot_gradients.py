"""Plot what truncation does to gradients along the trajectories of arms."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Energy and its null references, retained signal, cosines, and effect on Adam's updates."""
    ranks = sorted(set(rows["rank"]))
    upper = ranks[len(ranks) // 2 :]  # effects at lower ranks would squash those at these
    figure, every = panels(6, rows=2)
    energy, signal, cosines, by_epoch, steps, leak = every

    def add(axes: Axes, arm: str, quantity: str, label: str, style: Mapping[str, Any]) -> None:
        chosen = rows[
            (rows["trajectory"] == arm)
            & (rows["quantity"] == quantity)
            & (rows["epoch"] == "all")
            & rows["rank"].isin(upper if axes in (cosines, steps) else ranks)
        ]
        interval = MeanInterval(chosen["mean"], chosen["low"], chosen["high"])
        line_with_band(axes, chosen["rank"], interval, label=label, **style)

    for i, arm in enumerate(along):
        where = f"along {arms[arm].label}"
        add(energy, arm, "energy", f"gradients {where}", SERIES[i])
        add(signal, arm, "retention_fresh", where, SERIES[i])
        add(cosines, arm, "cosine_fresh", where, SERIES[i])
        add(steps, arm, "step_loss_fresh", f"fresh samples, {where}", SERIES[i])
        add(leak, arm, "step_leak", f"truncated, {where}", SERIES[i])
        chosen = rows[
            (rows["trajectory"] == arm)
            & (rows["quantity"] == "cosine_fresh")
            & (rows["rank"] == upper[0])
            & (rows["epoch"] != "all")
        ]
        interval = MeanInterval(chosen["mean"], chosen["low"], chosen["high"])
        line_with_band(by_epoch, chosen["epoch"].astype(int), interval, label=where, **SERIES[i])
    first = along[0]
    null = rows.drop_duplicates("rank").set_index("rank")["energy_of_pure_noise_share"]
    add(energy, first, "energy_permuted", "their entries permuted", SERIES[-2])
    energy.plot(null.index, null, label="pure noise", **SERIES[-1], markersize=4)
    add(steps, first, "step_loss_train", f"training samples, along {arms[first].label}", SERIES[-2])
    add(leak, first, "step_leak_adam", "Adam's own", SERIES[-2])
    for axes in (signal, cosines, by_epoch, steps):
        axes.axhline(0, color="0.4", linewidth=0.8)
    for axes in (energy, signal, cosines, steps, leak):
        axes.set(xscale="log", xlabel="rank k kept of the gradient matrix")
        ticks = upper if axes in (cosines, steps) else ranks
        axes.set_xticks(ticks, [str(rank) for rank in ticks])
        axes.minorticks_off()
    energy.set(
        ylabel="E = |F g|² / |g|²",
        title="Captured energy E of a batch's gradient g,\ntruncated to F g",
        ylim=(0, 1.45),
    )
    energy.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    signal.set(
        ylabel="R - √E",
        title="Share R = <F g, p> / <g, p> of the signal,\nminus √E (above 0: cleaner)",
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
    leak.set(
        ylabel="share of the update's squared norm",
        title="Update where the gradient was\nexactly zero for an epoch",
    )
    highest = leak.get_ylim()[1]
    leak.set_ylim(-0.05 * highest, 1.4 * highest)
    for axes in every:
        axes.legend(fontsize=8)
    figure.suptitle(
        f"mean over {rows['replicates'].iloc[0]} replicates, batches and (but for one panel) "
        "epochs; 95 % t-interval over replicates"
    )
    return figure


def main() -> None:
    """Write plots/studies/gradients.png and plots/studies/flipped_labels_gradients.png."""
    arms = read_arms()
    for baseline, name in ((BASELINE, "gradients"), (NOISY_BASELINE, "flipped_labels_gradients")):
        along = trajectories(arms, baseline)
        figure = draw(arms, along, gradient_tables(along))
        files.write_figure(Path(f"plots/studies/{name}.png"), figure)
