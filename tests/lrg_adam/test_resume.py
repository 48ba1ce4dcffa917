"""Train, save, load, go on: the same bits as never having stopped."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lrg_adam import LRGAdam

METHODS = ("gram", "svd", "randomized")


class Run:
    def __init__(self, dtype: torch.dtype = torch.float32, **options: object) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4)).to(dtype)
        self.optimizer = LRGAdam(self.model.parameters(), lr=0.01, **{"rank": 3, **options})
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)

    def train(self, steps: range, late: bool = False) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(16, 7, generator=generator).to(next(self.model.parameters()).dtype)
            self.optimizer.zero_grad()
            self.model(x).square().sum().backward()
            if late and step == 0:  # the first parameter has no gradient yet
                self.model[0].weight.grad = None
            self.optimizer.step()
            self.scheduler.step()


def assert_same(first: Run, second: Run) -> None:
    for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)
        for name, value in first.optimizer.state[p].items():
            assert value.dtype == second.optimizer.state[q][name].dtype
            assert torch.equal(value, second.optimizer.state[q][name])


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
    second = Run(dtype, method=method, scope=scope, seed=5)
    second.train(range(100, 101))  # state of its own, all to be replaced
    for name, part in torch.load(tmp_path / "checkpoint.pt", weights_only=True).items():
        getattr(second, name).load_state_dict(part)
    second.train(range(4, 8))
    assert_same(whole, second)


# Each is a way in which a run may differ at its start, at its checkpoint, or where it goes on.
CASES = {
    "plain": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "late first gradient": {"late": True},
    "changed rank": {"rank": 2},
    "full rank at first": {"rank": 99},
    "other method": {"other": "svd"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_resume_through_distributed_checkpoint(method: str, case: str, tmp_path: Path) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    changes = CASES[case]
    dtype, late = changes.get("dtype", torch.float32), changes.get("late", False)

    def half(run: Run) -> None:
        run.optimizer.param_groups[0]["rank"] = changes.get("rank", 3)
        run.train(range(4), late)
        run.optimizer.param_groups[0]["rank"] = 3

    def collect(run: Run) -> dict:
        model, optimizer = get_state_dict(run.model, run.optimizer)
        return {"model": model, "optimizer": optimizer}

    whole, first = Run(dtype, method=method), Run(dtype, method=method)
    half(whole)
    whole.train(range(4, 8))
    half(first)
    checkpoint.save(collect(first), checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    second = Run(dtype, method=changes.get("other", method))
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
    assert_same(whole, second)


# What the version before this one added to Adam's options, with its defaults.
FORMER = {"tolerance": None, "oversampling": 8, "iterations": None, "diagnostics": False}


def test_a_checkpoint_of_the_version_before_goes_on_with_the_same_bits() -> None:
    whole, first, second = (Run(method="gram") for _ in range(3))
    whole.train(range(8))
    first.train(range(4))
    saved = first.optimizer.state_dict()
    saved["param_groups"][0] |= FORMER
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(saved)
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    second.train(range(4, 8))
    assert_same(whole, second)
    assert second.optimizer.param_groups[0].keys() == whole.optimizer.param_groups[0].keys()


def test_a_basis_of_the_version_before_is_dropped_with_a_warning() -> None:
    run = Run(method="gram")
    run.train(range(2))
    saved = run.optimizer.state_dict()
    saved["param_groups"][0] |= {**FORMER, "method": "subspace", "iterations": 1}
    saved["state"][0]["basis"] = torch.ones(11, 11)
    with pytest.warns(UserWarning, match="'subspace' is now 'randomized'"):
        run.optimizer.load_state_dict(saved)
    run.train(range(2, 4))
    assert all("basis" not in state for state in run.optimizer.state.values())
    assert run.optimizer.param_groups[0]["method"] == "randomized"


def test_a_checkpoint_of_adam_loads() -> None:
    run = Run(method="svd")
    adam = torch.optim.Adam(run.model.parameters())
    run.model(torch.ones(3, 7)).sum().backward()
    adam.step()
    run.optimizer.load_state_dict(adam.state_dict())
    run.train(range(1))
    assert run.optimizer.param_groups[0]["method"] == "svd"
    assert run.optimizer.state[run.model[0].weight]["step"] == 2
