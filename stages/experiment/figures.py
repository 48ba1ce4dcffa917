"""How the figures look: sizes, and a colour, a marker and a dash for each optimizer."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Blue and vermillion of Okabe and Ito's palette for the colour-blind; the dashes and markers
# tell the optimizers apart in black and white (https://jfly.uni-koeln.de/color/).
STYLES = {
    "adam": {"label": "Adam", "color": "#0072B2", "linestyle": "-", "marker": "o"},
    "lrg_adam": {"label": "LRG-Adam", "color": "#D55E00", "linestyle": "--", "marker": "s"},
}


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels side by side."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 150,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
        }
    )
    figure, axes = plt.subplots(
        1, count, figsize=(1.6 + 4.8 * count, 4.4), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, 20 and so on."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
