"""Time one step of every optimizer, on gradients of networks with 10^4 to 10^8 parameters."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from experiment.stage.environment import INSTRUCTIONS

# A user's program runs without the settings that make the pipeline's results the same on every
# processor. They are read when NumPy and torch load.
if {"numpy", "torch"} & sys.modules.keys():
    raise ImportError("benchmark.steps must be imported before NumPy and torch")
for name in INSTRUCTIONS:
    os.environ.pop(name)
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler, which counts memory, logs to stderr otherwise

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmark.measure.contenders import CONTENDERS, STACKED, Make, Step  # noqa: E402
from benchmark.measure.problem import Problem, best_energy, square  # noqa: E402
from benchmark.measure.timing import Call, medians, peak_bytes  # noqa: E402
from experiment.stage import files  # noqa: E402
from experiment.stage.data import Dataset  # noqa: E402
from experiment.stage.params import read_params  # noqa: E402
from experiment.training import progress  # noqa: E402
from lrg_adam.low_rank import OVERSAMPLING  # noqa: E402

SIDES = (119, 316, 1000, 3162, 10_000)
RANKS = (20, 64)
STACK = 16
GRADIENTS = 4
# Some methods take time that grows with the cube of the side. They stop where a step takes seconds.
LARGEST_SIDE = {
    "published (full SVD)": 1000,
    "svd": 1000,
    "Muon": 1000,
    "gram": 3162,
}
# A full eigendecomposition is timed up to this side.
LARGEST_DECOMPOSITION = 1000
ITERATIONS = 4  # of `randomized`, by default
# The smallest possible error is computed in float64, up to this side.
LARGEST_KNOWN_BEST = 3162


def call(step: Step, turns: Iterator[Sequence[Tensor]]) -> None:
    """Take a step with the next gradients."""
    step(next(turns))


def methods(
    makes: Mapping[str, Make],
    weights: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    problem: Problem,
    rank: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row per contender: its time, its memory, and the quality of its approximation."""
    steps = {
        name: make(weights, rank)
        for name, make in makes.items()
        if problem.side <= LARGEST_SIDE.get(name, problem.side)
    }
    calls = {name: partial(call, step, cycle(gradients)) for name, step in steps.items()}
    times = medians(calls, seconds)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return [
        {
            "side": problem.side,
            "models": problem.models,
            "rank": rank,
            "method": name,
            "milliseconds_per_model": times[name] / problem.models,
            "ratio_to_fused_adam": times[name] / times["Adam, fused"],
            "peak_memory_in_gradients": peak_bytes(calls[name]) / size,
            **quality(step, weights, gradients, problem, rank),
        }
        for name, step in steps.items()
    ]


def quality(
    step: Step,
    weights: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    problem: Problem,
    rank: int,
) -> dict[str, float | None]:
    """Captured energy, and error beyond the smallest possible, each a mean over models."""
    # In training order, which a warm-started method relies on.
    for gradient in gradients:
        step(gradient)
    last = [g.reshape(problem.models, -1) for g in gradients[-1]]
    kept = [w.grad.reshape(problem.models, -1) for w in weights if w.grad is not None]
    before, after = torch.cat(last, 1).double(), torch.cat(kept, 1).double()
    if torch.equal(before, after) or problem.side > LARGEST_KNOWN_BEST:
        return {"captured_energy_of_best": None, "excess_error": None}
    best = best_energy(square(last, problem.side), rank)
    smallest = (before.square().sum(1) - best).clamp(min=0).sqrt()
    error = (before - after).norm(dim=1)
    return {
        "captured_energy_of_best": float((after.square().sum(1) / best).mean()),
        "excess_error": float((error / smallest - 1).mean()),
    }


def limits(
    weights: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    problem: Problem,
    rank: int,
    seconds: float,
) -> dict[str, Any]:
    """What steps take beyond fused Adam's, against the least that their method can take.

    That is the products with the matrix for `randomized`, into memory that is already there, and
    one eigendecomposition for `gram`.
    """
    stacked = [[g.reshape(problem.models, -1) for g in gradient] for gradient in gradients]
    matrix = square(stacked[-1], problem.side)
    right = torch.randn(*matrix.shape[:-1], min(rank + OVERSAMPLING, problem.side))
    left, result = torch.empty_like(right), torch.empty_like(matrix)
    c = matrix.mT @ matrix

    def products() -> None:
        for _ in range(ITERATIONS):
            torch.matmul(matrix, right, out=left)
            torch.matmul(matrix.mT, left, out=left)
        torch.matmul(left[..., :rank], right[..., :rank].mT, out=result)

    makes = CONTENDERS if problem.models == 1 else STACKED
    names = ["Adam, fused", "randomized"]
    calls: dict[str, Call] = {"products": products}
    if problem.side <= LARGEST_DECOMPOSITION:
        names.append("gram")
        calls["eigendecomposition"] = partial(torch.linalg.eigh, c)
    for name in names:
        calls[name] = partial(call, makes[name](weights, rank), cycle(gradients))
    times = medians(calls, seconds)

    def ratio(method: str, least: str) -> float | None:
        return (times[method] - times["Adam, fused"]) / times[least] if least in times else None

    return {
        "side": problem.side,
        "models": problem.models,
        "rank": rank,
        "milliseconds": times,
        "randomized_over_its_products": ratio("randomized", "products"),
        "gram_over_its_own_eigendecomposition": ratio("gram", "eigendecomposition"),
    }


def training_steps(problem: Problem, rank: int, seconds: float) -> list[dict[str, Any]]:
    """One row per contender: a whole training step of the stack, with forward and backward pass."""
    weights = list(problem.weights.values())

    def whole(step: Step) -> None:
        step(problem.backward())

    calls = {name: partial(whole, make(weights, rank)) for name, make in STACKED.items()}
    times = medians({**calls, "passes": problem.backward}, seconds)
    return [
        {
            "method": name,
            "models": problem.models,
            "rank": rank,
            "milliseconds_per_model": times[name] / problem.models,
            "ratio_to_fused_adam": times[name] / times["Adam, fused"],
            "share_of_optimizer": 1 - times["passes"] / times[name],
        }
        for name in calls
    ]


def main(*arguments: str) -> None:
    """Write metrics/benchmark.json."""
    parser = argparse.ArgumentParser("python stages benchmark.steps", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seconds", type=float, default=3, help="for each table of one side")
    options = parser.parse_args(arguments)
    data = Dataset.read(read_params().data.name)
    steps, least, training = [], [], []
    for side in progress.bar(options.sides, desc="benchmark", unit="side"):
        problem_of = partial(
            Problem, data, side, gradients=GRADIENTS, warm_up=20 if side <= 1000 else 2
        )
        problem = problem_of(models=1)
        weights, gradients = problem.single()
        for rank in RANKS:
            steps += methods(CONTENDERS, weights, gradients, problem, rank, options.seconds)
            least.append(limits(weights, gradients, problem, rank, options.seconds / 2))
        if side == options.sides[0]:
            stack = problem_of(models=STACK)
            weights = list(stack.weights.values())
            for rank in RANKS:
                steps += methods(STACKED, weights, stack.gradients, stack, rank, options.seconds)
                least.append(limits(weights, stack.gradients, stack, rank, options.seconds / 2))
                training += training_steps(stack, rank, options.seconds)
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
            "against_the_least": least,
            "training_steps": training,
        },
    )
