"""The numbers on the pages are those of the committed results, each on the page where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
import pytest
import yaml
from project import ARMS, ROOT

from experiment.report.statistics import mean_interval
from studies.training.arms import STUDIES as STUDIES_OF_ARMS

from .pages import BENCHMARK, FRONT, STUDIES, Page

MEASURES = {
    "test_loss_nats": ("test loss", "{:.3f}", "{:+.3f}"),
    "test_accuracy_share": ("test accuracy", "{:.3f}", "{:+.3f}"),
    "best_validation_loss_nats": ("validation loss at the best epoch", "{:.3f}", "{:+.3f}"),
    "train_loss_nats": ("train loss", "{:.3f}", "{:+.3f}"),
}


def read(path: str) -> dict:
    return json.loads((ROOT / path).read_text())


def table(path: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / path)


def of_study(name: str, *, against: str) -> pd.DataFrame:
    found = table(f"metrics/studies/{name}.csv")
    return found[(found["measure"] == "test_loss_nats") & (found["against"] == against)]


def over_epochs(arm: str, quantity: str) -> pd.DataFrame:
    """A quantity along the trajectory of an arm, averaged over epochs, one row per rank."""
    found = table(f"metrics/studies/gradients/{arm}.csv")
    return found[(found["epoch"] == "all") & (found["quantity"] == quantity)]


def row(page: Page, cells: Sequence[str]) -> bool:
    """Whether a table on the page has this row."""
    return f"| {' | '.join(cells)} |" in page.lines


def difference(found: pd.Series, digits: int = 3) -> list[str]:
    """The cells for a comparison: difference, interval, verdict."""
    value, low, high = (
        f"{found[name]:+.{digits}f}" for name in ("difference", "interval_low", "interval_high")
    )
    return [value, f"{low} to {high}", found["verdict"]]


def spread(value: float, ends: Sequence[float], digits: int) -> str:
    """A number with its interval, as the pages write it."""
    return f"{value:+.{digits}f} ({ends[0]:+.{digits}f} to {ends[1]:+.{digits}f})"


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
    assert row(FRONT, cells)


def test_the_tuned_parameters_are_the_committed_ones() -> None:
    searches = [read(f"metrics/tune_{name}.json") for name in ("adam", "lrg_adam")]
    adam, lrg_adam = (search["best"] for search in searches)
    assert f"Adam at learning rate {adam['lr']:.2g} and" in FRONT.text
    best = f"LRG-Adam at learning rate {lrg_adam['lr']:.2g} and rank {lrg_adam['rank']}"
    assert f"{best}, on MNIST-1D" in FRONT.text
    assert {len(search["trials"]) for search in searches} == {15}
    assert "Each was tuned in 15 trials." in FRONT.text
    pairs = {
        len(read(f"metrics/{name}.json")["replicates"]["replicate"])
        for name in ("adam", "lrg_adam")
    }
    assert f"{pairs.pop()} paired replicates" in FRONT.text
    assert lrg_adam["lr"] > 2 * adam["lr"]
    assert "Its learning rate is more than twice Adam's" in FRONT.text


def test_how_soon_losses_are_reached_is_what_was_found() -> None:
    *sooner, last = read("metrics/comparison_details.json")["epochs_to_target"]
    epochs = [-target["difference_epochs"]["mean_difference"] for target in sooner]
    assert {target["difference_epochs"]["verdict_holm"] for target in sooner} == {"better"}
    losses = [target["target_validation_loss_nats"] for target in sooner]
    assert f"a validation loss of {losses[0]} to {losses[-1]} sooner, by {min(epochs):.1f} to" in (
        FRONT.text
    )
    assert f"by {min(epochs):.1f} to {max(epochs):.1f} epochs" in FRONT.text
    shares = (100 * last[f"{optimizer}_share_reaching"] for optimizer in ("lrg_adam", "adam"))
    assert f"LRG-Adam reaches a loss of {last['target_validation_loss_nats']} later and" in (
        FRONT.text
    )
    assert last["lrg_adam_mean_epochs"] > last["adam_mean_epochs"]
    assert "{:.0f} % of the replicates against {:.0f} % for Adam".format(*shares) in FRONT.text


def test_the_plan_of_the_studies_is_that_of_their_arms() -> None:
    content = yaml.safe_load((ROOT / ARMS).read_text())
    count = sum(len(content[study]) for study in STUDIES_OF_ARMS)
    seeds, tuning = (content["defaults"][name] for name in ("replicates", "tuning_replicates"))
    assert f"in {count} arms of {seeds} paired replicates:" in FRONT.text
    assert f"a mean over {tuning} seeds" in STUDIES.text
    assert f"trained with {seeds} other seeds" in STUDIES.text
    rates = {
        len(arm["train"]["lrs"])
        for name, arm in content["rank_sweep"].items()
        if name.startswith("rank_")
    }
    assert rates == {10}
    assert "The grid has 14 rates for Adam, 10 for the ranks of the section Rank," in STUDIES.text


def test_the_table_of_ranks_is_the_committed_one() -> None:
    accuracy = table("metrics/studies/rank_sweep.csv").query("measure == 'test_accuracy_share'")
    for _, found in of_study("rank_sweep", against="adam").iterrows():
        share = accuracy.loc[accuracy["arm"] == found["arm"], "mean"].item()
        cells = [
            f"{found['rank']:g}",
            f"{found['lr']:g}",
            f"{found['mean']:.3f}",
            *difference(found)[:2],
            f"{share:.3f}",
            found["verdict"],
        ]
        assert row(STUDIES, cells)


def test_what_is_said_of_ranks_is_what_was_found() -> None:
    found = table("metrics/studies/rank_sweep.csv").query("against == 'adam'")
    verdicts = found.pivot(index="rank", columns="measure", values="verdict")
    assert set(verdicts.columns) == set(MEASURES)
    assert set(verdicts.loc[:20].to_numpy().ravel()) == {"worse"}
    assert set(verdicts.loc[40]) == {"inconclusive"}
    higher = found.query("rank == 80 & measure == 'train_loss_nats'").squeeze()
    assert dict(verdicts.loc[80]) == {
        "test_loss_nats": "equivalent",
        "best_validation_loss_nats": "equivalent",
        "test_accuracy_share": "inconclusive",
        "train_loss_nats": "worse",
    }
    assert "better" not in verdicts.to_numpy()
    assert (
        "Rank 80 of 119 is equivalent to Adam in test loss and the best validation loss, and und"
        in (STUDIES.text)
    )
    assert f"its train loss is higher by {higher['difference']:.3f}." in STUDIES.text
    assert "Rank 40 is undecided in every measure. Ranks of 20 and less are worse in every" in (
        STUDIES.text
    )
    assert (
        "Ranks of 20 and less are worse than Adam in every measure. Rank 80 of 119 is equivalent "
        "to Adam in test loss, and no rank is better."
    ) in FRONT.text


def test_the_table_of_controls_is_the_committed_one() -> None:
    with_adam = of_study("controls", against="adam").set_index("arm")
    for _, found in of_study("controls", against="rank_20").iterrows():
        cells = [found["label"], *difference(found), *difference(with_adam.loc[found["arm"]])]
        assert row(STUDIES, cells)


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("noise_dial", 3),
        ("elsewhere", 4),
        ("flipped_labels", 3),
        ("approximate", 3),
        ("yardstick", 3),
    ],
)
def test_the_other_tables_of_studies_are_the_committed_ones(name: str, digits: int) -> None:
    rows = table(f"metrics/studies/{name}.csv").query("measure == 'test_loss_nats'")
    for _, found in rows.iterrows():
        assert row(STUDIES, [found["label"], *difference(found, digits)])


@pytest.mark.parametrize(
    ("name", "arm", "against", "measure"),
    [
        ("controls", "permuted", "adam", "test_accuracy_share"),
        ("controls", "random_energy", "adam", "test_accuracy_share"),
    ],
)
def test_differences_at_equal_rates_are_what_was_found(
    name: str, arm: str, against: str, measure: str
) -> None:
    rows = table(f"metrics/studies/{name}.csv").set_index(["arm", "against", "measure"])
    found = rows.loc[(arm, against, measure)]
    column = "difference_at_equal_lr"
    ends = [found[f"{column}_low"], found[f"{column}_high"]]
    assert spread(found[column], ends, 3) in STUDIES.text


def verdicts_by_measure(study: str, arm: str) -> dict[str, str]:
    rows = table(f"metrics/studies/{study}.csv").groupby("arm").get_group(arm)
    return dict(zip(rows["measure"], rows["verdict"], strict=True))


def test_what_is_said_of_the_cnn_is_what_was_found() -> None:
    low, high = (verdicts_by_measure("elsewhere", f"cnn_rank_{rank}") for rank in (12, 49))
    assert {measure for measure, verdict in low.items() if verdict == "worse"} == {
        "test_accuracy_share",
        "best_validation_loss_nats",
        "train_loss_nats",
    }
    assert set(high.values()) == {low["test_loss_nats"]} == {"inconclusive"}
    assert "Rank 12 is worse in accuracy, at the best epoch and in train loss; rank 49 is und" in (
        STUDIES.text
    )


def test_what_is_said_of_subspace_iteration_is_what_was_found() -> None:
    assert set(verdicts_by_measure("approximate", "certified").values()) == {"equivalent"}
    assert verdicts_by_measure("approximate", "uncertified") == {
        "test_loss_nats": "equivalent",
        "best_validation_loss_nats": "equivalent",
        "test_accuracy_share": "worse",
        "train_loss_nats": "worse",
    }
    rows = table("metrics/studies/approximate.csv").set_index(["arm", "measure"])
    train = rows.loc[("uncertified", "train_loss_nats")]
    assert train["lr"] == train["lr_against"]
    assert f"its train loss ends higher by {train['difference']:.3f}, at the same" in STUDIES.text


def test_what_another_rate_does_to_adam_is_what_was_found() -> None:
    mean = pd.DataFrame(read("metrics/studies/arms/adam.json")["tuning"]).groupby("lr").mean()
    change = mean.loc[0.0017] - mean.loc[0.0012]
    fall, rise = -change["train_loss_nats"], change["validation_accuracy_share"]
    assert f"from 0.0012 to 0.0017 Adam's train loss falls by {fall:.2f} and its" in STUDIES.text
    assert f"accuracy rises by {rise:.3f}." in STUDIES.text
    loss = mean.loc[0.0025, "train_loss_nats"]
    assert f"at 0.0025 Adam's own train loss ends at {loss:.2f}." in FRONT.text


def test_shuffled_pixels_take_away_what_was_found() -> None:
    before = of_study("rank_sweep", against="adam").set_index("arm").loc["rank_20", "difference"]
    now = of_study("elsewhere", against="shuffled_adam").set_index("arm")
    after = now.loc["shuffled_rank_20", "difference"]
    assert f"rank 20's deficit in test loss, {before:+.3f} before and {after:+.3f} after." in (
        STUDIES.text
    )


def test_what_filtering_acts_like_is_what_was_found() -> None:
    found = table("metrics/studies/learning_rate.csv").set_index("arm")
    width = found["width_decades"]
    assert (
        f"Rank 20's loss stays within 5 % of its lowest over {width['rank_20']:.2f} decades of the "
        f"learning rate, and Adam's over {width['adam']:.2f}."
    ) in STUDIES.text
    lowest = found["validation_loss_nats"]
    assert (
        f"the lowest validation loss over all rates is {lowest['rank_20']:.3f} for rank 20 and "
        f"{lowest['adam']:.3f} for Adam."
    ) in STUDIES.text
    for prefix in ("tuned_", ""):
        name = f"{prefix}adams_lr_ratio_for_equal_train_loss"
        ratio, low, high = found.loc["rank_20", [name, f"{name}_low", f"{name}_high"]]
        assert f"{ratio:.2f} ({low:.2f} to {high:.2f}) times" in STUDIES.text
    ends = found.loc[["adam", "rank_20"], ["best_lr_low", "best_lr_high"]].to_numpy().ravel()
    assert (
        "Adam's best rate lies between {:g} and {:g}, and that of rank 20 between {:g} and {:g} "
    ).format(*ends) in STUDIES.text
    for rank in (1, 2, 5, 10, 20, 40, 80):
        of_rank, cells = found.loc[f"rank_{rank}"], [str(rank)]
        for prefix in ("", "tuned_"):
            gain = f"{prefix}validation_loss_nats_minus_adam_at_equal_train_loss"
            ends = of_rank[[f"{gain}_low", f"{gain}_high"]]
            cells.append(spread(of_rank[gain], list(ends), 3))
        assert row(STUDIES, cells)


def test_what_becomes_of_gradients_is_what_was_found() -> None:
    looks = [table(f"metrics/studies/gradients/{arm}.csv") for arm in ("adam", "rank_20")]
    rows = pd.concat(looks).query("epoch == 'all' & rank == 20")
    found = rows.set_index(["quantity", "trajectory"])["mean"]
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
        assert " and ".join(pair) in STUDIES.text
    noise = rows.set_index("quantity").loc["energy", "energy_of_pure_noise_share"].iloc[0]
    assert f"and {noise:.3f} for pure noise." in STUDIES.text
    alone = (f"{1 - found['energy', along] ** 0.5:+.3f}" for along in ("adam", "rank_20"))
    assert f"removed noise alone would reach {' and '.join(alone)}." in STUDIES.text
    gain = of_study("controls", against="rank_20").set_index("arm").loc["permuted", "difference"]
    assert f"permuted one trains better, by {-gain:.3f} in test loss" in STUDIES.text


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
    found = read("metrics/studies/published.json")[f"{key}_{hyperparameters[1]}"]
    cells = [f"{label}, {hyperparameters[0]}"]
    for outcome, digits in (
        ("last_loss_nats", 2),
        ("best_loss_nats", 3),
        ("last_accuracy_share", 3),
    ):
        ends = [found[f"{outcome}_difference_{end}"] for end in ("low", "high")]
        lower = round(found[f"{outcome}_lrg_adam_lower_share"] * found["samplers"])
        value = spread(found[f"{outcome}_difference"], ends, digits)
        cells.append(f"{value}, {lower} of {found['samplers']}")
    assert row(STUDIES, cells)


def test_where_the_published_result_lies_is_what_was_found() -> None:
    found = read("metrics/studies/published.json")
    sizes = [one["samplers"] for one in found.values()]
    lower = [one["last_loss_nats_lrg_adam_lower_share"] for one in found.values()]
    pairs = sum(round(share * size) for share, size in zip(lower, sizes, strict=True))
    count = f"all {pairs}" if pairs == sum(sizes) else f"{pairs} of the {sum(sizes)}"
    assert f"in {count} pairs of final trainings Adam's last loss is higher." in STUDIES.text
    ahead = [name for name, one in found.items() if one["best_loss_nats_difference_low"] > 0]
    assert found.keys() - set(ahead) == {"published_4000_training_samples_reported"}
    assert (
        "At its best epoch Adam is ahead, except for 4000 samples with the published "
        "hyperparameters, where that is not shown."
    ) in STUDIES.text
    counts = [
        round(found[f"{data}_searched"][f"{optimizer}_lr_share_at_most_reported"] * sizes[0])
        for data in ("published_2000_training_samples", "offline_1600_training_samples")
        for optimizer in ("adam", "lrg_adam")
    ]
    assert (
        "For Adam, {} of 16 searches finds a rate of 0.0059, the published one, or less. "
        "For LRG-Adam, {} of 16 finds 0.0064 or less. On the generated samples the counts are "
        "{} and {}."
    ).format(*counts) in STUDIES.text
    searched = found["published_2000_training_samples_searched"]
    highest = round(searched["highest_rank_share"] * sizes[0])
    assert f"{highest} of {sizes[0]} searches find it, and the median is " in STUDIES.text
    assert f"the median is {searched['lrg_adam_rank_median']:g}." in STUDIES.text


# Columns of the table of costs: side, models, and the field of metrics/benchmark.json.
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
        (line,) = [line for line in BENCHMARK.lines if line.startswith(f"| {method} |")]
        assert [cell.strip() for cell in line.split("|")[2:-1]] == cells


def test_what_a_training_step_takes_is_what_was_measured() -> None:
    found = read("metrics/benchmark.json")
    steps = pd.DataFrame(found["training_steps"]).query("rank == 20").set_index("method")
    gram, subspace, certified, svd = (
        f"{steps.loc[method, 'ratio_to_fused_adam']:.1f} times"
        for method in ("gram", "subspace", "subspace, certified to 1 %", "svd")
    )
    assert (
        f"takes longer than with fused Adam: {gram} as long with `gram`, {subspace} with `subspace`"
    ) in BENCHMARK.text
    assert f"{certified} with the certificate, and {svd} with a full SVD" in BENCHMARK.text
    exponent = found["growth_exponents"]["subspace"]
    assert f"parameters to the power {exponent:.2f}." in BENCHMARK.text


def test_what_processes_bring_is_what_was_measured() -> None:
    found = read("metrics/benchmark_pipeline.json")
    text = BENCHMARK.text
    assert f"with {found['parameters']['training']['epochs']} epochs each" in text
    assert f"Two processes took {found['two_processes_seconds']:.0f} s" in text
    assert f"and one took {found['two_processes_speed_up_ratio']:.2f} times as long." in text
    assert f"workers took {found['dask_to_processes_time_ratio']:.2f} times as long as two" in text
    assert f"{found['first_piece_after_kill_seconds']:.1f} s after the restart" in text
    assert f"{found['first_piece_of_a_fresh_run_seconds']:.1f} s in a fresh run" in text


def test_what_stacking_brings_is_what_was_measured() -> None:
    found = read("metrics/throughput.json")
    adam, lrg_adam, text = found["adam"], found["lrg_adam"], BENCHMARK.text
    assert f"with {found['models_a_process']} stacked models each" in text
    assert f"take {adam['replicate_steps_per_second']:.0f} steps of a replicate" in text
    assert f"with Adam and {lrg_adam['replicate_steps_per_second']:.0f} with LRG-Adam" in text
    assert f"{adam['ratio']:.1f} and {lrg_adam['ratio']:.1f} times as many" in text


@pytest.mark.parametrize(
    ("page", "setting"),
    [(FRONT, None), (STUDIES, None), (STUDIES, "with_flipped_labels")],
    ids=["front page", "studies", "flipped labels"],
)
def test_the_conclusion_is_the_computed_one(page: Page, setting: str | None) -> None:
    conclusion = read("metrics/conclusion.json")
    found = conclusion[setting] if setting else conclusion
    links = found["links"]
    assert f"first broken link is **{found['first_broken_link']}**" in page.text
    less = links["noise hurts"]["less_noise_minus_adam"].values()
    pays = links["it pays"]
    rank = pays["rank_chosen_on_validation"]
    cleaner, survives = (links[name]["by_rank"][str(rank)] for name in list(links)[1:3])
    at = f"at rank {rank}"
    evidence = {
        "noise hurts": [spread(one["difference_nats"], one["interval_95_nats"], 3) for one in less],
        "the top subspace is cleaner": [
            at,
            spread(cleaner["mean_cosine"], cleaner["interval_95_cosine"], 5),
        ],
        "cleaner survives Adam": [
            at,
            spread(survives["mean_nats"], survives["interval_95_nats"], 6),
        ],
        "it pays": [
            at,
            spread(pays["difference_nats"], pays["interval_95_nats"], 4) + f", {pays['verdict']}",
        ],
    }
    for name, link in links.items():
        lines = [line for line in page.lines if line.startswith(f"| {name} |")]
        (line,) = [line for line in lines if all(numbers in line for numbers in evidence[name])]
        assert line.endswith(f"| {link['state']} |")


def test_what_is_said_of_ranks_in_the_argument_is_what_was_found() -> None:
    conclusion = read("metrics/conclusion.json")
    links = conclusion["links"]
    cosines = links["the top subspace is cleaner"]["by_rank"]
    assert links["the top subspace is cleaner"]["ranks"] == [80]
    assert all(cosines[rank]["interval_95_cosine"][1] < 0 for rank in ("1", "5"))
    assert links["the top subspace is cleaner"]["with_all_training_samples"]["ranks"] == []
    raw = over_epochs("adam", "raw_cosine_fresh").set_index("rank").loc[80, "mean"]
    assert f"at rank 80 alone: the cosine is {raw:.2f} and gains 0.0001." in STUDIES.text
    assert conclusion["ranks_by_verdict"]["better"] == []
    losses = {
        rank: read(f"metrics/studies/arms/rank_{rank}.json")["validation_loss_nats"]
        for rank in (1, 2, 5, 10, 20, 40, 80)
    }
    assert min(losses, key=losses.__getitem__) == links["it pays"]["rank_chosen_on_validation"]


def test_what_is_said_of_flipped_labels_is_what_was_found() -> None:
    found = of_study("flipped_labels", against="flipped_adam").set_index("arm")
    chosen = found.loc["flipped_rank_80"]
    assert chosen["verdict"] == "equivalent"
    lower = f"rank 80 lowers the test loss by {-chosen['difference']:.3f}, shown to be less than"
    assert lower in FRONT.text
    assert f"ends lower than Adam by {-chosen['difference']:.3f}, and the gain is" in STUDIES.text
    noise = verdicts_by_measure("flipped_labels", "flipped_half_noise")
    assert noise.pop("test_loss_nats") == "inconclusive"
    assert set(noise.values()) == {"worse"}
    random = found.loc["flipped_random_energy"]
    assert random["verdict"] == "inconclusive"
    assert f"end lower than Adam by {-random['difference']:.3f} too, which is" in STUDIES.text
    before = of_study("rank_sweep", against="adam").set_index("arm").loc["rank_20", "difference"]
    after = found.loc["flipped_rank_20", "difference"]
    assert f"right labels: {after:+.3f} instead of {before:+.3f}." in STUDIES.text
    assert set(found.loc[["flipped_rank_5", "flipped_rank_20"], "verdict"]) == {"worse"}
    controls = of_study("flipped_labels", against="flipped_rank_20")
    assert set(controls["verdict"]) == {"better"}
    rows = table("metrics/studies/flipped_labels.csv").set_index(["arm", "measure"])
    few, none = (
        rows.loc[(arm, "test_accuracy_share"), "difference"]
        for arm in ("half_flipped", "none_flipped")
    )
    assert f"with 10 % it is higher by {few:.3f}, with none by {none:.3f}." in STUDIES.text
    for name, own in (("rank_sweep", ""), ("flipped_labels", "flipped_")):
        along = [over_epochs(f"{own}{arm}", "step_loss_fresh") for arm in ("adam", "rank_20")]
        assert all((steps.query("rank <= 40")["low"] > 0).all() for steps in along), name
        adam, rank_20 = (steps.query("rank == 80").squeeze() for steps in along)
        worse, undecided = (adam, rank_20) if name == "rank_sweep" else (rank_20, adam)
        assert worse["low"] > 0 > undecided["low"], name
    assert f"it is worse along rank 20's, by {worse['mean']:.5f} nats, and not" in STUDIES.text
    raw = over_epochs("flipped_adam", "raw_cosine_fresh").set_index("rank").loc[80, "mean"]
    assert f"again: the cosine is {raw:.2f} and gains 0.0001." in STUDIES.text


def test_the_budget_of_the_search_is_what_was_found() -> None:
    found = read("metrics/studies/search_budget.json")
    for name, one in found.items():
        ends = f"{one['difference_low']:+.4f} to {one['difference_high']:+.4f}"
        cells = [
            name.removesuffix("_trials"),
            *(f"{one[f'{optimizer}_best_loss_nats']:.4f}" for optimizer in ("adam", "lrg_adam")),
            f"{one['difference']:+.4f}",
            ends,
        ]
        assert row(STUDIES, cells)
    few, more, most = found.values()
    assert more["lrg_adam_lower_share"] == most["lrg_adam_lower_share"] == 0
    above = [
        f"{one['difference']:.3f} ({one['difference_low']:+.3f} to {one['difference_high']:+.3f})"
        for one in (few, most)
    ]
    assert f"is {above[0]} above Adam's after 15 trials and {above[1]} after 60." in FRONT.text
    searches = table("metrics/studies/search_budget.csv")
    trials = searches.query("optimizer == 'lrg_adam'")
    best = {
        count: trials[trials["trial"] < count]
        .sort_values("trial_loss_nats")
        .groupby("sampler")["rank"]
        .first()
        .astype(int)
        .tolist()
        for count in (15, 60)
    }
    every = searches.pivot(
        index="sampler", columns=["optimizer", "trial"], values="best_so_far_nats"
    )
    gaps = every["lrg_adam"] - every["adam"]
    first = f"its gap was {gaps.loc[0, 14]:.3f} after 15 trials and {gaps.loc[0, 59]:.3f} after 60."
    assert gaps[14].idxmax() == 0
    assert first in STUDIES.text
    fall = gaps[14] - gaps[59]
    ends = mean_interval(fall)
    told = f"by {fall.mean():.3f} ({float(ends.low):+.3f} to {float(ends.high):+.3f}), is not shown"
    assert told in STUDIES.text
    low = sorted(best[15])[:4]
    assert len(best[15]) == 5
    assert f"at ranks from {low[0]} to {low[-1]}. With 60 trials the ranks are" in STUDIES.text
    assert f"the ranks are {min(best[60])} to {max(best[60])}, where" in STUDIES.text


def test_what_is_said_of_known_optimizers_is_what_was_found() -> None:
    main = read("metrics/comparison.json")["test_loss_nats"]["difference"]
    assert f"LRG-Adam's test loss is {main:.3f} above Adam's" in STUDIES.text
    rmsprop = of_study("yardstick", against="adam").set_index("arm").loc["yardstick_rmsprop"]
    rank_20 = of_study("rank_sweep", against="adam").set_index("arm").loc["rank_20"]
    assert f"that of rank 20 is {rank_20['difference']:.3f} above in the studies" in STUDIES.text
    assert 0 < rank_20["difference"] - rmsprop["difference"] < 0.015
    muon, sgd, adamw = (
        verdicts_by_measure("yardstick", f"yardstick_{name}") for name in ("muon", "sgd", "adamw")
    )
    better = {"test_accuracy_share", "train_loss_nats"}
    assert {measure for measure, verdict in sgd.items() if verdict == "better"} == better
    better.add("best_validation_loss_nats")
    assert {measure for measure, verdict in muon.items() if verdict == "better"} == better
    assert muon["test_loss_nats"] == "inconclusive"
    assert set(adamw.values()) == {"equivalent"}


def test_what_is_said_of_the_digits_is_what_was_found() -> None:
    found = table("metrics/studies/elsewhere.csv").set_index(["arm", "measure"])
    arms = ["digits_rank_22", "digits_rank_88", "images_rank_13", "images_rank_53"]
    losses = [found.loc[(arm, "test_loss_nats"), "verdict"] for arm in arms]
    assert losses == ["worse", "equivalent", "worse", "worse"]
    assert {found.loc[(arm, "test_accuracy_share"), "verdict"] for arm in arms} == {"equivalent"}
    cnn = found.loc[("images_rank_53", "test_loss_nats"), "difference"]
    assert f"On the digits with the CNN they are worse by {cnn:.4f}." in STUDIES.text
    assert "better" not in set(found.xs("test_loss_nats", level="measure")["verdict"])


def test_no_best_rate_lies_at_the_end_of_its_grid_if_the_page_says_so() -> None:
    conclusion = read("metrics/conclusion.json")
    said = "no best lies at the end of its grid" in STUDIES.text
    assert said == (not conclusion["lr_on_boundary"])
