"""Adam against Adam must come out neither better nor worse: real trainings, disjoint replicates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiment.datasets import mnist1d
from experiment.report import statistics
from experiment.report.statistics import ALPHA, compare_paired
from experiment.training.loop import Group, RunConfig, outcomes, train_group

CONFIG = RunConfig(
    optimizer="adam",
    hyperparameters={"lr": 0.01},
    model="mlp",
    options={"hidden": (8,)},
    epochs=2,
    batch_size=32,
    device="cpu",
    seed=0,
    purpose="calibration",
)
REPLICATES, PAIRS, REPEATS = 96, 20, 400


def test_adam_against_adam_is_called_different_at_the_stated_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    dataset = mnist1d.load(train=320, validation=160, shuffle=False, rng=np.random.default_rng(0))
    scores = train_group(dataset, Group(CONFIG, 0, REPLICATES))
    curves = {name: tensor.numpy() for name, tensor in scores.items()}
    losses = outcomes(curves)["test_loss_nats"]
    rng = np.random.default_rng(0)

    verdicts = []
    for repeat in range(REPEATS):
        drawn = rng.permutation(REPLICATES)
        one, other = losses.to_numpy()[drawn[:PAIRS]], losses.to_numpy()[drawn[PAIRS : 2 * PAIRS]]
        margin = 1e-3 * losses.mean()  # far below the noise: nothing can be called equivalent
        found = compare_paired(one, other, margin=margin, rng=np.random.default_rng(repeat))
        verdicts.append(found.verdict)

    wrong = sum(verdict in ("better", "worse") for verdict in verdicts) / REPEATS
    assert wrong <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
    assert wrong > 0  # the test could have found a difference
    assert "equivalent" not in verdicts
