"""Plot the convergence of both optimizers and the trials of both searches."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiment.report.figures import OPTIMIZERS, line_with_band, panels, plain_ticks
from experiment.report.measures import CURVE
from experiment.report.statistics import mean_interval
from experiment.stage import data, files
from experiment.stage.params import read_params


def tuned(optimizer: str) -> str:
    """The tuned hyperparameters as text, such as `learning rate 0.0012, rank 20`."""
    names = {"lr": "learning rate", "rank": "rank"}
    best = files.read_json(Path(f"metrics/tune_{optimizer}.json"), "best")["best"]
    return ", ".join(f"{names.get(name, name)} {value:.2g}" for name, value in best.items())


def convergence(title: str) -> Figure:
    """Plot the mean validation loss over epochs, and the paired difference, with 95 % intervals."""
    figure, (loss, gap) = panels(2)
    curves = {}
    for optimizer, style in OPTIMIZERS.items():
        path = Path(f"metrics/{optimizer}.json")
        replicates = files.read_rows(path, "replicates", CURVE, other=[CURVE])
        curves[optimizer] = np.array(replicates[CURVE].tolist())
        label = f"{style['label']} ({tuned(optimizer)})"
        interval = mean_interval(curves[optimizer])
        line_with_band(loss, range(len(interval.mean)), interval, **style | {"label": label})
    difference = mean_interval(curves["lrg_adam"] - curves["adam"])
    line_with_band(gap, range(len(difference.mean)), difference, color="#009E73", marker="o")
    mean, low, high = (float(part[-1]) for part in difference)
    gap.axhline(0, color="0.4", linewidth=0.8)
    final = f"after the last epoch\n{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    gap.text(0.97, 0.05, final, ha="right", transform=gap.transAxes)
    loss.set(
        ylabel="validation loss (cross-entropy, nats)",
        title=f"Validation loss on {title}\n{len(curves['adam'])} replicates, 95 % interval",
    )
    gap.set(
        ylabel="LRG-Adam minus Adam (nats)",
        title="Paired difference in validation loss\n(below 0: LRG-Adam is better), 95 % interval",
    )
    for axes in (loss, gap):
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
    loss.legend()
    return figure


def tuning() -> Figure:
    """Plot the validation loss of every trial against its learning rate and its rank."""
    figure, (by_lr, by_rank) = panels(2)
    for optimizer, style in OPTIMIZERS.items():
        path = Path(f"metrics/tune_{optimizer}.json")
        trials = files.read_rows(path, "trials", "lr", "rank", "trial_loss_nats")
        best = trials.loc[trials["trial_loss_nats"].idxmin()]
        points = style | {"linestyle": "none"}
        star = {"marker": "*", "label": f"{style['label']}, best", "markersize": 16}
        for axes, parameter in ((by_lr, "lr"), (by_rank, "rank")):
            if trials[parameter].notna().all():
                axes.plot(trials[parameter], trials["trial_loss_nats"], **points)
                place = best[parameter], best["trial_loss_nats"]
                axes.plot(*place, **points | star, markerfacecolor="none")
    for axes in (by_lr, by_rank):
        axes.set(xscale="log", ylabel="validation loss of a trial (nats)")
    by_lr.set(xlabel="learning rate", title="Every trial by its learning rate")
    by_lr.legend()
    by_rank.set(xlabel="rank", title="LRG-Adam's trials by their rank")
    plain_ticks(by_rank.xaxis)
    return figure


def main() -> None:
    """Write plots/convergence_comparison.png and plots/tuning.png."""
    title = data.title(read_params().data.name)
    files.write_figure(Path("plots/convergence_comparison.png"), convergence(title))
    files.write_figure(Path("plots/tuning.png"), tuning())
