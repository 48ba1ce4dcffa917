"""Draw what truncation does to gradients along trajectories of arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import files
from experiment.figures import SERIES, line_with_band, panels
from experiment.params import Params, read_params
from experiment.statistics import MeanInterval
from studies.tables import looks

READS = ("studies.arms", "studies.gradients")


def draw(params: Params, rows: pd.DataFrame) -> Figure:
    """Energy against its nulls, the cosines, the loss after a step, and the leak, by rank."""
    given, arms = params.studies.gradients, params.studies.arms
    figure, (energy, cosines, steps, leak) = panels(4)

    def add(axes: Axes, arm: str, quantity: str, label: str, style: Mapping[str, object]) -> None:
        chosen = rows[
            (rows["trajectory"] == arm) & (rows["quantity"] == quantity) & (rows["epoch"] == "all")
        ]
        interval = MeanInterval(chosen["mean"], chosen["low"], chosen["high"])
        line_with_band(axes, chosen["rank"], interval, label=label, **style)

    for i, arm in enumerate(given.trajectories):
        along = f"along {arms[arm].label}"
        add(energy, arm, "energy", f"gradients {along}", SERIES[i])
        add(cosines, arm, "cosine_fresh", f"to fresh samples, {along}", SERIES[i])
        add(steps, arm, "step_loss", along, SERIES[i])
        add(leak, arm, "step_leak", f"truncated, {along}", SERIES[i])
    first = given.trajectories[0]
    null = rows.drop_duplicates("rank").set_index("rank")["energy_of_pure_noise_share"]
    add(energy, first, "energy_permuted", "their entries permuted", SERIES[2])
    energy.plot(null.index, null, label="pure noise", **SERIES[6], markersize=4)
    add(cosines, first, "cosine_train", f"to all samples, along {arms[first].label}", SERIES[2])
    add(leak, first, "step_leak_adam", f"Adam, along {arms[first].label}", SERIES[2])
    for axes in (cosines, steps):
        axes.axhline(0, color="0.4", linewidth=0.8)
    for axes in (energy, cosines, steps, leak):
        axes.set(xscale="log", xlabel="rank kept of the gradient matrix")
        axes.set_xticks(given.ranks, [str(rank) for rank in given.ranks])
        axes.minorticks_off()
    energy.set(ylabel="share of the squared norm", title="Captured energy", ylim=(0, 1.02))
    cosines.set(
        ylabel="cosine of the truncated minus the raw gradient",
        title="Is the truncated gradient cleaner?\n(above 0: yes)",
    )
    steps.set(
        ylabel="loss after a truncated step minus Adam's (nats)",
        title="One step of equal length, fresh samples\n(below 0: truncation helps)",
    )
    leak.set(
        ylabel="share of the update's squared norm",
        title="Update where the gradient was\nexactly zero for an epoch",
    )
    # The gains are small beside the losses at the lowest ranks.
    cosines.set_yscale("symlog", linthresh=0.01)
    ticks = [-0.1, -0.03, -0.01, -0.005, 0, 0.005, 0.01]
    cosines.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    cosines.set_ylim(top=0.01)
    leak.set_ylim(0, 1.5 * leak.get_ylim()[1])
    for axes in (energy, cosines, steps, leak):
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Write plots/studies/gradients.png."""
    params = read_params(READS)
    rows = looks(params.studies.gradients.trajectories)
    files.write_figure(Path("plots/studies/gradients.png"), draw(params, rows))
