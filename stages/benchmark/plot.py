"""Draw the benchmark: time against size, and the accuracy that a cheaper step gives up."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from experiment.report.figures import panels
from experiment.stage import files

# The methods to draw, each with a marker and one of Okabe and Ito's colours for the colour-blind.
METHODS: dict[str, dict[str, Any]] = {
    "Adam, fused": {"color": "black", "marker": "o"},
    "Muon": {"color": "#999999", "marker": "P"},
    "published (full SVD)": {"color": "#D55E00", "marker": "s"},
    "gram": {"color": "#0072B2", "marker": "D"},
    "randomized": {"color": "#E69F00", "marker": "^"},
    "randomized before SGD": {"color": "#009E73", "marker": "v"},
    "torch.svd_lowrank": {"color": "#CC79A7", "marker": "<"},
}
EXACT = ["gram", "published (full SVD)"]
RANK = 20


def draw(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """One line per method, over the number of parameters."""
    for method, style in METHODS.items():
        chosen = rows[rows["method"] == method].dropna(subset=[column])
        if len(chosen):
            axes.plot(chosen["side"] ** 2, chosen[column], label=method, **style)
    axes.set(xscale="log", yscale="log", xlabel="parameters")


def main() -> None:
    """Write plots/benchmark.png."""
    steps = pd.DataFrame(files.read_json(Path("metrics/benchmark.json"), "steps")["steps"])
    steps = steps[(steps["rank"] == RANK) & (steps["models"] == 1)]
    figure, (time, error) = panels(2)
    draw(time, steps, "milliseconds_per_model")
    time.set(ylabel="milliseconds per step, one thread", title=f"Time of a step at rank {RANK}")
    draw(error, steps[~steps["method"].isin(EXACT)], "excess_error")
    error.set(
        ylabel="error beyond the smallest possible\n(as a share of it)",
        title=f"What an approximation gives up at rank {RANK}",
    )
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    files.write_figure(Path("plots/benchmark.png"), figure)
