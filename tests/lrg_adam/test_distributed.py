"""Two processes over gloo: replicas stay equal to the bit, shards match the whole."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lrg_adam import LRGAdam

METHODS = ("gram", "svd", "randomized", "subspace")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs gloo",
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 3))


def batch(step: int) -> Tensor:
    return torch.randn(8, 7, generator=torch.Generator().manual_seed(step))


def replicas(rank: int) -> None:
    for method in METHODS:
        model = nn.parallel.DistributedDataParallel(network(), gradient_as_bucket_view=True)
        write_back = "inplace" if method == "gram" else "rebind"
        optimizer = LRGAdam(
            model.parameters(), lr=0.01, rank=3, method=method, write_back=write_back
        )
        for step in range(5):
            optimizer.zero_grad()
            model(batch(2 * step + rank)).square().sum().backward()
            optimizer.step()
            for p in model.parameters():
                both = [torch.empty_like(p) for _ in range(2)]
                torch.distributed.all_gather(both, p.detach())
                assert torch.equal(*both)


def shards(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    for method in METHODS:
        for scope in ("model", "parameter"):
            options = {"lr": 0.01, "rank": 2, "method": method, "scope": scope}
            whole, sharded = network(), fully_shard(network())
            first = LRGAdam(whole.parameters(), **options)
            second = LRGAdam(sharded.parameters(), **options)
            for step in range(3):
                for model, optimizer, x in (
                    (whole, first, torch.cat([batch(2 * step), batch(2 * step + 1)])),
                    (sharded, second, batch(2 * step + rank)),
                ):
                    optimizer.zero_grad()
                    model(x).square().mean().backward()
                    optimizer.step()
            for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
                assert q.to_local().numel() < p.numel()
                torch.testing.assert_close(p.detach(), q.detach().full_tensor())


def child(body: Callable, rank: int, store: str) -> None:
    try:
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=2
        )
        body(rank)
        torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork beside threads
@pytest.mark.parametrize("body", [replicas, shards])
def test_two_processes(body: Callable, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=child, args=(body, rank, str(tmp_path / "store")))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
