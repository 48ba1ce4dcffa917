"""Compare the arms of one study with their baselines, and plot differences and curves."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiment.report.figures import VERDICTS, differences, line_with_band, panels, series
from experiment.report.measures import CURVE, MEASURES, PRIMARY
from experiment.report.statistics import MeanInterval, mean_interval
from experiment.stage import files
from experiment.stage.params import read_params
from studies.report.export import markdown
from studies.report.tables import comparisons
from studies.training.arms import Arms, read_arms, read_own, result_file


def draw(known: Arms, table: pd.DataFrame, margin: float) -> Figure:
    """One column per measure, one line per arm: its difference from each baseline, in per cent.

    Every difference is in per cent of its own baseline's mean. Arms on other data than their
    baseline have axes of their own, below the others'.
    """
    other = [
        known[row.arm].train.data != known[row.against].train.data for row in table.itertuples()
    ]
    parts = [part for _, part in table.groupby(other, sort=True)]
    sizes = [part["arm"].nunique() for part in parts]
    figure, axes = panels(len(MEASURES) * len(parts), rows=len(parts), heights=sizes)
    figure.set_size_inches(17, 1.6 + 0.9 * len(parts) + 0.55 * sum(sizes))
    places = product(parts, MEASURES.items())
    for number, (one, (part, (name, measure))) in enumerate(zip(axes, places, strict=True)):
        _draw_measure(one, known, part, name, margin)
        if number % len(MEASURES):
            one.set_yticklabels([])
        one.set_title(measure.label if number < len(MEASURES) else "")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    counts = sorted(set(table["replicates"]))
    figure.suptitle(
        f"mean difference over {' or '.join(map(str, counts))} paired replicates, uncorrected "
        "95 % interval; to its right the Holm-corrected verdict"
    )
    return figure


def _draw_measure(
    axes: Axes, known: Arms, table: pd.DataFrame, measure: str, margin: float
) -> None:
    arms = [name for name in known if name in set(table["arm"])][::-1]
    # An arm that is compared with several others has its own points for each.
    several = table.groupby("arm")["against"].nunique().max() > 1
    within = f"within {100 * margin:g} % of the baseline's mean"
    axes.axvspan(-100 * margin, 100 * margin, color="0.9", linewidth=0, zorder=0, label=within)
    rows = table[table["measure"] == measure]
    bases_of = rows.groupby("arm")["against"].agg(list)
    groups = rows.groupby("against" if several else "measure", sort=False)
    for i, (base, part) in enumerate(groups):
        y = []
        for arm, against in zip(part["arm"], part["against"], strict=True):
            bases = bases_of[arm]
            above = (len(bases) - 1) / 2 - bases.index(against)
            y.append(arms.index(arm) + 0.6 * above / len(bases))
        lr = part["lr_against"].iloc[0]
        label = f"against {known[str(base)].label} at {lr:g}" if several else None
        ends = (part[name] for name in ("difference", "interval_low", "interval_high"))
        percent = MeanInterval(*(100 * np.array(end / part["mean_against"]) for end in ends))
        differences(axes, percent, y, label=label, **series(i))
        for height, verdict in zip(y, part["verdict"], strict=True):
            style = {"color": VERDICTS[verdict], "fontsize": 8, "va": "center"}
            axes.text(1.01, height, verdict, style, transform=axes.get_yaxis_transform())
    labels = {}
    for row in rows.itertuples():
        edge = ", the edge of its grid" if row.lr_on_boundary else ""
        against = "" if several else f"; {known[row.against].label} at {row.lr_against:g}"
        labels[row.arm] = f"{row.label}\nlearning rate {row.lr:g}{edge}{against}"
    better = "left" if MEASURES[measure].lower_is_better else "right"
    bases = set(table["against"])
    name = f"{known[bases.pop()].label}'s" if len(bases) == 1 else "the baseline's"
    axes.set(xlabel=f"difference in % of {name} mean\n(better to the {better})")
    axes.set(ylim=(-0.6, len(arms) - 0.4))
    axes.set_yticks(range(len(arms)), [labels[name] for name in arms])
    axes.xaxis.set_major_locator(MaxNLocator(5))


def draw_curves(known: Arms, study: str) -> Figure:
    """Mean validation loss by epoch with its interval: a panel per baseline, its arms in it."""
    groups: dict[str, list[str]] = {}
    for name, arm in known.items():
        if arm.study == study and arm.against:
            groups.setdefault(arm.against[0], []).extend([*arm.against, name])
    rows = -(-len(groups) // 2)
    figure, every = panels(len(groups), rows)
    figure.set_size_inches(7 * min(len(groups), 2), 4 * rows)
    for axes, (base, names) in zip(every, groups.items(), strict=True):
        early = []
        for i, name in enumerate(dict.fromkeys(names)):
            curves = np.array(list(files.read_json(result_file(name), CURVE)[CURVE].values()))
            interval = mean_interval(curves)
            early.append(interval.mean[len(interval.mean) // 5])
            epochs = range(len(interval.mean))
            line_with_band(axes, epochs, interval, **series(i) | {"label": known[name].label})
        axes.set(
            xlabel="epoch",
            ylabel="validation loss (nats)",
            title=f"{known[base].label}, and arms against it\n"
            f"{len(curves)} replicates, 95 % interval",
        )
        # The first fifth of the training would squash the rest.
        axes.set_ylim(top=max(early))
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def main(study: str) -> None:
    """Write the table and the figures of a study of arms.yaml or own.yaml.

    A study of arms.yaml has metrics/studies/<study>.csv, plots/studies/<study>.png and
    plots/studies/<study>_curves.png. Those of own.yaml are in the folders `own`, with the verdicts
    in metrics/own/<study>.json for `dvc metrics diff`, and are printed.
    """
    params = read_params()
    known = read_arms()
    own = not any(arm.study == study for arm in known.values())
    folder = "own" if own else "studies"
    known |= read_own() if own else {}
    table = comparisons(params, study, known)
    files.write_csv(Path(f"metrics/{folder}/{study}.csv"), table)
    plots = Path(f"plots/{folder}")
    files.write_figure(plots / f"{study}.png", draw(known, table, params.compare.margin))
    files.write_figure(plots / f"{study}_curves.png", draw_curves(known, study))
    if own:
        summary = {
            f"{row.arm} against {row.against}": {
                "difference": row.difference,
                "interval_95": [row.interval_low, row.interval_high],
                "verdict": row.verdict,
            }
            for row in table[table["measure"] == PRIMARY].itertuples()
        }
        files.write_json(Path(f"metrics/own/{study}.json"), summary)
        print(markdown(table))
