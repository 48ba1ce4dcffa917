"""Time every way to take a step, on the gradients of networks of 10^4 to 10^8 parameters."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import experiment

# A user's program runs without what makes the pipeline's results the same on every processor.
for name in experiment.INSTRUCTIONS:
    os.environ.pop(name)
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler, which counts memory, is else talkative

import numpy as np  # noqa: E402 - the settings are read when torch loads
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmark.contenders import CONTENDERS, OVERSAMPLING, STACKED, Make  # noqa: E402
from benchmark.gradients import Problem, best_energy, square  # noqa: E402
from benchmark.timing import medians, peak_bytes  # noqa: E402
from experiment import errors, files, progress  # noqa: E402
from lrg_adam import low_rank  # noqa: E402

SIDES = (119, 316, 1000, 3162, 10_000)
RANKS = (20, 64)
STACK = 16
GRADIENTS = 4
# Methods whose time grows with the cube of the side: up to where a step takes seconds.
LARGEST_SIDE = {
    "published (full SVD)": 1000,
    "svd": 1000,
    "Muon": 1000,
    "gram": 3162,
    "subspace, certified to 1 %": 1000,
}
# Up to here the smallest possible error is computed, in float64.
LARGEST_KNOWN_BEST = 3162


def methods(
    makes: Mapping[str, Make],
    weights: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    problem: Problem,
    rank: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row a contender: its time, its memory, and how much of the gradient's energy it keeps."""
    makes = {
        name: make
        for name, make in makes.items()
        if problem.side <= LARGEST_SIDE.get(name, problem.side)
    }
    steps = {name: make(weights, rank) for name, make in makes.items()}
    turns = {name: cycle(gradients) for name in steps}
    calls = {name: lambda n=name, s=step: s(next(turns[n])) for name, step in steps.items()}
    times = medians(calls, seconds)
    size = sum(g.numel() * g.element_size() for g in gradients[0])
    row = {"side": problem.side, "models": problem.models, "rank": rank}
    return [
        row
        | {
            "method": name,
            "milliseconds_per_model": times[name] / problem.models,
            "ratio_to_fused_adam": times[name] / times["Adam, fused"],
            "peak_memory_in_gradients": peak_bytes(call) / size,
        }
        | quality(steps[name], weights, gradients, problem, rank)
        for name, call in calls.items()
    ]


def quality(
    step: Callable[[Sequence[Tensor]], None],
    weights: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    problem: Problem,
    rank: int,
) -> dict[str, float | None]:
    """Energy kept, and error beyond the smallest possible, the mean over models."""
    # In the order in which they came: a method that is warm-started has followed them.
    for gradient in gradients:
        step(gradient)
    stacked = weights[0].shape[0] if problem.models > 1 else 1
    last = torch.cat([g.reshape(stacked, -1) for g in gradients[-1]], 1).double()
    kept = torch.cat([w.grad.reshape(stacked, -1) for w in weights], 1).double()
    total, energy = last.square().sum(1), kept.square().sum(1)
    if torch.equal(kept, last) or problem.side > LARGEST_KNOWN_BEST:
        return {"captured_energy_of_best": None, "excess_error": None}
    grads = [g.reshape(stacked, -1) for g in gradients[-1]]
    best = best_energy(square(grads, problem.side), rank)
    smallest = (total - best).clamp(min=0).sqrt()
    error = (last - kept).norm(dim=1)
    return {
        "captured_energy_of_best": float((energy / best).mean()),
        "excess_error": float((error / smallest - 1).mean()),
    }


def products(problem: Problem, rank: int, seconds: float) -> dict[str, Any]:
    """The subspace iteration of a step against its three matrix products alone."""
    (matrix,) = square(problem.gradients[-1], problem.side)
    basis = torch.randn(problem.side, min(rank + OVERSAMPLING, problem.side))
    left = torch.linalg.qr(matrix @ basis).Q

    def three() -> Tensor:
        _ = matrix @ basis
        right = matrix.mT @ left
        return left[:, :rank] @ right[:, :rank].mT

    times = medians(
        {"subspace": lambda: low_rank.subspace(matrix, rank, basis), "products": three}, seconds
    )
    return {
        "side": problem.side,
        "rank": rank,
        "subspace_ms": times["subspace"],
        "products_ms": times["products"],
        "ratio": times["subspace"] / times["products"],
    }


def training_steps(problem: Problem, rank: int, seconds: float) -> list[dict[str, Any]]:
    """A row a contender: a whole training step of the stack, forward and backward included."""
    weights = list(problem.weights.values())

    def whole(step: Callable[[Sequence[Tensor]], None]) -> None:
        problem.backward()
        step([w.grad for w in weights])

    calls = {name: partial(whole, make(weights, rank)) for name, make in STACKED.items()}
    times = medians(calls | {"forward and backward": problem.backward}, seconds)
    passes = times.pop("forward and backward")
    return [
        {
            "method": name,
            "models": problem.models,
            "rank": rank,
            "milliseconds_per_model": time / problem.models,
            "ratio_to_fused_adam": time / times["Adam, fused"],
            "share_of_optimizer": 1 - passes / time,
        }
        for name, time in times.items()
    ]


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Exponent with which a method's time grows with parameters, from 10^5 up, by least squares."""
    exponents = {}
    for name in CONTENDERS:
        chosen = [
            row
            for row in rows
            if row["method"] == name and row["rank"] == RANKS[0] and row["side"] > 300
        ]
        if len(chosen) > 1:
            sides, times = zip(
                *((r["side"], r["milliseconds_per_model"]) for r in chosen), strict=True
            )
            exponents[name] = float(np.polyfit(2 * np.log(sides), np.log(times), 1)[0])
    return exponents


def main(sides: Sequence[int], seconds: float) -> None:
    """Write metrics/benchmark.json."""
    steps, kernels, training = [], [], []
    for side in progress.bar(sides, desc="benchmark", unit="side"):
        warm_up = 20 if side <= 1000 else 2
        problem = Problem(side, models=1, gradients=GRADIENTS, warm_up=warm_up)
        weights, gradients = problem.single()
        for rank in RANKS:
            steps += methods(CONTENDERS, weights, gradients, problem, rank, seconds)
            kernels.append(products(problem, rank, seconds / 4))
        if side == sides[0]:
            stack = Problem(side, models=STACK, gradients=GRADIENTS, warm_up=warm_up)
            weights = list(stack.weights.values())
            for rank in RANKS:
                steps += methods(STACKED, weights, stack.gradients, stack, rank, seconds)
                training += training_steps(stack, rank, seconds)
    files.write_json(
        Path("metrics/benchmark.json"),
        {
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "threads": torch.get_num_threads(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "torch": torch.__version__,
            },
            "steps": steps,
            "subspace_against_its_products": kernels,
            "training_steps": training,
            "growth_exponents": growth(steps),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seconds", type=float, default=3, help="for each table of one side")
    options = parser.parse_args()
    with errors.reported():
        main(options.sides, options.seconds)
