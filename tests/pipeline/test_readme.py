"""The README says what the repository does: its numbers, parameters and stages."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence

import pandas as pd
import pytest
import yaml
from project import ROOT, Project

README = (ROOT / "README.md").read_text()
TEXT = " ".join(README.split())
MEASURES = {
    "test_loss_nats": ("test loss", "{:.3f}", "{:+.3f}"),
    "test_accuracy_share": ("test accuracy", "{:.3f}", "{:+.3f}"),
    "best_validation_loss_nats": ("validation loss at the best epoch", "{:.3f}", "{:+.3f}"),
    "train_loss_nats": ("train loss", "{:.3f}", "{:+.3f}"),
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
    return table[(table["measure"] == "test_loss_nats") & (table["against"] == against)]


def difference(row: pd.Series, digits: int = 3) -> list[str]:
    """The cells for a comparison: difference, interval, verdict."""
    value, low, high = (
        f"{row[name]:+.{digits}f}" for name in ("difference", "interval_low", "interval_high")
    )
    return [value, f"{low} to {high}", row["verdict"]]


def test_the_table_of_ranks_is_the_committed_one() -> None:
    accuracy = pd.read_csv(ROOT / "metrics/studies/rank_sweep.csv").query(
        "measure == 'test_accuracy_share'"
    )
    for _, row in study("rank_sweep", against="adam").iterrows():
        share = accuracy.loc[accuracy["arm"] == row["arm"], "mean"].item()
        cells = [
            f"{row['rank']:g}",
            f"{row['lr']:g}",
            f"{row['mean']:.3f}",
            *difference(row)[:2],
            f"{share:.3f}",
            row["verdict"],
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_the_table_of_controls_is_the_committed_one() -> None:
    with_adam = study("controls", against="adam").set_index("arm")
    for _, row in study("controls", against="rank_20").iterrows():
        cells = [row["label"], *difference(row), *difference(with_adam.loc[row["arm"]])]
        assert f"| {' | '.join(cells)} |" in README


def spread(value: float, ends: Sequence[float], digits: int) -> str:
    """A number with its interval, as the README writes it."""
    return f"{value:+.{digits}f} ({ends[0]:+.{digits}f} to {ends[1]:+.{digits}f})"


@pytest.mark.parametrize(
    ("name", "digits"), [("noise_dial", 3), ("elsewhere", 4), ("approximate", 3)]
)
def test_the_other_tables_of_studies_are_the_committed_ones(name: str, digits: int) -> None:
    table = pd.read_csv(ROOT / f"metrics/studies/{name}.csv").query("measure == 'test_loss_nats'")
    for _, row in table.iterrows():
        assert f"| {' | '.join([row['label'], *difference(row, digits)])} |" in README


@pytest.mark.parametrize(
    ("name", "arm", "against", "measure"),
    [
        ("controls", "permuted", "adam", "test_accuracy_share"),
        ("controls", "random_energy", "adam", "test_accuracy_share"),
        ("elsewhere", "cnn_rank_49", "cnn_adam", "best_validation_loss_nats"),
        ("approximate", "uncertified", "rank_20", "test_loss_nats"),
        ("approximate", "uncertified", "rank_20", "train_loss_nats"),
    ],
)
def test_differences_at_equal_rates_are_what_was_found(
    name: str, arm: str, against: str, measure: str
) -> None:
    table = pd.read_csv(ROOT / f"metrics/studies/{name}.csv")
    row = table.set_index(["arm", "against", "measure"]).loc[(arm, against, measure)]
    column = "difference_at_equal_lr"
    assert spread(row[column], [row[f"{column}_low"], row[f"{column}_high"]], 3) in TEXT


def test_what_another_rate_does_to_adam_is_what_was_found() -> None:
    mean = pd.read_csv(ROOT / "metrics/studies/tuning/adam.csv").groupby("lr").mean()
    change = mean.loc[0.0017] - mean.loc[0.0012]
    assert f"train loss falls by {-change['train_loss_nats']:.2f} and its" in TEXT
    assert f"accuracy rises by {change['validation_accuracy_share']:.3f}." in TEXT
    assert f"at 0.0025 Adam's train loss ends at {mean.loc[0.0025, 'train_loss_nats']:.2f} " in TEXT


def test_shuffled_pixels_take_away_what_was_found() -> None:
    before = study("rank_sweep", against="adam").set_index("arm").loc["rank_20", "difference"]
    now = study("elsewhere", against="shuffled_adam").set_index("arm")
    after = now.loc["shuffled_rank_20", "difference"]
    assert f"rank 20's deficit, {before:+.3f} in test loss before and {after:+.3f} now." in TEXT


def test_what_filtering_acts_like_is_what_was_found() -> None:
    table = pd.read_csv(ROOT / "metrics/studies/learning_rate.csv").set_index("arm")
    width = table["width_decades"]
    assert f"{width['rank_20']:.2f} decades against Adam's {width['adam']:.2f}." in TEXT
    lowest = table["validation_loss_nats"]
    assert f"validation loss below {lowest['rank_20']:.3f}, Adam's lowest" in TEXT
    assert f"Adam's lowest being {lowest['adam']:.3f}." in TEXT
    for prefix in ("tuned_", ""):
        name = f"{prefix}adams_lr_ratio_for_equal_train_loss"
        ratio, low, high = table.loc["rank_20", [name, f"{name}_low", f"{name}_high"]]
        assert f"{ratio:.2f} ({low:.2f} to {high:.2f}) times" in TEXT
    ends = table.loc[["adam", "rank_20"], ["best_lr_low", "best_lr_high"]].to_numpy().ravel()
    assert (
        "Adam's best lies between {:g} and {:g}, that of rank 20 between {:g} and {:g} ".format(
            *ends
        )
        in TEXT
    )
    for rank in (1, 2, 5, 10, 20, 40, 80):
        row, cells = table.loc[f"rank_{rank}"], [str(rank)]
        for prefix in ("", "tuned_"):
            gain = f"{prefix}validation_loss_nats_minus_adam_at_equal_train_loss"
            ends = row[[f"{gain}_low", f"{gain}_high"]]
            found = row[gain]
            cells.append(spread(found, list(ends), 3))
        assert f"| {' | '.join(cells)} |" in README


def test_what_becomes_of_gradients_is_what_was_found() -> None:
    looks = [ROOT / f"metrics/studies/gradients/{arm}.csv" for arm in ("adam", "rank_20")]
    table = pd.concat(map(pd.read_csv, looks)).query("epoch == 'all' & rank == 20")
    found = table.set_index(["quantity", "trajectory"])["mean"]
    for quantity, number in {
        "energy": "{:.3f}",
        "energy_permuted": "{:.3f}",
        "cosine_permuted": "{:.3f}",
        "cosine_fresh": "{:.4f}",
        "retention_fresh": "{:+.3f}",
        "step_leak": "{:.4f}",
        "step_leak_adam": "{:.5f}",
        "step_loss_fresh": "{:.4f}",
        "step_loss_train": "{:.4f}",
    }.items():
        pair = (number.format(found[quantity, along]) for along in ("adam", "rank_20"))
        assert " and ".join(pair) in TEXT
    noise = table.set_index("quantity").loc["energy", "energy_of_pure_noise_share"].iloc[0]
    assert f"of pure noise {noise:.3f}" in TEXT
    alone = (f"{1 - found['energy', along] ** 0.5:+.3f}" for along in ("adam", "rank_20"))
    assert f"took noise alone would be at {' and '.join(alone)}." in TEXT
    gain = study("controls", against="rank_20").set_index("arm").loc["permuted", "difference"]
    assert f"permuted one trains better, by {-gain:.3f} in test loss" in TEXT


@pytest.mark.parametrize("hyperparameters", [("found", "searched"), ("published", "reported")])
@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("2000", "published_2000_training_samples"),
        ("4000", "published_4000_training_samples"),
        ("1600 generated", "offline_1600_training_samples"),
    ],
)
def test_the_table_of_the_published_protocol_is_the_committed_one(
    label: str, key: str, hyperparameters: tuple[str, str]
) -> None:
    row = read("metrics/studies/published.json")[f"{key}_{hyperparameters[1]}"]
    cells = [f"{label}, {hyperparameters[0]}"]
    for outcome, digits in (
        ("last_loss_nats", 2),
        ("best_loss_nats", 3),
        ("last_accuracy_share", 3),
    ):
        ends = [row[f"{outcome}_difference_{end}"] for end in ("low", "high")]
        lower = round(row[f"{outcome}_lrg_adam_lower_share"] * row["samplers"])
        value = spread(row[f"{outcome}_difference"], ends, digits)
        cells.append(f"{value}, {lower} of {row['samplers']}")
    assert f"| {' | '.join(cells)} |" in README


def test_where_the_published_result_lies_is_what_was_found() -> None:
    found = read("metrics/studies/published.json")
    sizes = [row["samplers"] for row in found.values()]
    lower = [row["last_loss_nats_lrg_adam_lower_share"] for row in found.values()]
    pairs = sum(round(share * size) for share, size in zip(lower, sizes, strict=True))
    assert f"in {pairs} of the {sum(sizes)} pairs of final trainings Adam's last loss" in TEXT
    counts = [
        round(found[f"{data}_searched"][f"{optimizer}_lr_share_at_most_reported"] * sizes[0])
        for data in ("published_2000_training_samples", "offline_1600_training_samples")
        for optimizer in ("adam", "lrg_adam")
    ]
    assert (
        "Adam's 0.0059 is at or above those of {} of 16 searches, LRG-Adam's 0.0064 at or above "
        "{}; on the generated samples {} and {}.".format(*counts)
    ) in TEXT
    searched = found["published_2000_training_samples_searched"]
    highest = round(searched["highest_rank_share"] * sizes[0])
    assert f"{highest} of {sizes[0]} find it, and the median is " in TEXT
    assert f"the median is {searched['lrg_adam_rank_median']:g}." in TEXT


def test_how_soon_losses_are_reached_is_what_was_found() -> None:
    *sooner, last = read("metrics/comparison_details.json")["epochs_to_target"]
    epochs = [-target["difference_epochs"]["mean_difference"] for target in sooner]
    assert {target["difference_epochs"]["verdict_holm"] for target in sooner} == {"better"}
    assert f"by {min(epochs):.1f} to {max(epochs):.1f} epochs" in TEXT
    shares = (100 * last[f"{optimizer}_share_reaching"] for optimizer in ("lrg_adam", "adam"))
    assert "{:.0f} % of the replicates against {:.0f} %".format(*shares) in TEXT


# Columns of the README's table of costs: side, models, and the field of metrics/benchmark.json.
COSTS = (
    (119, 16, "milliseconds_per_model", "{:.2f}"),
    (1000, 1, "milliseconds_per_model", "{:.3g}"),
    (10_000, 1, "milliseconds_per_model", "{:.4g}"),
    (1000, 1, "excess_error", "{:z.1%}"),
    (1000, 1, "peak_memory_in_gradients", "{:.1f}"),
)


def test_the_table_of_costs_is_the_committed_one() -> None:
    steps = pd.DataFrame(read("metrics/benchmark.json")["steps"]).query("rank == 20")
    for method, rows in steps.groupby("method"):
        cells = []
        for side, models, field, number in COSTS:
            found = rows.query(f"side == {side} and models == {models}")[field].dropna()
            cells.append(number.format(found.item()) if len(found) else "")
        (row,) = [line for line in README.splitlines() if line.startswith(f"| {method} |")]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == cells


def test_what_a_training_step_takes_is_what_was_measured() -> None:
    found = read("metrics/benchmark.json")
    steps = pd.DataFrame(found["training_steps"]).query("rank == 20").set_index("method")
    gram, subspace, certified, svd = (
        f"{steps.loc[method, 'ratio_to_fused_adam']:.1f} times"
        for method in ("gram", "subspace", "subspace, certified to 1 %", "svd")
    )
    assert f"takes {gram} as long as with fused Adam with `gram`, {subspace} with `sub" in TEXT
    assert f"{certified} with the certificate, and {svd} with a full SVD" in TEXT
    assert f"parameters to the power {found['growth_exponents']['subspace']:.2f}." in TEXT


def test_what_processes_bring_is_what_was_measured() -> None:
    found = read("metrics/benchmark_pipeline.json")
    assert f"with {found['parameters']['training']['epochs']} epochs each" in TEXT
    assert f"two processes took {found['two_processes_seconds']:.0f} s" in TEXT
    assert f"and one {found['two_processes_speed_up_ratio']:.2f} times as long" in TEXT
    assert f"took {found['dask_to_processes_time_ratio']:.2f} times as long as two" in TEXT
    assert f"{found['first_piece_after_kill_seconds']:.1f} s after the restart" in TEXT
    assert f"{found['first_piece_of_a_fresh_run_seconds']:.1f} s in a fresh run" in TEXT


def test_what_stacking_brings_is_what_was_measured() -> None:
    found = read("metrics/throughput.json")
    adam, lrg_adam = found["adam"], found["lrg_adam"]
    assert f"with {found['models_a_process']} each" in TEXT
    assert f"take {adam['replicate_steps_per_second']:.0f} steps of a replicate" in TEXT
    assert f"and {lrg_adam['replicate_steps_per_second']:.0f} with LRG-Adam" in TEXT
    assert f"{adam['ratio']:.1f} and {lrg_adam['ratio']:.1f} times as many" in TEXT


def test_the_conclusion_is_the_computed_one() -> None:
    conclusion = read("metrics/conclusion.json")
    links = conclusion["links"]
    assert f"first broken link is **{conclusion['first_broken_link']}**" in README
    less = links["noise hurts"]["less_noise_minus_adam"]
    cleaner, survives, pays = (links[name]["closest"] for name in list(links)[1:])
    evidence = {
        "noise hurts": [
            spread(found["difference_nats"], found["interval_95_nats"], 3)
            for found in less.values()
        ],
        "the top subspace is cleaner": [
            spread(cleaner["mean_cosine"], cleaner["interval_95_cosine"], 5)
        ],
        "cleaner survives Adam": [spread(survives["mean_nats"], survives["interval_95_nats"], 6)],
        "it pays": [spread(pays["difference_nats"], pays["interval_95_nats"], 4)],
    }
    for name, link in links.items():
        (row,) = [line for line in README.splitlines() if line.startswith(f"| {name} |")]
        assert row.endswith(f"| {link['state']} |")
        assert all(numbers in row for numbers in evidence[name])
        if "closest" in link:
            assert f"rank ({link['closest']['rank']})" in row
    assert ("no best lies at the end of its grid" in TEXT) == (not conclusion["lr_on_boundary"])


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
