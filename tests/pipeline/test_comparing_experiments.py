"""What `dvc plots diff`, `dvc metrics diff` and `dvc exp show` say of two experiments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import vl_convert
import yaml
from project import ROOT, Project, leaves

CURVES = {
    "Validation loss": ("epoch", "validation_loss_nats"),
    "Validation accuracy": ("epoch", "validation_accuracy_share"),
    "Tuning progress": ("trial", "best_so_far_nats"),
}
FILES = {
    "Validation loss": ("adam.json", "lrg_adam.json"),
    "Validation accuracy": ("adam.json", "lrg_adam.json"),
    "Tuning progress": ("tune_adam.json", "tune_lrg_adam.json"),
}
README = (ROOT / "README.md").read_text()
REVISIONS = {"HEAD", "rank-10"}


@pytest.fixture(scope="module")
def experiment(at_10: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    # What shows plots writes them into the project.
    return at_10.copy(tmp_path_factory.mktemp("experiment") / "project")


@pytest.fixture(scope="module")
def plots(experiment: Project) -> dict[str, Any]:
    return json.loads(experiment.dvc("plots", "diff", "HEAD", "rank-10", "--json").stdout)["data"]


def specification(plots: Mapping[str, Any], title: str) -> dict[str, Any]:
    (plot,) = plots[title]
    return plot["content"]


@pytest.mark.parametrize("title", CURVES)
def test_a_chart_tells_revisions_and_optimizers_apart(plots: dict[str, Any], title: str) -> None:
    chart = specification(plots, title)

    x, y = CURVES[title]
    rows = chart["data"]["values"]
    assert {(row["rev"], row["filename"]) for row in rows} == {
        (revision, name) for revision in REVISIONS for name in FILES[title]
    }
    assert all(row[x] is not None and row[y] is not None for row in rows)
    text = json.dumps(chart)
    assert f'"field": "{x}"' in text
    assert f'"field": "{y}"' in text
    assert vl_convert.vegalite_to_png(chart).startswith(b"\x89PNG")


def test_the_ranks_searched_are_drawn_for_both_revisions(plots: dict[str, Any]) -> None:
    chart = specification(plots, "Rank searched")

    ranks = {
        revision: {row["rank"] for row in chart["data"]["values"] if row["rev"] == revision}
        for revision in REVISIONS
    }
    assert ranks["rank-10"] == {10}
    assert len(ranks["HEAD"]) > 1
    assert vl_convert.vegalite_to_png(chart).startswith(b"\x89PNG")


def test_everything_is_drawn_once_for_both_revisions(plots: dict[str, Any]) -> None:
    figures = {"plots/convergence_comparison.png", "plots/tuning.png"}
    assert set(plots) == {*CURVES, "Rank searched", *figures}
    for name in figures:
        assert {image["revisions"][0] for image in plots[name]} == REVISIONS


def test_no_metric_is_named_like_a_parameter(experiment: Project) -> None:
    metrics = json.loads(experiment.dvc("metrics", "show", "--json").stdout)[""]["data"]

    names = {name for found in metrics.values() for name in leaves(found["data"])}
    assert names
    params = yaml.safe_load((experiment.folder / "params.yaml").read_text())
    assert not names & set(leaves(params))


def test_metrics_diff_lists_what_the_rank_changed(experiment: Project) -> None:
    changed = json.loads(experiment.dvc("metrics", "diff", "--json", "HEAD", "rank-10").stdout)

    assert set(changed) == {"metrics/comparison.json", "metrics/tune_lrg_adam.json"}
    assert changed["metrics/tune_lrg_adam.json"]["best.rank"]["new"] == 10


@pytest.mark.parametrize("command", re.findall(r"dvc exp show .*", README) or ["missing"])
def test_the_table_of_experiments_on_the_front_page_is_narrow_and_names_each(
    experiment: Project, command: str
) -> None:
    header, *rows = experiment.shell(command).stdout.splitlines()[1:]

    assert {"Experiment", "rank", "test_loss_nats.difference"} <= set(header.split())
    (row,) = [row for row in rows if "[rank-10]" in row]
    assert "10" in row.split()
    assert max(map(len, [header, *rows])) <= 92
