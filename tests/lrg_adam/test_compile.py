"""A compiled training step does what the eager one does."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from lrg_adam import LRGAdam


def train(method: str, backend: str | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = LRGAdam(model.parameters(), lr=torch.tensor(0.01), rank=2, method=method)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    run = torch.compile(step, backend=backend) if backend else step
    for seed in range(4):
        run(torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)))
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler"
                ),
            ],
        ),
    ],
)
@pytest.mark.parametrize("method", ["gram", "svd", "randomized", "subspace"])
@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_compiled_step(method: str, backend: str) -> None:
    torch._dynamo.reset()
    for eager, compiled in zip(train(method), train(method, backend), strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-4)
