"""Final losses and accuracy against the rank, each at its own learning rate, with Adam's band."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiment import files
from experiment.errors import UserError
from experiment.figures import SERIES, STYLES, line_with_band, panels
from experiment.params import Arm, read_params
from experiment.statistics import MeanInterval, mean_interval
from studies import BASELINE
from studies.tables import MEASURES, comparisons, of_measure, outcomes, tuned

READS = ("seed", "compare.margin", "studies.arms")


def ranks_of(arms: dict[str, Arm]) -> dict[str, int]:
    """The rank of every arm of the study but the baseline.

    Raises:
        UserError: one has no rank or is not compared with the baseline, or the baseline is.

    """
    found = {}
    for name, arm in arms.items():
        if arm.study != "rank_sweep":
            continue
        key = f"params.yaml: studies.arms.{name}"
        if name == BASELINE:
            if arm.against:
                raise UserError(
                    f"{key}.against = {arm.against}; allowed: [], in the study rank_sweep"
                )
            continue
        rank = arm.train.hyperparameters.get("rank")
        if not isinstance(rank, int):
            raise UserError(
                f"{key}.train.hyperparameters.rank = {rank!r}; allowed: a whole number, "
                "in the study rank_sweep"
            )
        if BASELINE not in arm.against:
            raise UserError(
                f"{key}.against = {arm.against}; allowed: {BASELINE} among them, "
                "in the study rank_sweep"
            )
        found[name] = rank
    return found


def check_full_rank(ranks: dict[str, int], sides: dict[str, int]) -> None:
    """Refuse a full rank that is not Adam to the last bit: then something else differs too.

    That goes for the same learning rate, and for the replicates that both have.
    """
    adam, lr = outcomes(BASELINE), tuned(BASELINE)["lr"]
    for name in ranks:
        if ranks[name] < sides[name] or tuned(name)["lr"] != lr:
            continue
        found = outcomes(name)
        shared = found.index.intersection(adam.index)
        if not found.loc[shared].equals(adam.loc[shared]):
            raise RuntimeError(f"{name} keeps the whole gradient and yet differs from Adam")


def draw(ranks: dict[str, int], table: pd.DataFrame, margin: float) -> Figure:
    """A panel a measure: mean and 95 % interval over the replicates."""
    figure, all_axes = panels(len(MEASURES), rows=2)
    equivalent = f"equivalent to Adam within {100 * margin:g} %"
    adam = outcomes(BASELINE)
    for axes, measure in zip(all_axes, MEASURES, strict=True):
        band = mean_interval(adam[measure])
        blue = STYLES["adam"]["color"]
        axes.axhspan(band.low, band.high, color=blue, alpha=0.15, linewidth=0)
        axes.axhline(band.mean, color=blue, label="Adam")
        found = [mean_interval(outcomes(name)[measure]) for name in ranks]
        interval = MeanInterval(*(list(part) for part in zip(*found, strict=True)))
        style = {"label": "LRG-Adam", **SERIES[1]}
        line_with_band(axes, list(ranks.values()), interval, **style)
        verdicts = of_measure(table, measure, BASELINE).set_index("arm")["verdict"]
        for name, rank, mean in zip(ranks, ranks.values(), interval.mean, strict=True):
            if verdicts[name] == "equivalent":
                axes.plot(
                    rank,
                    mean,
                    "o",
                    markersize=11,
                    color="black",
                    markerfacecolor="none",
                    label=None if axes.get_legend_handles_labels()[1][2:] else equivalent,
                )
        described = MEASURES[measure]
        axes.set(
            xscale="log",
            xlabel="rank kept of the gradient matrix",
            ylabel=f"{described.label} ({described.unit})",
            title=f"{described.label}\nmean of {len(adam)} paired replicates, 95 % interval",
        )
        axes.set_xticks(list(ranks.values()), [str(rank) for rank in ranks.values()])
        axes.minorticks_off()
    all_axes[0].legend()
    return figure


def main() -> None:
    """Write metrics/studies/rank_sweep.csv and plots/studies/rank_sweep.png."""
    params = read_params(READS)
    ranks = ranks_of(params.studies.arms)
    sides = {name: int(tuned(name)["matrix_side"]) for name in ranks}
    check_full_rank(ranks, sides)
    table = comparisons(params, "rank_sweep")
    table.insert(1, "rank", [ranks[name] for name in table["arm"]])
    table.insert(2, "matrix_side", [sides[name] for name in table["arm"]])
    files.write_csv(Path("metrics/studies/rank_sweep.csv"), table)
    files.write_figure(
        Path("plots/studies/rank_sweep.png"), draw(ranks, table, params.compare.margin)
    )
