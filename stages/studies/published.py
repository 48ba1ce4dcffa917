"""Repeat the published protocol with many seeds of its sampler, to see where its result lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from experiment import data, files
from experiment.data import Dataset, Split
from experiment.errors import UserError
from experiment.figures import SERIES, STYLES, panels
from experiment.params import Params, read_params
from experiment.protocol import Protocol, repeat
from experiment.statistics import mean_interval
from experiment.work import Work, merged, spans

READS = ("seed", "model.hidden", "studies.published")
# What the published experiment reported.
REPORTED = {"adam_lr": 0.0059, "lrg_adam_lr": 0.0064, "lrg_adam_rank": 20}
# The rows it was published with; and those that mnist1d generates when it cannot download them.
DATA_SETS = ("published", "offline")
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


def samplers(found: dict[str, np.ndarray], data_set: str, training_samples: int) -> pd.DataFrame:
    """A row for each sampler: what its searches found, and how its two final trainings ended."""
    columns: dict[str, object] = {
        "data": data_set,
        "training_samples": training_samples,
        "sampler": np.arange(len(found["adam_lr"])),
        "adam_lr": found["adam_lr"],
        "lrg_adam_lr": found["lrg_adam_lr"],
        "lrg_adam_rank": found["lrg_adam_rank"].astype(int),
    }
    for optimizer in ("adam", "lrg_adam"):
        loss = found[f"{optimizer}_loss_{training_samples}"]
        accuracy = found[f"{optimizer}_accuracy_{training_samples}"]
        columns[f"{optimizer}_last_loss_nats"] = loss[:, -1]
        columns[f"{optimizer}_best_loss_nats"] = loss.min(axis=1)
        columns[f"{optimizer}_last_accuracy_share"] = accuracy
    return pd.DataFrame(columns)


def summary(table: pd.DataFrame, highest_rank: int) -> dict[str, dict[str, float]]:
    """How the samplers are distributed, for each data set and number of training samples."""
    found = {}
    for (data_set, training_samples), part in table.groupby(["data", "training_samples"]):
        row: dict[str, float] = {"samplers": len(part)}
        for name, reported in REPORTED.items():
            low, median, high = np.quantile(part[name], [0.05, 0.5, 0.95]).tolist()
            row |= {f"{name}_5_percent": low, f"{name}_median": median, f"{name}_95_percent": high}
            row[f"{name}_reported"] = reported
            row[f"{name}_share_at_most_reported"] = float((part[name] <= reported).mean())
        row["highest_rank_share"] = float((part["lrg_adam_rank"] == highest_rank).mean())
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
        found[f"{data_set}_{training_samples}_training_samples"] = row
    return found


def draw(table: pd.DataFrame) -> Figure:
    """What the searches found, and the sign of the difference, with the published result."""
    figure, (rates, ranks, losses) = panels(3)
    searches = table[table["data"] == "published"].drop_duplicates("sampler")
    for optimizer in ("adam", "lrg_adam"):
        style = STYLES[optimizer]
        values = np.sort(searches[f"{optimizer}_lr"])
        share = np.arange(1, len(values) + 1) / len(values)
        rates.step(
            values,
            share,
            where="post",
            color=style["color"],
            linestyle=style["linestyle"],
            label=f"{style['label']}, {len(values)} samplers",
        )
        reported = REPORTED[f"{optimizer}_lr"]
        rates.plot(
            reported,
            (values <= reported).mean(),
            marker="*",
            markersize=14,
            linestyle="none",
            color=style["color"],
            label=f"{style['label']}, published",
        )
    rates.set(
        xscale="log",
        xlabel="best learning rate of a search",
        ylabel="share of samplers at or below",
        title="Learning rates that the protocol finds",
    )
    rates.legend(fontsize=8)
    counts = searches["lrg_adam_rank"].value_counts().sort_index()
    ranks.bar(counts.index, counts, color=STYLES["lrg_adam"]["color"], alpha=0.7)
    ranks.axvline(REPORTED["lrg_adam_rank"], color="black", linestyle=":", label="published")
    ranks.set(
        xlabel="best rank of a search", ylabel="samplers", title="Ranks that the protocol finds"
    )
    ranks.legend(fontsize=8)
    groups = list(table.groupby(["data", "training_samples"], sort=False))
    names = ("last_loss_nats", "best_loss_nats")
    ticks = []
    for i, ((data_set, samples), part) in enumerate(groups):
        for j, outcome in enumerate(names):
            difference = np.sort(part[f"lrg_adam_{outcome}"] - part[f"adam_{outcome}"])
            place = i * len(names) + j
            spread = np.linspace(-0.3, 0.3, len(difference))
            losses.plot(
                place + spread,
                difference,
                **SERIES[j] | {"linestyle": "none"},
                markersize=3.5,
                markerfacecolor="none",
            )
            interval = mean_interval(difference)
            losses.errorbar(
                place,
                interval.mean,
                yerr=interval.high - interval.mean,
                color="black",
                marker="_",
                markersize=16,
                capsize=4,
                zorder=3,
            )
            ticks.append(f"{'last' if j == 0 else 'best'}\nepoch,\n{samples}\n{data_set}")
    losses.axhline(0, color="0.4", linewidth=0.8)
    losses.set_xticks(range(len(ticks)), ticks, fontsize=8)
    losses.set(
        xlabel="training samples and where they come from",
        ylabel="LRG-Adam minus Adam, validation loss (nats)",
        title="Who wins depends on the measure\na point a sampler, in black mean and 95 % interval",
    )
    losses.grid(axis="x", visible=False)
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
            tables += [samplers(searches, data_set, n) for n in group[0].training_samples]
        table = pd.concat(tables, ignore_index=True)
        finite = np.isfinite(table.select_dtypes("number")).all(axis=1)
        if not finite.all():
            diverged = sorted(table.loc[~finite, "sampler"].unique().tolist())
            raise UserError(f"studies.published: final trainings diverged, of samplers {diverged}")
        files.write_csv(Path("metrics/studies/published.csv"), table)
        files.write_json(Path("metrics/studies/published.json"), summary(table, given.rank.high))
        files.write_figure(Path("plots/studies/published.png"), draw(table))
