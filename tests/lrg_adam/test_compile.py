"""A compiled training step does what the eager one does."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from lrg_adam import LRGAdam, truncate_grad_rank_


def train(method: str, rank: int, filtered: bool, backend: str | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    if filtered:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        lr = torch.tensor(0.01)
        optimizer = LRGAdam(model.parameters(), lr=lr, rank=rank, method=method)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        if filtered:
            truncate_grad_rank_(model.parameters(), rank, method=method)
        optimizer.step()

    run = torch.compile(step, backend=backend) if backend else step
    for seed in range(4):
        run(torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)))
    return [p.detach() for p in model.parameters()]


inductor = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(
            not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler"
        ),
    ],
)


@pytest.mark.parametrize("backend", ["aot_eager", inductor])
@pytest.mark.parametrize(
    ("method", "filtered"), [("gram", False), ("svd", False), ("randomized", False), ("gram", True)]
)
@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_compiled_step(method: str, filtered: bool, backend: str) -> None:
    torch._dynamo.reset()
    eager, compiled = (train(method, 2, filtered, b) for b in (None, backend))
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_full_rank_before_a_compiled_step_is_that_step_bit_for_bit() -> None:
    torch._dynamo.reset()
    runs = []
    for rank in (99, None):
        torch.manual_seed(0)
        model = nn.Linear(6, 8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01))
        step = torch.compile(optimizer.step, backend="aot_eager")
        for seed in range(3):
            x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            model(x).square().sum().backward()
            if rank is not None:
                truncate_grad_rank_(model.parameters(), rank)
            step()
        runs.append(model.weight)
    assert torch.equal(*runs)
