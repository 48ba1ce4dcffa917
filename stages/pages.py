"""Rewrite the tables on the pages from the committed files: python stages/pages.py.

A page marks a table with the call that prints it:

    <!-- [[[cog study("noise_dial") ]]] -->
    <!-- [[[end]]] -->

`python stages/pages.py --check` changes no page, and fails if one is out of date.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import networkx
import pandas as pd
import yaml
from cogapp import Cog
from dvc.repo import Repo
from dvc.repo.graph import build_graph

from experiment.report.measures import MEASURES
from experiment.report.statistics import mean_interval

PAGES = ("README.md", *(f"stages/{room}README.md" for room in ("", "studies/", "benchmark/")))
STUDIES = Path("metrics/studies")


def read(path: str) -> dict[str, Any]:
    """A committed file of JSON."""
    return json.loads(Path(path).read_text())


ARMS = yaml.safe_load(Path("stages/studies/arms.yaml").read_text())["arms"]
LABELS = {name: arm["label"] for name, arm in ARMS.items()}
STAGES = Repo().stage.load_all("dvc.yaml")  # those of a matrix one by one


class Interval(NamedTuple):
    """A number and the ends of its interval; a format is applied to each."""

    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        mean, low, high = (format(float(number), form) for number in self)
        return "" if math.isnan(self.mean) else f"{mean} ({low} to {high})"


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table in Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        print("|", " | ".join(map(str, cells)), "|")


def show(rows: str | list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Print a table of records, those of a file of JSON by `name`, with a format for each header.

    `X`, `X_low` and `X_high` become one Interval. A record that lacks a key is left out.
    """
    if not isinstance(rows, str):
        records = rows
    elif rows.endswith(".csv"):
        records = pd.read_csv(rows).to_dict("records")
    else:
        records = [{"name": name.replace("_", " "), **one} for name, one in read(rows).items()]
    cells = []
    for record in records:
        for name in [name for name in record if f"{name}_high" in record]:
            record[name] = Interval(*(record[f"{name}{end}"] for end in ("", "_low", "_high")))
        with suppress(KeyError):
            cells.append([form.format_map(record) for form in columns.values()])
    table(list(columns), cells)


def results() -> None:
    """The comparison of the main pipeline, with what the searches found."""
    adam, filtered = (read(f"metrics/tune_{name}.json")["best"] for name in ("adam", "lrg_adam"))
    replicates = read("metrics/comparison_details.json")["measures"][0]["replicates"]
    print(f"Adam at learning rate {adam['lr']:.2g}, LRG-Adam at {filtered['lr']:.2g} and rank")
    print(f"{filtered['rank']}, {replicates} paired replicates, losses in nats, 95 % intervals:\n")
    rows = []
    for name, one in read("metrics/comparison.json").items():
        better = "lower" if MEASURES[name].lower_is_better else "higher"
        measure = f"{MEASURES[name].label} ({better} is better)"
        difference = f"{Interval(one['difference'], *one['interval_95']):+.3f}"
        means = f"{one['adam']:.3f}", f"{one['lrg_adam']:.3f}"
        rows.append([measure, *means, difference, one["verdict"]])
    table(["measure", "Adam", "LRG-Adam", "LRG-Adam minus Adam", "verdict"], rows)


def study(name: str) -> None:
    """The arms of a study, each with those that it is compared with."""
    rows = []
    comparisons = pd.read_csv(STUDIES / f"{name}.csv").groupby(["arm", "against"], sort=False)
    for (_, base), one in comparisons:
        first = one.iloc[0]
        other = f"{first['lr_against']:g}{' (other grid)' if first.get('grids_differ') else ''}"
        cells = [first["label"], LABELS[base], f"{first['lr']:g}", other]
        for measure in ("test_loss_nats", "test_accuracy_share"):
            found = one.set_index("measure").loc[measure]
            difference = Interval(*found[["difference", "interval_low", "interval_high"]])
            cells.append(f"{difference:+.4f}, {found['verdict']}")
        equal = first[[f"difference_at_equal_lr{end}" for end in ("", "_low", "_high")]]
        rows.append([*cells, f"{Interval(*equal):+.4f}"])
    rates = ("rate of the arm", "of the other")
    differences = ("test loss (better below 0)", "test accuracy (better above 0)")
    table(["arm", "minus", *rates, *differences, "validation loss, both at the arm's rate"], rows)


def settings() -> dict[str, dict[str, Any]]:
    """The argument in every setting of metrics/conclusion.json."""
    found = read("metrics/conclusion.json")
    noisier = {name.replace("_", " "): found[name] for name in found if name.startswith("with_")}
    return {"as it is": found, **noisier}


def claims() -> None:
    """The state of every claim in every setting, and the first that breaks."""
    found = settings()
    rows = [
        [f"**{name}**", *(one["links"][name]["state"] for one in found.values())]
        for name in found["as it is"]["links"]
    ]
    broken = (one["first_broken_link"] or "none" for one in found.values())
    table(["claim", *found], [*rows, ["first that breaks", *broken]])


