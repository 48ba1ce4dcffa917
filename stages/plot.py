"""Draw the convergence of both optimizers and the trials of both searches."""

from experiment import errors  # First: it fixes the arithmetic before torch and NumPy load.

# isort: split
from pathlib import Path

from matplotlib.figure import Figure

from experiment import files, versions
from experiment.figures import STYLES, panels, plain_ticks


def tuned(optimizer: str) -> str:
    """The tuned parameters in words, such as `learning rate 0.0012, rank 20`."""
    names = {"lr": "learning rate", "rank": "rank"}
    best = files.read_best(optimizer)
    return ", ".join(f"{names[name]} {value:.2g}" for name, value in best.items())


def convergence() -> Figure:
    """Mean validation loss over epochs with its 95 % interval."""
    pairs = files.read_json(Path("metrics/comparison.json"), "pairs")["pairs"]
    figure, (axes,) = panels(1)
    for optimizer, style in STYLES.items():
        history = files.read_csv(
            Path(f"plots/history/{optimizer}.csv"),
            "epoch",
            "validation_loss_nats",
            "validation_loss_nats_low",
            "validation_loss_nats_high",
        )
        label = f"{style['label']} ({tuned(optimizer)})"
        axes.plot(
            history["epoch"],
            history["validation_loss_nats"],
            markersize=3.5,
            **style | {"label": label},
        )
        axes.fill_between(
            history["epoch"],
            history["validation_loss_nats_low"],
            history["validation_loss_nats_high"],
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
    axes.set(
        xlabel="epoch",
        ylabel="validation loss (cross-entropy, nats)",
        title=f"Validation loss on MNIST-1D\nmean of {pairs} paired replicates, 95 % interval",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def tuning() -> Figure:
    """Validation loss of every trial against its learning rate, and against its rank."""
    figure, (by_lr, by_rank) = panels(2)
    for optimizer, style in STYLES.items():
        trials = files.read_csv(
            Path(f"plots/tuning/{optimizer}.csv"), "lr", "rank", "validation_loss_nats"
        )
        best = trials.loc[trials["validation_loss_nats"].idxmin()]
        points = style | {"linestyle": "none"}
        for axes, parameter in ((by_lr, "lr"), (by_rank, "rank")):
            if trials[parameter].notna().all():
                axes.plot(trials[parameter], trials["validation_loss_nats"], **points)
                axes.plot(
                    best[parameter],
                    best["validation_loss_nats"],
                    **points | {"marker": "*", "label": f"{style['label']}, best"},
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


if __name__ == "__main__":
    with errors.reported(), files.inputs_unchanged():
        versions.check()
        files.write_figure(Path("plots/convergence_comparison.png"), convergence())
        files.write_figure(Path("plots/tuning.png"), tuning())
