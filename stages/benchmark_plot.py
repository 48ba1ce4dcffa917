"""Draw the benchmark: time against size, and what a cheaper step gives up."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import errors, files
from experiment.figures import panels

# One colour-blind safe colour and one marker for each way to take a step (Okabe and Ito).
STYLES = {
    "Adam, fused": {"color": "black", "marker": "o"},
    "Muon": {"color": "#999999", "marker": "P"},
    "published (full SVD)": {"color": "#D55E00", "marker": "s"},
    "gram": {"color": "#0072B2", "marker": "D"},
    "randomized": {"color": "#E69F00", "marker": "^"},
    "subspace": {"color": "#009E73", "marker": "v"},
    "subspace, certified to 1 %": {"color": "#009E73", "marker": "X", "linestyle": "--"},
    "torch.svd_lowrank": {"color": "#CC79A7", "marker": "<"},
    "PowerSGD": {"color": "#56B4E9", "marker": ">"},
}
RANK = 20


def draw(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Lines over the number of parameters, one a method."""
    for method, style in STYLES.items():
        chosen = rows[rows["method"] == method].dropna(subset=[column])
        if len(chosen):
            axes.plot(chosen["side"] ** 2, chosen[column], label=method, **style)
    axes.set(xscale="log", yscale="log", xlabel="parameters")


def cost() -> Figure:
    """Time of a step, and error beyond the smallest possible, against the number of parameters."""
    benchmark = files.read_json(Path("metrics/benchmark.json"))
    steps = pd.DataFrame(benchmark["steps"])
    steps = steps[(steps["rank"] == RANK) & (steps["models"] == 1)]
    figure, (time, error) = panels(2)
    draw(time, steps, "milliseconds_per_model")
    time.set(ylabel="milliseconds a step, one thread", title=f"Time of a step at rank {RANK}")
    # PowerSGD adds what it left out before: its result is no approximation of one gradient.
    exact = ["PowerSGD", "gram", "published (full SVD)"]
    draw(error, steps[~steps["method"].isin(exact)], "excess_error")
    error.set(
        ylabel="error beyond the smallest possible\n(share of it)",
        title=f"What an approximation gives up at rank {RANK}",
    )
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    with errors.reported():
        files.write_figure(Path("plots/benchmark.png"), cost())
