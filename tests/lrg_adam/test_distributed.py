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

METHODS = ("gram", "svd", "randomized")
pytestmark = pytest.mark.skipif(
    sys.platform == "win32"
    or not torch.distributed.is_available()
    or not torch.distributed.is_gloo_available(),
    reason="needs fork and gloo",
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(  # over two processes: even shards, uneven ones, and empty ones
        nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 1)
    )


def batch(step: int) -> Tensor:
    return torch.randn(8, 7, generator=torch.Generator().manual_seed(step))


def same_on_both(tensor: Tensor) -> bool:
    both = [torch.empty_like(tensor) for _ in range(2)]
    torch.distributed.all_gather(both, tensor)
    return torch.equal(*both)


def replicas(rank: int) -> None:
    for method in METHODS:
        model = nn.parallel.DistributedDataParallel(network(), gradient_as_bucket_view=True)
        optimizer = LRGAdam(model.parameters(), lr=0.01, rank=3, method=method)
        for step in range(5):
            optimizer.zero_grad()
            model(batch(2 * step + rank)).square().sum().backward()
            optimizer.step()
            for p in model.parameters():
                assert same_on_both(p.detach())


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
                assert q.to_local().numel() < p.numel() or len(p) == 1
                # Sums in another order; Adam's division enlarges the rounding of small entries.
                torch.testing.assert_close(
                    p.detach(), q.detach().full_tensor(), rtol=1e-3, atol=1e-4
                )


