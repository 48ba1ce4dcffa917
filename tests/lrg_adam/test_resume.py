"""Train, save, load, go on: the same bits as never having stopped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lrg_adam import LRGAdam

METHODS = ("gram", "svd", "randomized", "subspace")


class Run:
    def __init__(self, dtype: torch.dtype, **options: object) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4)).to(dtype)
        self.optimizer = LRGAdam(self.model.parameters(), lr=0.01, rank=3, **options)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)

    def train(self, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(16, 7, generator=generator).to(next(self.model.parameters()).dtype)
            self.optimizer.zero_grad()
            self.model(x).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()

    def tensors(self) -> list[Tensor]:
        state = [t for s in self.optimizer.state.values() for t in s.values()]
        return [*self.model.parameters(), *state]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("method", METHODS)
def test_resume(method: str, scope: str, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = Run(dtype, method=method, scope=scope)
    whole.train(range(8))

    first = Run(dtype, method=method, scope=scope)
    first.train(range(4))
    parts = {
        name: getattr(first, name).state_dict() for name in ("model", "optimizer", "scheduler")
    }
    torch.save(parts, tmp_path / "checkpoint.pt")
    second = Run(dtype, method=method, scope=scope)
    second.train(range(100, 101))  # state of its own, all to be replaced
    for name, part in torch.load(tmp_path / "checkpoint.pt", weights_only=True).items():
        getattr(second, name).load_state_dict(part)
    second.train(range(4, 8))

    for a, b in zip(whole.tensors(), second.tensors(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["gram", "subspace"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_resume_through_distributed_checkpoint(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def collect(run: Run) -> dict:
        model, optimizer = get_state_dict(run.model, run.optimizer)
        return {"model": model, "optimizer": optimizer}

    whole = Run(dtype, method=method)
    whole.train(range(8))

    first = Run(dtype, method=method)
    first.train(range(4))
    checkpoint.save(collect(first), checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    second = Run(dtype, method=method)
    parts = collect(second)
    checkpoint.load(parts, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    set_state_dict(
        second.model,
        second.optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    second.train(range(4, 8))
    for a, b in zip(whole.tensors(), second.tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_decides_the_options_as_for_every_torch_optimizer() -> None:
    saved, fresh = Run(torch.float32, method="subspace", seed=5), Run(torch.float32, method="svd")
    saved.train(range(2))
    fresh.optimizer.load_state_dict(saved.optimizer.state_dict())
    assert fresh.optimizer.param_groups[0]["method"] == "subspace"
    assert fresh.optimizer.param_groups[0]["seed"] == 5
