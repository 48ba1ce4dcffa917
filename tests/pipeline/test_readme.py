"""The README says what the repository does: its numbers, parameters and stages."""

from __future__ import annotations

import json
import re
import sys

import pandas as pd
import pytest
import yaml
from project import ROOT, Project

README = (ROOT / "README.md").read_text()
MEASURES = {
    "test_loss": ("test loss", "{:.3f}", "{:+.3f}"),
    "test_accuracy": ("test accuracy", "{:.3f}", "{:+.3f}"),
    "best_validation_loss": ("validation loss at the best epoch", "{:.3f}", "{:+.3f}"),
    "train_loss": ("train loss", "{:.3f}", "{:+.3f}"),
}


def read(path: str) -> dict:
    return json.loads((ROOT / path).read_text())


def parameters() -> dict[str, object]:
    """Every key of the pipeline in params.yaml with its value, an interval being one value."""
    found: dict[str, object] = {}

    def walk(section: dict, prefix: str) -> None:
        for name, value in section.items():
            if isinstance(value, dict) and "low" not in value:
                walk(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    del params["studies"]  # explained where they stand
    walk(params, "")
    return found


def shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"{value['low']} to {value['high']}"
    return str(value)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_table_of_results_is_the_committed_one(measure: str) -> None:
    label, number, change = MEASURES[measure]
    found = read("metrics/comparison.json")[measure]
    cells = [
        label,
        number.format(found["adam"]),
        number.format(found["lrg_adam"]),
        change.format(found["difference"]),
        " to ".join(change.format(end) for end in found["interval_95"]),
        found["verdict"],
    ]
    assert f"| {' | '.join(cells)} |" in README


def test_the_tuned_parameters_are_the_committed_ones() -> None:
    adam, lrg_adam = (read(f"metrics/tune_{name}.json")["best"] for name in ("adam", "lrg_adam"))
    assert f"Adam at learning rate {adam['lr']:.2g}" in README
    assert f"LRG-Adam at learning rate {lrg_adam['lr']:.2g} and rank {lrg_adam['rank']}" in README
    assert f"{read('metrics/comparison.json')['pairs']} paired replicates" in README


def study(name: str, *, against: str) -> pd.DataFrame:
    table = pd.read_csv(ROOT / f"metrics/studies/{name}.csv")
    return table[(table["measure"] == "test_loss") & (table["against"] == against)]


def interval(row: pd.Series) -> str:
    return f"{row['interval_low']:+.3f} to {row['interval_high']:+.3f}"


def test_the_table_of_ranks_is_the_committed_one() -> None:
    accuracy = pd.read_csv(ROOT / "metrics/studies/rank_sweep.csv").query(
        "measure == 'test_accuracy'"
    )
    for _, row in study("rank_sweep", against="adam").iterrows():
        share = accuracy.loc[accuracy["arm"] == row["arm"], "mean"].item()
        cells = [
            f"{row['rank']:g}",
            f"{row['lr']:g}",
            f"{row['mean']:.3f}",
            f"{row['difference']:+.3f}",
            interval(row),
            f"{share:.3f}",
            row["verdict"],
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_the_table_of_controls_is_the_committed_one() -> None:
    for _, row in study("controls", against="rank_20").iterrows():
        cells = [row["label"], f"{row['difference']:+.3f}", interval(row), row["verdict"]]
        assert f"| {' | '.join(cells)} |" in README


def test_the_conclusion_is_the_computed_one() -> None:
    conclusion = read("metrics/conclusion.json")
    assert f"first broken link is **{conclusion['first_broken_link']}**" in README
    for name, link in conclusion["links"].items():
        (row,) = [line for line in README.splitlines() if line.startswith(f"| {name} |")]
        assert row.endswith(f"| {'yes' if link['holds'] else 'no'} |")
    comparison = read("metrics/comparison.json")
    del comparison["pairs"]
    verdicts = {value["verdict"] for value in comparison.values()}
    assert ("worse than Adam in every measure" in README) == (verdicts == {"worse"})


@pytest.mark.parametrize("key", parameters())
def test_the_table_of_parameters_is_complete(key: str) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{key}` |")]
    *_, default, reruns, _ = [cell.strip() for cell in row.split("|")]

    readers = [
        name.removesuffix("@adam").removesuffix("@lrg_adam")
        for name, stage in Project(ROOT).stages().items()
        if key in stage.get("params", [])
    ]
    assert default == f"`{shown(parameters()[key])}`"
    assert reruns == ", ".join(f"`{name}`" for name in dict.fromkeys(readers))


def test_the_graph_is_the_one_of_the_pipeline() -> None:
    graph = Project(ROOT).run(sys.executable, "-m", "dvc", "dag", "--md", "plot").stdout
    assert graph.strip() in README


def test_the_example_trains() -> None:
    (example,) = re.findall(r"```python\n(import torch\nfrom lrg_adam.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["loss"] < 0.5
