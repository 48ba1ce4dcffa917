"""Time one step of every optimizer, on gradients of networks with 10^4 to 10^8 parameters."""

import argparse
import os
import platform
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from experiment.stage.environment import INSTRUCTIONS

# A user's program runs without the settings that make the pipeline's results the same on every
# processor. NumPy and torch read them when they load, below.
for name in INSTRUCTIONS:
    os.environ.pop(name)
# The profiler, which counts memory, logs to stderr otherwise.
os.environ |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.measure.contenders import CONTENDERS, STACKED, Step  # noqa: E402
from benchmark.measure.problem import Problem, trained  # noqa: E402
from benchmark.measure.timing import Call, medians, peak_bytes  # noqa: E402
from experiment.stage import files  # noqa: E402
from experiment.stage.data import Dataset  # noqa: E402
from experiment.stage.params import read_params  # noqa: E402
from lrg_adam.flatten import to_square  # noqa: E402
from lrg_adam.low_rank import OVERSAMPLING  # noqa: E402

SIDES = (119, 316, 1000, 3162, 10_000)
RANKS = (20, 64)
STACK = 16
# Some calls take time that grows with the cube of the side. They stop where one takes seconds.
LARGEST_SIDE = {
    "published (full SVD)": 1000,
    "svd": 1000,
    "Muon": 1000,
    "gram": 3162,
    "eigendecomposition": 1000,
    "smallest error": 3162,
}
ITERATIONS = 4  # of `randomized`, by default
# For some methods, the step behind their filter and the least work that the filter can do.
LEAST = {
    "gram": ("Adam, fused", "eigendecomposition"),
    "randomized": ("Adam, fused", "products"),
    "randomized before SGD": ("SGD, fused", "products"),
}


def affordable(name: str, side: int) -> bool:
    """Whether a call is timed at this size."""
    return side <= LARGEST_SIDE.get(name, side)


def least_work(matrix: Tensor, rank: int) -> dict[str, Call]:
    """Products of `randomized`, into memory that exists, and the decomposition of `gram`."""
    right = torch.randn(*matrix.shape[:-1], min(rank + OVERSAMPLING, matrix.shape[-1]))
    left, result = torch.empty_like(right), torch.empty_like(matrix)

    def products() -> None:
        for _ in range(ITERATIONS):
            torch.matmul(matrix, right, out=left)
            torch.matmul(matrix.mT, left, out=left)
        torch.matmul(left[..., :rank], right[..., :rank].mT, out=result)

    calls: dict[str, Call] = {"products": products}
    if affordable("eigendecomposition", matrix.shape[-1]):
        calls["eigendecomposition"] = partial(torch.linalg.eigh, matrix.mT @ matrix)
    return calls


def measure(problem: Problem, rank: int, seconds: float) -> Iterator[dict[str, Any]]:
    """One row per contender: its time, its memory, and the error of its approximation."""
    side, models, weights, gradients = problem
    matrix = to_square([g.reshape(models, -1) for g in gradients[-1]], 1, torch.float32)
    makes = CONTENDERS if models == 1 else STACKED
    steps = {name: make(weights, rank) for name, make in makes.items() if affordable(name, side)}
    # Each call takes a step with the next gradients.
    calls = {name: partial(next, map(step, cycle(gradients))) for name, step in steps.items()}
    times = medians(calls | least_work(matrix, rank), seconds)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    for name, step in steps.items():
        base, work = LEAST.get(name, ("", ""))
        yield {
            "side": side,
            "models": models,
            "rank": rank,
            "method": name,
            "milliseconds_per_model": times[name] / models,
            "filter_over_its_least": (
                (times[name] - times[base]) / times[work] if work in times else None
            ),
            "peak_memory_in_gradients": peak_bytes(calls[name]) / size,
            "excess_error": excess_error(step, problem, matrix, rank),
        }


def excess_error(step: Step, problem: Problem, matrix: Tensor, rank: int) -> float | None:
    """Error beyond the smallest possible, as a share of it, computed in float64; mean of models."""
    step(problem.gradients[-1])
    kept = [w.grad.reshape(problem.models, -1) for w in problem.weights if w.grad is not None]
    after = to_square(kept, 1, torch.float32)
    if torch.equal(matrix, after) or not affordable("smallest error", problem.side):
        return None
    wide = matrix.double()
    values = torch.linalg.eigvalsh(wide.mT @ wide)
    smallest = values[..., :-rank].clamp(min=0).sum(-1).sqrt()
    error = torch.linalg.matrix_norm(wide - after)
    return float((error / smallest - 1).mean())


def main(*arguments: str) -> None:
    """Write metrics/benchmark.json."""
    parser = argparse.ArgumentParser("python stages benchmark.measure.steps", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seconds", type=float, default=3, help="for each table of one side")
    options = parser.parse_args(arguments)
    data = Dataset.read(read_params().data.name)
    rows: list[dict[str, Any]] = []
    for side in tqdm(options.sides, desc="benchmark", unit="side"):
        for models in (1, STACK) if side == options.sides[0] else (1,):
            problem = trained(data, side, models, warm_up=20 if side <= 1000 else 2)
            for rank in RANKS:
                rows += measure(problem, rank, options.seconds)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    files.write_json(Path("metrics/benchmark.json"), {"machine": machine, "steps": rows})
