"""How sensitive Adam and several ranks are to the learning rate, and what filtering resembles."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiment.report.figures import SERIES, line_with_band, panels
from experiment.report.statistics import ALPHA, RESAMPLES, Floats, MeanInterval, mean_interval
from experiment.stage import files
from experiment.stage.params import read_params
from experiment.stage.randomness import stream
from studies.report.tables import named, tuning
from studies.training.arms import BASELINE, read_arms

DRAWN = ("adam", "rank_80", "rank_20", "rank_5", "rank_1")
# A learning rate is good enough if its loss is within this share of the lowest.
TOLERANCE = 0.05
LOSSES = ("validation_loss_nats", "train_loss_nats")
Curves = dict[str, Floats]


def grid(arm: str) -> Curves:
    """The tuning of an arm: `lr` (L,), and both losses (replicates, L)."""
    wide = tuning(arm).pivot(index="replicate", columns="lr")
    losses = {loss: wide[loss].to_numpy() for loss in LOSSES}
    return {"lr": wide[LOSSES[0]].columns.to_numpy(), **losses}


def best_range(lr: Floats, loss: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the best learning rate, over the seeds of the tuning.

    Args:
        lr: the grid, (L,).
        loss: the losses (replicates, L) whose mean the tuning minimised.
        rng: source of the resamples.

    """
    drawn = rng.integers(len(loss), size=(RESAMPLES, len(loss)))
    best = lr[np.nanargmin(loss[drawn].mean(axis=1), axis=1)]
    low, high = np.quantile(best, [ALPHA / 2, 1 - ALPHA / 2], method="inverted_cdf")
    return float(low), float(high)


def good_range(lr: Floats, loss: Floats) -> tuple[float, float]:
    """The range around the best learning rate where the loss is at most TOLERANCE higher.

    Losses are interpolated linearly over the logarithm of the learning rate. The range never
    extends beyond the grid.
    """
    fine = np.union1d(np.linspace(np.log10(lr[0]), np.log10(lr[-1]), 2001), np.log10(lr))
    curve = np.interp(fine, np.log10(lr), np.nan_to_num(loss, nan=1e9, posinf=1e9))
    good = curve <= (1 + TOLERANCE) * curve.min()
    best = int(curve.argmin())
    low = best + 1 - np.logical_and.accumulate(good[best::-1]).sum()
    high = best - 1 + np.logical_and.accumulate(good[best:]).sum()
    return float(10 ** fine[low]), float(10 ** fine[high])


def at_equal_train_loss(filtered: Curves, adam: Curves) -> tuple[Floats, Floats]:
    """Compare an arm with Adam at the learning rate that gives Adam the same final train loss.

    Train losses fall with the learning rate up to some point. Only learning rates up to that point
    count, for both; Adam's curves are interpolated between them.

    Returns:
        Two arrays with one entry per common replicate, means over the arm's learning rates: log10
        of Adam's learning rate over the arm's, and the arm's validation loss minus Adam's (nats).
        Both are NaN for a replicate that Adam cannot match.

    """
    # Arms may differ in their grids and numbers of replicates; the first replicates are shared.
    shared = min(len(one["train_loss_nats"]) for one in (filtered, adam))
    logs, gains = np.full((2, shared), np.nan)
    for replicate in range(shared):
        validation, train = (filtered[loss][replicate] for loss in LOSSES)
        adams_validation, adams_train = (adam[loss][replicate] for loss in LOSSES)
        falling = np.flatnonzero(_falls(adams_train))[::-1]
        known = adams_train[falling]
        inside = _falls(train) & (train >= known[0]) & (train <= known[-1])
        if inside.any():
            matched = np.interp(train[inside], known, np.log10(adam["lr"][falling]))
            logs[replicate] = np.mean(matched - np.log10(filtered["lr"][inside]))
            expected = np.interp(train[inside], known, adams_validation[falling])
            gains[replicate] = np.mean(validation[inside] - expected)
    return logs, gains


def _falls(losses: Floats) -> NDArray[np.bool_]:
    """Whether each loss, and all before it, are below their predecessors."""
    return np.logical_and.accumulate(np.append(True, losses[1:] < losses[:-1]))


