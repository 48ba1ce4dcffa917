"""Final losses and accuracy by rank, each at its tuned learning rate, with Adam as a band."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, SERIES, line_with_band, panels
from experiment.report.measures import MEASURES
from experiment.report.statistics import MeanInterval, mean_interval
from experiment.stage import files
from experiment.stage.errors import UserError
from experiment.stage.params import read_params
from studies.report.tables import comparisons, of_measure, outcomes
from studies.training.arms import BASELINE, PUBLISHED, Arms, read_arms, tuned


def ranks_of(arms: Arms) -> dict[str, int]:
    """The rank of every arm of the study except the baseline.

    Raises:
        UserError: an arm has no rank or is not compared with the baseline, or the baseline is
            compared with another arm.

    """
    found = {}
    for name, arm in arms.items():
        if arm.study != "rank_sweep":
            continue
        key = f"{PUBLISHED}: rank_sweep.{name}"
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
    """Raise RuntimeError if an arm of full rank differs from Adam in any bit.

    The check covers arms with Adam's learning rate, and the replicates that both have.
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
    """One panel per measure: mean and 95 % interval over the replicates."""
    figure, all_axes = panels(len(MEASURES), rows=2)
    equivalent = f"equivalent to Adam within {100 * margin:g} %"
    adam = outcomes(BASELINE)
    for axes, measure in zip(all_axes, MEASURES, strict=True):
        band = mean_interval(adam[measure])
        blue = OPTIMIZERS["adam"]["color"]
        axes.axhspan(float(band.low), float(band.high), color=blue, alpha=0.15, linewidth=0)
        axes.axhline(float(band.mean), color=blue, label="Adam")
        found = [mean_interval(outcomes(name)[measure]) for name in ranks]
        interval = MeanInterval(*np.transpose(found))
        style = {"label": "LRG-Adam", **SERIES[1]}
        line_with_band(axes, list(ranks.values()), interval, **style)
        verdicts = of_measure(table, measure, BASELINE).set_index("arm")["verdict"]
        circled = [
            (rank, mean)
            for name, rank, mean in zip(ranks, ranks.values(), interval.mean, strict=True)
            if verdicts[name] == "equivalent"
        ]
        if circled:
            axes.plot(
                *zip(*circled, strict=True),
                "o",
                markersize=11,
                color="black",
                markerfacecolor="none",
                label=equivalent,
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
    params = read_params()
    arms = read_arms()
    ranks = ranks_of(arms)
    sides = {name: int(tuned(name)["matrix_side"]) for name in ranks}
    check_full_rank(ranks, sides)
    table = comparisons(params, "rank_sweep", arms)
    table.insert(1, "rank", [ranks[name] for name in table["arm"]])
    table.insert(2, "matrix_side", [sides[name] for name in table["arm"]])
    files.write_csv(Path("metrics/studies/rank_sweep.csv"), table)
    figure = draw(ranks, table, params.compare.margin)
    files.write_figure(Path("plots/studies/rank_sweep.png"), figure)
