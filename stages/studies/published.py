"""Repeat the published protocol with many seeds of its sampler, to see where its result lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from experiment import data, files
from experiment.data import Dataset, Split
from experiment.errors import UserError
from experiment.figures import STYLES, panels, plain_ticks
from experiment.params import Params, read_params
from experiment.protocol import REPORTED, Protocol, repeat
from experiment.statistics import mean_interval
from experiment.work import Work, merged, spans

READS = ("seed", "model.hidden", "studies.published")
# The rows it was published with; and those that mnist1d generates when it cannot download them.
DATA_SETS = ("published", "offline")
# What the final trainings use: what the searches found, or what the published ones did.
HYPERPARAMETERS = ("searched", "reported")
OUTCOMES = {
    "last_loss_nats": "validation loss, last epoch",
    "best_loss_nats": "validation loss, best epoch",
    "last_accuracy_share": "validation accuracy, last epoch",
}


def protocols(params: Params, data_set: str) -> list[Protocol]:
    """The groups of samplers that run together, on one of the data sets."""
    given = params.studies.published
    settings = given.model_dump(
        exclude={"samplers", "group", "lr", "rank", "training_samples", "offline_samples"}
    )
    offline_samples = None if data_set == "published" else given.offline_samples
    if offline_samples is None:
        training_samples = tuple(given.training_samples)
    else:
        training_samples = (len(data.offline(offline_samples)[0].y),)
    return [
        Protocol(
            seed=params.seed,
            first=first,
            size=size,
            hidden=tuple(params.model.hidden),
            lr=(given.lr.low, given.lr.high),
            rank=(given.rank.low, given.rank.high),
            training_samples=training_samples,
            offline_samples=offline_samples,
            **settings,
        )
        for first, size in spans(given.samplers, given.group)
    ]


def samplers(
    found: dict[str, np.ndarray], data_set: str, training_samples: int, hyperparameters: str
) -> pd.DataFrame:
    """A row for each sampler: the hyperparameters, and how its two final trainings ended.

    The hyperparameters are what its searches found, or those of the published experiment.
    """
    count = len(found["adam_lr"])
    columns: dict[str, object] = {
        "data": data_set,
        "training_samples": training_samples,
        "hyperparameters": hyperparameters,
        "sampler": np.arange(count),
    }
    infix = "" if hyperparameters == "searched" else "_reported"
    for optimizer, reported in REPORTED.items():
        for name, value in reported.items():
            key = f"{optimizer}_{name}"
            values = np.full(count, value) if infix else found[key]
            columns[key] = values.astype(int) if name == "rank" else values
        loss = found[f"{optimizer}{infix}_loss_{training_samples}"]
        columns[f"{optimizer}_last_loss_nats"] = loss[:, -1]
        columns[f"{optimizer}_best_loss_nats"] = loss.min(axis=1)
        accuracy = found[f"{optimizer}{infix}_accuracy_{training_samples}"]
        columns[f"{optimizer}_last_accuracy_share"] = accuracy
    return pd.DataFrame(columns)


def searches_found(part: pd.DataFrame, highest_rank: int) -> dict[str, float]:
    """How the hyperparameters are distributed that the searches found."""
    row: dict[str, float] = {}
    for optimizer, hyperparameters in REPORTED.items():
        for name, reported in hyperparameters.items():
            key = f"{optimizer}_{name}"
            low, median, high = np.quantile(part[key], [0.05, 0.5, 0.95]).tolist()
            row |= {
                f"{key}_5th_percentile": low,
                f"{key}_median": median,
                f"{key}_95th_percentile": high,
                f"{key}_reported": reported,
                f"{key}_share_at_most_reported": float((part[key] <= reported).mean()),
            }
    return row | {"highest_rank_share": float((part["lrg_adam_rank"] == highest_rank).mean())}


def summary(table: pd.DataFrame, highest_rank: int) -> dict[str, dict[str, float]]:
    """How the samplers are distributed, for each data set, number of samples and setting."""
    found = {}
    groups = table.groupby(["data", "training_samples", "hyperparameters"], sort=False)
    for (data_set, training_samples, hyperparameters), part in groups:
        row: dict[str, float] = {"samplers": len(part)}
        if hyperparameters == "searched":
            row |= searches_found(part, highest_rank)
        for outcome in OUTCOMES:
            difference = part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"]
            interval = mean_interval(difference)
            lower = stats.binomtest(int((difference < 0).sum()), len(part)).proportion_ci()
            row |= {
                f"{outcome}_difference": float(interval.mean),
                f"{outcome}_difference_low": float(interval.low),
                f"{outcome}_difference_high": float(interval.high),
                f"{outcome}_lrg_adam_lower_share": float((difference < 0).mean()),
                f"{outcome}_lrg_adam_lower_share_low": float(lower.low),
                f"{outcome}_lrg_adam_lower_share_high": float(lower.high),
            }
        found[f"{data_set}_{training_samples}_training_samples_{hyperparameters}"] = row
    return found


def draw(table: pd.DataFrame, highest_rank: int) -> Figure:
    """What the searches found, and the differences in loss, with the published result."""
    figure, (rates, ranks, last, best) = panels(4, rows=2)
    searches = table[(table["data"] == "published") & (table["hyperparameters"] == "searched")]
    searches = searches.drop_duplicates("sampler")
    for optimizer, style in STYLES.items():
        values = np.sort(searches[f"{optimizer}_lr"])
        share = np.arange(1, len(values) + 1) / len(values)
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        rates.step(values, share, where="post", label=style["label"], **line)
        reported = REPORTED[optimizer]["lr"]
        rates.plot(
            reported,
            (values <= reported).mean(),
            marker="*",
            markersize=14,
            linestyle="none",
            color=style["color"],
            label=f"{style['label']}, as published",
        )
    rates.set(
        xscale="log",
        xlabel="best learning rate of a search",
        ylabel="share of samplers at or below it",
        title=f"Learning rates that the protocol finds\nwith {len(searches)} samplers",
    )
    plain_ticks(rates.xaxis)
    rates.legend(fontsize=8)
    counts = searches["lrg_adam_rank"].value_counts().sort_index()
    ranks.bar(counts.index, counts, color=STYLES["lrg_adam"]["color"], alpha=0.7)
    ranks.axvline(REPORTED["lrg_adam"]["rank"], color="black", linestyle=":", label="as published")
    ranks.set(
        xlabel="best rank of a search",
        ylabel="samplers",
        title=f"Ranks that the protocol finds\nwhich allows {highest_rank} at most",
    )
    for axis in (ranks.xaxis, ranks.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ranks.legend(fontsize=8)
    groups = list(table.groupby(["data", "training_samples", "hyperparameters"], sort=False))[::-1]
    for axes, outcome in ((last, "last_loss_nats"), (best, "best_loss_nats")):
        for place, (_, part) in enumerate(groups):
            difference = np.sort(part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
            axes.plot(
                difference,
                place + np.linspace(-0.3, 0.3, len(difference)),
                "o",
                color="0.6",
                markersize=3.5,
                markerfacecolor="none",
            )
            interval = mean_interval(difference)
            axes.errorbar(
                interval.mean,
                place,
                xerr=interval.high - interval.mean,
                color="black",
                marker="D",
                markersize=5,
                capsize=4,
                zorder=3,
            )
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set(
            xlabel="LRG-Adam minus Adam (nats)",
            title=f"{OUTCOMES[outcome].capitalize()}\nleft of 0 LRG-Adam is lower",
        )
    names = {"published": "published", "offline": "generated"}
    sources = {"searched": "found", "reported": "published"}
    labels = [
        f"{samples} {names[data_set]} rows,\nhyperparameters {sources[hyperparameters]}"
        for (data_set, samples, hyperparameters), _ in groups
    ]
    last.set_yticks(range(len(labels)), labels, fontsize=8)
    best.set_yticks(range(len(labels)), [])
    return figure


def main() -> None:
    """Write metrics/studies/published.csv and .json, and plots/studies/published.png."""
    params = read_params(READS)
    given = params.studies.published
    arrays = data.published()
    validation = Split(arrays["x_test"], arrays["y_test"])
    everything = Dataset(Split(arrays["x"], arrays["y"]), validation, validation)
    tasks = {data_set: protocols(params, data_set) for data_set in DATA_SETS}
    with Work(
        "studies_published",
        everything,
        device="cpu",
        total=sum(map(len, tasks.values())),
        unit="group",
    ) as work:
        results = iter(work.run(repeat, [task for group in tasks.values() for task in group]))
        tables = []
        for data_set, group in tasks.items():
            found = merged([next(results) for _ in group])
            searches = {name: tensor.numpy() for name, tensor in found.items()}
            tables += [
                samplers(searches, data_set, n, hyperparameters)
                for n in group[0].training_samples
                for hyperparameters in HYPERPARAMETERS
            ]
        table = pd.concat(tables, ignore_index=True)
        finite = np.isfinite(table.select_dtypes("number")).all(axis=1)
        if not finite.all():
            diverged = sorted(table.loc[~finite, "sampler"].unique().tolist())
            raise UserError(f"studies.published: final trainings diverged, of samplers {diverged}")
        files.write_csv(Path("metrics/studies/published.csv"), table)
        highest = given.rank.high
        files.write_json(Path("metrics/studies/published.json"), summary(table, highest))
        files.write_figure(Path("plots/studies/published.png"), draw(table, highest))
