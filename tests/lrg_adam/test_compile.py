"""A compiled training step does what the eager one does."""

import pytest
import torch
from torch import Tensor, nn

from lrg_adam import LRGAdam


def train(method: str, compiled: bool) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = LRGAdam(model.parameters(), lr=torch.tensor(0.01), rank=2, method=method)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    run = torch.compile(step, backend="aot_eager") if compiled else step
    for seed in range(4):
        run(torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)))
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("method", ["gram", "svd", "randomized", "subspace"])
@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_compiled_step(method: str) -> None:
    torch._dynamo.reset()
    for eager, compiled in zip(train(method, False), train(method, True), strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-4)
