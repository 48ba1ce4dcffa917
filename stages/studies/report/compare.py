"""Compare the arms of one study with their baselines, and plot the differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiment.report.figures import SERIES, differences, panels
from experiment.report.measures import MEASURES
from experiment.stage import files
from experiment.stage.params import read_params
from studies.report.tables import comparisons, of_measure
from studies.training.arms import Arms, read_arms, read_own


def draw(known: Arms, table: pd.DataFrame, margin_share: float) -> Figure:
    """One panel per measure, one row per arm: its difference from each arm it is compared with."""
    arms = list(dict.fromkeys(table["arm"]))
    several = table.groupby("arm")["against"].nunique().max() > 1
    series = list(dict.fromkeys(table["against"])) if several else [None]
    baselines = [known[base].label for base in dict.fromkeys(table["against"])]
    difference = f"difference from {baselines[0]}" if len(baselines) == 1 else "difference"
    figure, all_axes = panels(len(MEASURES), rows=2)
    figure.set_size_inches(11, 3 + 1.1 * len(arms))
    for place, (axes, measure) in enumerate(zip(all_axes, MEASURES, strict=True)):
        for i, base in enumerate(series):
            rows = of_measure(table, measure, base)
            position = len(arms) - 1 - np.array([arms.index(arm) for arm in rows["arm"]])
            offset = 0.15 * (len(series) - 1) - 0.3 * i
            label = None if base is None else f"against {known[base].label}"
            differences(axes, rows, position + offset, **SERIES[i] | {"label": label})
            # Each row has its own margin, a share of the baseline's mean.
            half = 0.15 if several else 0.5
            for y, margin in zip(position + offset, rows["margin"], strict=True):
                band = axes.fill_betweenx(
                    [y - half, y + half], -margin, margin, color="0.9", linewidth=0, zorder=0
                )
        band.set_label(f"within {100 * margin_share:g} % of the mean compared with")
        axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
        described = MEASURES[measure]
        better = "left" if described.lower_is_better else "right"
        axes.set(
            title=f"{described.label}\n({better} is better)",
            xlabel=f"{difference} ({described.unit}), 95 % interval",
            ylim=(-0.6, len(arms) - 0.4),
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        labels = _row_labels(known, table, several) if place % 2 == 0 else []
        axes.set_yticks(range(len(arms)), labels)
        axes.grid(axis="y", visible=False)
    handles, names = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _row_labels(known: Arms, table: pd.DataFrame, several: bool) -> list[str]:
    """Arms from bottom to top, each with its baseline's name if baselines differ."""
    own = not several and table["against"].nunique() > 1
    found = []
    for row in table.drop_duplicates("arm").itertuples():
        lr = f"learning rate {row.lr:g}"
        if own:
            baseline = known[row.against].label
            lr += f"\nagainst {baseline}, at {row.lr_against:g}"
        found.append(f"{row.label}\n{lr}")
    return found[::-1]


def main(study: str) -> None:
    """Write metrics/studies/<study>.csv and plots/studies/<study>.png (`own` for a user study)."""
    params = read_params()
    known = read_arms()
    folder = "studies" if study in {arm.study for arm in known.values()} else "own"
    if folder == "own":
        known |= read_own()
    table = comparisons(params, study, known)
    files.write_csv(Path(f"metrics/{folder}/{study}.csv"), table)
    figure = draw(known, table, params.compare.margin)
    files.write_figure(Path(f"plots/{folder}/{study}.png"), figure)