def placements(_: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    def place(tensor: Tensor, placement: object, mesh: object) -> Tensor:
        tensor = tensor.clone()
        if placement is None:
            return tensor
        return distribute_tensor(tensor, mesh, [Replicate()] * (mesh.ndim - 1) + [placement])

    line, grid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    layout = [
        ((5, 3), Shard(0)),
        ((4,), None),
        ((1, 9), Shard(0)),
        ((), Replicate()),
        ((0, 3), Shard(0)),
        ((6, 4, 2), Shard(0)),
        ((7, 2), Replicate()),
        ((11,), Shard(0)),
        ((3, 5), Shard(0)),
    ]
    across = [*layout[:-1], ((3, 5), Shard(1))]
    stack = [((2, 3, 5), Shard(0)), ((2, 4), Replicate())]
    cases = [  # the last: how many gradients are gathered
        (line, layout, {}, 0),
        (line, layout, {"method": "gram"}, 8),
        (line, across, {}, 8),
        (line, stack, {"batch_dims": 1}, 2),
        (grid, layout, {}, 8),
    ]
    gather, gathered = DTensor.full_tensor, []
    for mesh, pieces, changes, expected in cases:
        # A large eps, not to magnify rounding where the filtered gradient is small.
        options = {"lr": 0.01, "eps": 0.1, "rank": 3, "method": "randomized", **changes}
        shapes, kinds = zip(*pieces, strict=True)
        wholes = [torch.ones(shape, requires_grad=True) for shape in shapes]
        places = [
            place(p.detach(), kind, mesh).requires_grad_()
            for p, kind in zip(wholes, kinds, strict=True)
        ]
        first, second = LRGAdam(wholes, **options), LRGAdam(places, **options)
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for index, (p, q) in enumerate(zip(wholes, places, strict=True)):
                if index != 2 * step:  # has none
                    p.grad = torch.randn(p.shape, generator=generator)
                    q.grad = place(p.grad, kinds[index], mesh)
            first.step()
            DTensor.full_tensor = lambda g: gathered.append(g) or gather(g)
            second.step()
            DTensor.full_tensor = gather
            assert len(gathered) == expected
            gathered.clear()
            for p, q, kind in zip(wholes, places, kinds, strict=True):
                if kind in (None, Replicate()):
                    local = q.detach() if kind is None else q.detach().to_local()
                    assert same_on_both(local)
                else:
                    assert q.placements[-1] == kind
                    local = q.detach().full_tensor()
                torch.testing.assert_close(p.detach(), local)
            first.zero_grad()
            second.zero_grad()


def nonfinite(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    for method in ("gram", "randomized"):
        for choice in ("raise", "skip", "propagate"):
            model = fully_shard(network())
            optimizer = LRGAdam(
                model.named_parameters(), lr=0.01, rank=2, method=method, nonfinite=choice
            )

            def backward(step: int, model: nn.Module = model) -> None:
                model.zero_grad()
                model(batch(2 * step + rank)).square().mean().backward()

            backward(0)
            optimizer.step()
            backward(1)
            if rank == 1:
                model[2].weight.grad.to_local()[0, 4] = torch.nan
            before = [p.detach().full_tensor() for p in model.parameters()]
            if choice == "raise":
                with pytest.raises(RuntimeError, match=r"parameter 2\.weight"):
                    optimizer.step()
            else:
                optimizer.step()
            assert optimizer.skipped_steps == (choice == "skip")
            if choice == "propagate":
                assert all(p.grad.full_tensor().isnan().all() for p in model.parameters())
                continue
            for p, q in zip(before, model.parameters(), strict=True):
                assert torch.equal(p, q.detach().full_tensor())
            backward(2)
            optimizer.step()
            for p, q in zip(before, model.parameters(), strict=True):
                assert q.detach().full_tensor().isfinite().all()
                assert not torch.equal(p, q.detach().full_tensor())


def started(world: int) -> tuple[nn.Module, LRGAdam]:
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(network()) if world > 1 else network()
    return model, LRGAdam(model.parameters(), lr=0.01, rank=2, method="randomized")


def go_on(rank: int, model: nn.Module, optimizer: LRGAdam, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        whole = torch.cat([batch(2 * step), batch(2 * step + 1)])
        model(whole if rank < 0 else batch(2 * step + rank)).square().mean().backward()
        if step == 0:  # its first gradient comes late
            model[0].bias.grad = None
        optimizer.param_groups[0]["rank"] = 2 + step
        optimizer.step()


def loaded(model: nn.Module, optimizer: LRGAdam) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    parts = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    checkpoint.load(parts, checkpoint_id="checkpoint")
    set_state_dict(
        model, optimizer, model_state_dict=parts["model"], optim_state_dict=parts["optimizer"]
    )


def resume(rank: int) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    first, second = started(2), started(2)
    go_on(rank, *first, range(3))
    parts = dict(zip(("model", "optimizer"), get_state_dict(*first), strict=True))
    checkpoint.save(parts, checkpoint_id="checkpoint")
    go_on(rank, *first, range(3, 6))
    loaded(*second)
    go_on(rank, *second, range(3, 6))
    for p, q in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(p.detach().full_tensor(), q.detach().full_tensor())
    if rank == 0:
        torch.save([p.detach() for p in whole_of(first[0])], "end.pt")
    else:
        whole_of(first[0])


def whole_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().full_tensor() for p in model.parameters()]


def sharded_by_others(_: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for use_orig_params in (False, True):
        model = FullyShardedDataParallel(
            network(), use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
        for scope in ("model", "parameter"):
            with pytest.raises(ValueError, match="fully_shard"):
                LRGAdam(model.parameters(), rank=2, scope=scope)
    model = network()
    with pytest.raises(ValueError, match="'parameter'"):
        ZeroRedundancyOptimizer(model.parameters(), LRGAdam, rank=2)
    ZeroRedundancyOptimizer(model.parameters(), LRGAdam, rank=2, scope="parameter")


def alone(_: int) -> None:
    """Go on in one process from the checkpoint of two."""
    model, optimizer = started(1)
    loaded(model, optimizer)
    go_on(-1, model, optimizer, range(3, 6))
    for p, q in zip(model.parameters(), torch.load("end.pt"), strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-3, atol=1e-4)


def child(body: Callable, rank: int, store: str, world: int) -> None:
    try:
        os.chdir(Path(store).parent)
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world
        )
        body(rank)
        torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run(body: Callable, folder: Path, world: int = 2) -> None:
    context = multiprocessing.get_context("fork")
    store = str(folder / f"store of {body.__name__}")
    processes = [
        context.Process(target=child, args=(body, rank, store, world), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork beside threads
@pytest.mark.filterwarnings("ignore::UserWarning")  # distributed checkpoints' own
@pytest.mark.parametrize(
    "body", [replicas, shards, placements, nonfinite, resume, sharded_by_others]
)
def test_two_processes(body: Callable, tmp_path: Path) -> None:
    run(body, tmp_path)
    if body is resume:
        run(alone, tmp_path, world=1)