def summary(seed: int, arm: str, label: str) -> dict[str, object]:
    """The optimum of one arm, its width, and how it differs from Adam at equal train loss.

    The difference covers all learning rates that Adam can match; `tuned_...` only the arm's best.
    It is NaN if there is a replicate that Adam cannot match.
    """
    found, adam = grid(arm), grid(BASELINE)
    mean = found["validation_loss_nats"].mean(axis=0)
    best = int(np.nanargmin(mean))
    low, high = good_range(found["lr"], mean)
    rng = stream(seed, "studies, best learning rate", arm)
    best_low, best_high = best_range(found["lr"], found["validation_loss_nats"], rng)
    row: dict[str, object] = {
        "arm": arm,
        "label": label,
        "best_lr": found["lr"][best],
        "best_lr_low": best_low,
        "best_lr_high": best_high,
        "validation_loss_nats": mean[best],
        "width_decades": np.log10(high / low),
        "width_ends_with_grid": np.isclose([low, high], found["lr"][[0, -1]]).any(),
    }
    if arm == BASELINE:
        return row
    tuned = {name: values[..., best : best + 1] for name, values in found.items()}
    for prefix, part in (("", found), ("tuned_", tuned)):
        ratio, gain = map(mean_interval, at_equal_train_loss(part, adam))
        ratio = MeanInterval(*(10**end for end in ratio))
        row |= named(f"{prefix}adams_lr_ratio_for_equal_train_loss", ratio)
        row |= named(f"{prefix}validation_loss_nats_minus_adam_at_equal_train_loss", gain)
    return row


def draw(arms: dict[str, str]) -> Figure:
    """Plot validation and train loss against the learning rate, and against each other."""
    figure, (by_lr, train, trade) = panels(3)
    lowest = []
    for (arm, label), style in zip(arms.items(), SERIES, strict=False):
        found = grid(arm)
        if arm == BASELINE:  # a high rank would cover it
            style = style | {"linewidth": 5, "alpha": 0.4}
        validation_loss, train_loss = (mean_interval(found[loss]) for loss in LOSSES)
        line_with_band(by_lr, found["lr"], validation_loss, label=label, **style)
        line_with_band(train, found["lr"], train_loss, **style)
        trade.plot(train_loss.mean, validation_loss.mean, markersize=4, **style)
        best = int(np.nanargmin(validation_loss.mean))
        lowest.append(validation_loss.mean[best])
        star = {"color": style["color"], "marker": "*", "markersize": 14, "zorder": 4}
        for axes in (by_lr, train, trade):
            x, y = np.asarray(axes.lines[-1].get_xydata())[best]
            axes.plot(x, y, markeredgecolor="white", **star)
    replicates = len(found["train_loss_nats"])
    for axes in (by_lr, train):
        axes.set(xscale="log", xlabel="learning rate")
    for axes in (by_lr, trade):
        axes.set_ylabel("validation loss, last epoch (nats)")
        axes.set_ylim(min(lowest) - 0.1, min(lowest) + 1.3)
    by_lr.set_title(f"Validation loss by learning rate\n{replicates} replicates, 95 % interval")
    train.set(
        ylabel="train loss, last epoch (nats)",
        title="Train loss by learning rate\nstars: the learning rate chosen",
    )
    trade.set(
        xlabel="train loss, last epoch (nats)",
        title="Validation loss by train loss\none point per learning rate",
    )
    by_lr.legend()
    return figure


def main() -> None:
    """Write metrics/studies/learning_rate.csv and plots/studies/learning_rate.png."""
    params = read_params()
    arms = {name: arm.label for name, arm in read_arms().items() if arm.study == "rank_sweep"}
    table = pd.DataFrame([summary(params.seed, name, label) for name, label in arms.items()])
    files.write_csv(Path("metrics/studies/learning_rate.csv"), table)
    drawn = {name: arms[name] for name in DRAWN if name in arms}
    files.write_figure(Path("plots/studies/learning_rate.png"), draw(drawn))