def evidence(setting: str) -> None:
    """What every claim rests on in one setting."""
    links = settings()[setting]["links"]
    hurts, cleaner, survives, pays = links.values()
    rank = pays["rank_chosen_on_validation"]

    def compared(one: dict[str, Any]) -> str:
        ends = Interval(one["difference_nats"], *one["interval_95_nats"])
        return f"{ends:+.4f}, {one['verdict']}"

    def along(link: dict[str, Any], unit: str, form: str) -> str:
        found = link["by_rank"].get(str(rank), {"along": {}})["along"]  # not of every rank
        return "; ".join(
            f"rank {rank} along {LABELS[arm]}: "
            f"{Interval(one[f'mean_{unit}'], *one[f'interval_95_{unit}']):{form}}"
            for arm, one in found.items()
        )

    less_noise = hurts["less_noise_minus_adam"].items()
    cells = (
        "; ".join(f"{LABELS[arm]}: {compared(one)}" for arm, one in less_noise),
        along(cleaner, "cosine", "+.5f"),
        along(survives, "nats", "+.6f"),
        f"rank {rank}: {compared(pays)}",
    )
    found = zip(links.items(), cells, strict=True)
    rows = ([f"**{name}**", cell, link["state"]] for (name, link), cell in found)
    table(["claim", "evidence", "state"], rows)


def looks(arms: list[str], ranks: list[int], epochs: str) -> list[dict[str, Any]]:
    """The quantities measured along trajectories, one record per arm, rank and epoch."""
    records = []
    for arm, rank, epoch in product(arms, ranks, epochs.split()):
        found = pd.read_csv(STUDIES / "gradients" / f"{arm}.csv").set_index("quantity")
        found = found[(found["rank"] == rank) & (found["epoch"] == epoch)]
        intervals = map(Interval, found["mean"], found["low"], found["high"])
        where = {"trajectory": LABELS[arm], "rank": rank, "epoch": epoch}
        records.append(where | dict(zip(found.index, intervals, strict=True)))
    return records


def search_gap() -> None:
    """How the difference of the searches falls with their trials."""
    best = pd.read_csv(STUDIES / "search_budget.csv").pivot(
        index="sampler", columns=["optimizer", "trial"], values="best_so_far_nats"
    )
    gap = best["lrg_adam"] - best["adam"]
    few, *_, many = (int(name.split("_")[0]) for name in read(f"{STUDIES}/search_budget.json"))
    fall = Interval(*map(float, mean_interval(gap[few - 1] - gap[many - 1])))
    place = f"number {gap[few - 1].rank()[0]:.0f} of {len(gap)} from the smallest"
    print(f"After {few} trials the difference is {gap.loc[0, few - 1]:+.3f} in the main result's")
    print(f"search, {place}. From {few} trials to {many} the mean difference")
    print(f"falls by {fall:.3f}.")


def steps(column: str, form: str) -> None:
    """One number of every step in the benchmark, by the side of the matrix and models stacked."""
    found = pd.DataFrame(read("metrics/benchmark.json")["steps"]).query("rank == 20")
    numbers = found.pivot(index="method", columns=["side", "models"], values=column)
    numbers = numbers.loc[found["method"].unique()].dropna(how="all").clip(lower=0)
    header = (f"n = {n:,}" + f", {models} stacked" * (models > 1) for n, models in numbers)
    rows = numbers.map(lambda number: "" if math.isnan(number) else format(number, form))
    table(["step", *header], rows.itertuples())


def graph() -> None:
    """What follows from what in the main pipeline, without what other arrows imply."""
    print("```mermaid\nflowchart LR")
    edges = networkx.transitive_reduction(build_graph(STAGES)).edges
    for edge in sorted((first.addressing, then.addressing) for then, first in edges):
        print("  " + " --> ".join(f'{name.replace("@", "_")}["{name}"]' for name in edge))
    print("```")


def stage_table() -> None:
    """What the stages of the main pipeline do and write."""
    rows = (
        [f"`{one.addressing}`", one.desc, ", ".join(f"`{out.def_path}`" for out in one.outs)]
        for one in STAGES
    )
    table(["stage", "what it does", "writes"], rows)


def parameters() -> None:
    """The parameters with the comments in params.yaml, and the stages that read them."""
    source = Path("params.yaml").read_text()
    path: list[str] = []
    text = ""
    rows: list[list[str]] = []
    keys = re.findall(r"^((?: *#.*\n)*)( *)(\w+):", source, re.MULTILINE)
    for comment, indent, key in keys:
        path = [*path[: len(indent) // 2], key]
        text = " ".join(re.findall("# (.*)", comment)) or text  # that of a section is its keys'
        value = reduce(getitem, path, yaml.safe_load(source))
        if not isinstance(value, dict):
            name = ".".join(path)
            readers = dict.fromkeys(
                f"`{stage.addressing.partition('@')[0]}`"
                for stage in STAGES
                for dependency in stage.deps
                for read_key in getattr(dependency, "params", [])
                if f"{name}.".startswith(f"{read_key}.")
            )
            rows.append([f"`{name}`", text, f"`{value}`".lower(), ", ".join(readers)])
            text = "as above"
    table(["parameter", "meaning and range", "default", "read by"], rows)


if __name__ == "__main__":
    options = ["-I", "stages", "-P", "-p", "from pages import *", *(sys.argv[1:] or ["-r"])]
    sys.exit(Cog().main(["cog", *options, *PAGES]))
