"""The style of the figures: sizes, and a colour, marker and dash for each optimizer."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from experiment.report.statistics import MeanInterval

# Okabe and Ito's colour-blind-safe palette (https://jfly.uni-koeln.de/color/), without yellow, too
# pale for lines on white; dashes and markers tell series apart in black and white.
SERIES: list[dict[str, Any]] = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#56B4E9", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (1, 1)), "marker": "P"},
    {"color": "#000000", "linestyle": (0, (3, 3)), "marker": "X"},
]
OPTIMIZERS = {
    "adam": {"label": "Adam", **SERIES[0]},
    "lrg_adam": {"label": "LRG-Adam", **SERIES[1]},
}
VERDICTS = {"better": "#009E73", "worse": "#D55E00", "equivalent": "#0072B2", "inconclusive": "0.4"}


def series(number: int) -> dict[str, Any]:
    """The style of the arm with this number; beyond the palette, its colours have open markers."""
    style = SERIES[number % len(SERIES)]
    return style if number < len(SERIES) else style | {"markerfacecolor": "white"}


def panels(
    count: int, rows: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, row by row; `heights` are those of the rows, in any unit."""
    columns = -(-count // rows)
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
        }
    )
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.6 + 4.0 * columns, 4.0 * rows),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for surplus in axes.flat[count:]:
        surplus.remove()
    return figure, list(axes.flat[:count])


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, 20 and so on."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def line_with_band(
    axes: Axes,
    x: ArrayLike,
    interval: MeanInterval,
    **style: Any,  # noqa: ANN401
) -> None:
    """Draw a line through means, with their intervals as a band of the same colour."""
    axes.plot(x, interval.mean, **{"markersize": 4, **style})
    axes.fill_between(x, interval.low, interval.high, color=style["color"], alpha=0.15, linewidth=0)


def differences(
    axes: Axes,
    interval: MeanInterval,
    y: ArrayLike,
    **style: Any,  # noqa: ANN401
) -> None:
    """Draw means with their intervals at the heights `y`, and a line at zero."""
    ends = [interval.mean - interval.low, interval.high - interval.mean]
    style = {"markersize": 5, "capsize": 3, **style, "linestyle": "none"}
    axes.errorbar(interval.mean, y, xerr=np.reshape(ends, (2, -1)).clip(min=0), **style)
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    axes.grid(axis="y", visible=False)
