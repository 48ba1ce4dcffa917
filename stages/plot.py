"""Plot the convergence of both optimizers and the trials of both searches."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, line_with_band, panels, plain_ticks
from experiment.report.statistics import mean_interval
from experiment.stage import data, files
from experiment.stage.params import read_params

CURVE = "validation_losses_nats"


def tuned(optimizer: str) -> str:
    """The tuned hyperparameters as text, such as `learning rate 0.0012, rank 20`."""
    names = {"lr": "learning rate", "rank": "rank"}
    best = files.read_json(Path(f"metrics/tune_{optimizer}.json"), "best")["best"]
    return ", ".join(f"{names.get(name, name)} {value:.2g}" for name, value in best.items())


def convergence(title: str) -> Figure:
    """Plot the mean validation loss over epochs with its 95 % interval."""
    figure, (axes,) = panels(1)
    for optimizer, style in OPTIMIZERS.items():
        path = Path(f"metrics/{optimizer}.json")
        replicates = files.read_rows(path, "replicates", CURVE, other=[CURVE])
        curves = np.array(replicates[CURVE].tolist())
        label = f"{style['label']} ({tuned(optimizer)})"
        line_with_band(
            axes, range(curves.shape[1]), mean_interval(curves), **{**style, "label": label}
        )
    axes.set(
        xlabel="epoch",
        ylabel="validation loss (cross-entropy, nats)",
        title=f"Validation loss on {title}\nmean of {len(curves)} paired replicates, 95 % interval",
    )
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    return figure


def tuning() -> Figure:
    """Plot the validation loss of every trial against its learning rate and its rank."""
    figure, (by_lr, by_rank) = panels(2)
    for optimizer, style in OPTIMIZERS.items():
        path = Path(f"metrics/tune_{optimizer}.json")
        trials = files.read_rows(path, "trials", "lr", "rank", "trial_loss_nats")
        best = trials.loc[trials["trial_loss_nats"].idxmin()]
        points = {**style, "linestyle": "none"}
        for axes, parameter in ((by_lr, "lr"), (by_rank, "rank")):
            if trials[parameter].notna().all():
                axes.plot(trials[parameter], trials["trial_loss_nats"], **points)
                axes.plot(
                    best[parameter],
                    best["trial_loss_nats"],
                    **{**points, "marker": "*", "label": f"{style['label']}, best"},
                    markersize=16,
                    markerfacecolor="none",
                )
    by_lr.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="validation loss of a trial (nats)",
        title="Every trial by its learning rate",
    )
    by_lr.legend()
    by_rank.set(
        xscale="log",
        xlabel="rank",
        ylabel="validation loss of a trial (nats)",
        title="LRG-Adam's trials by their rank",
    )
    plain_ticks(by_rank.xaxis)
    return figure


def main() -> None:
    """Write plots/convergence_comparison.png and plots/tuning.png."""
    title = data.title(read_params().data.name)
    files.write_figure(Path("plots/convergence_comparison.png"), convergence(title))
    files.write_figure(Path("plots/tuning.png"), tuning())
