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
from studies.report.tables import looks
from studies.training.arms import BASELINE, NOISY_BASELINE, Arms, read_arms, trajectories


def draw(arms: Arms, along: list[str], rows: pd.DataFrame) -> Figure:
    """Energy and its null references, retained signal, cosines, and effect on Adam's updates."""
    ranks = sorted(set(rows["rank"]))
    figure, every = panels(6, rows=2)
    energy, signal, cosines, direction, steps, leak = every

    def add(axes: Axes, arm: str, quantity: str, label: str, style: Mapping[str, Any]) -> None:
        chosen = rows[
            (rows["trajectory"] == arm) & (rows["quantity"] == quantity) & (rows["epoch"] == "all")
        ]
        interval = MeanInterval(chosen["mean"], chosen["low"], chosen["high"])
        line_with_band(axes, chosen["rank"], interval, label=label, **style)

    for i, arm in enumerate(along):
        where = f"along {arms[arm].label}"
        add(energy, arm, "energy", f"gradients {where}", SERIES[i])
        add(signal, arm, "retention_fresh", where, SERIES[i])
        add(cosines, arm, "cosine_fresh", where, SERIES[i])
        add(direction, arm, "step_cosine", where, SERIES[i])
        add(steps, arm, "step_loss_fresh", f"fresh samples, {where}", SERIES[i])
        add(leak, arm, "step_leak", f"truncated, {where}", SERIES[i])
    first = along[0]
    null = rows.drop_duplicates("rank").set_index("rank")["energy_of_pure_noise_share"]
    add(energy, first, "energy_permuted", "their entries permuted", SERIES[-2])
    energy.plot(null.index, null, label="pure noise", **SERIES[-1], markersize=4)
    add(cosines, first, "cosine_permuted", "entries permuted", SERIES[-2])
    add(leak, first, "step_leak_adam", "Adam's own", SERIES[-2])
    add(steps, first, "step_loss_train", f"training samples, along {arms[first].label}", SERIES[-2])
    for axes in (signal, cosines, direction, steps):
        axes.axhline(0, color="0.4", linewidth=0.8)
    for axes in every:
        axes.set(xscale="log", xlabel="rank kept of the gradient matrix")
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.minorticks_off()
    energy.set(ylabel="share of the squared norm", title="Captured energy E", ylim=(0, 1.45))
    energy.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    signal.set(
        ylabel="share R of the signal minus √E",
        title="Is signal kept better than noise?\n(above 0: yes)",
    )
    cosines.set(
        ylabel="change in cosine by truncation\n(logarithmic beyond 0.0005)",
        title="Cosine to the gradient of fresh samples\n(above 0: cleaner)",
    )
    direction.set(
        ylabel="change in cosine by truncation",
        title="Cosine of the update to that gradient\n(above 0: truncation helps)",
    )
    steps.set(
        ylabel="loss after a step minus Adam's (nats,\nlogarithmic beyond 0.00002)",
        title="A step as long as Adam's\n(below 0: truncation helps)",
    )
    leak.set(
        ylabel="share of the update's squared norm",
        title="Update where the gradient was\nexactly zero for an epoch",
    )
    # The effects at high ranks are small compared with those at the lowest.
    for axes, linear, ticks in (
        (cosines, 0.0005, [-0.1, -0.01, -0.001, 0, 0.001]),
        (steps, 0.00002, [-0.00002, 0, 0.00002, 0.0001, 0.001]),
    ):
        axes.set_yscale("symlog", linthresh=linear)
        axes.set_yticks(ticks, [f"{tick:.5f}".rstrip("0").rstrip(".") for tick in ticks])
        axes.minorticks_off()
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, ticks[0]), max(high, 2 * ticks[-1]))
    highest = leak.get_ylim()[1]
    leak.set_ylim(-0.05 * highest, 1.4 * highest)
    for axes in every:
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Write plots/studies/gradients.png and plots/studies/flipped_labels_gradients.png."""
    arms = read_arms()
    for baseline, name in ((BASELINE, "gradients"), (NOISY_BASELINE, "flipped_labels_gradients")):
        along = trajectories(arms, baseline)
        files.write_figure(Path(f"plots/studies/{name}.png"), draw(arms, along, looks(along)))
