"""What the processes of test_distributed.py do. Each function runs on every rank of a world."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
import torch.distributed as dist

import pccl.distributed

DIGITS = Path(__file__).resolve().parents[3] / "Tests" / "Data" / "digits" / "digits.csv"
TIMEOUT = timedelta(seconds=30)


def start(rank: int, size: int, path: str, backend: str, **options: Any) -> None:
    """Begins the default group."""
    torch.set_num_threads(1)
    dist.init_process_group(
        backend, init_method=f"file://{path}", rank=rank, world_size=size, timeout=TIMEOUT, **options
    )


def both(rank: int, size: int, path: str) -> Dict[str, Any]:
    """The same processes as a group of gloo and as one of pccl."""
    start(rank, size, path, "gloo")
    return {"gloo": None, "pccl": dist.new_group(backend="pccl", timeout=TIMEOUT)}


# Collectives: what each gives, for the same input, in a group of either backend.


def values(rank: int, count: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    if dtype == torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool()
    if dtype.is_complex or dtype.is_floating_point:
        return torch.randn(count, dtype=torch.float64, generator=generator).to(dtype)
    return torch.randint(0, 5, (count,), generator=generator).to(dtype)


def all_reduce(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8):
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX):
            if dtype in (torch.float16, torch.bfloat16) and op in (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT):
                continue  # gloo rounds in between
            results.append(values(rank, 37, dtype))
            dist.all_reduce(results[-1], op, group=group)
    strided = values(rank, 40, torch.float32).view(5, 8).t()
    zero_dimensional = torch.tensor(float(rank))
    complex_numbers = torch.complex(values(rank, 9, torch.float32), values(rank, 9, torch.float32, 1))
    for tensor in (zero_dimensional, complex_numbers):
        dist.all_reduce(tensor, group=group)
    if group is None:
        strided = strided.contiguous()
    dist.all_reduce(strided, group=group)
    return [*results, zero_dimensional, complex_numbers, strided]


def all_reduce_coalesced(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    tensors = [values(rank, count, torch.float32, count) for count in (3, 5, 1)]
    with dist._coalescing_manager(group):
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    return tensors


def broadcast(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for root in range(size):
        for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64):
            results.append(values(rank, 11, dtype, root))
            dist.broadcast(results[-1], root, group=group)
    return results


def all_gather(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for dtype in (torch.float32, torch.bfloat16, torch.int32, torch.bool):
        outputs = [torch.empty(3, 4, dtype=dtype) for _ in range(size)]
        dist.all_gather(outputs, values(rank, 12, dtype).view(3, 4), group=group)
        results += outputs
    strided = [torch.empty(4, 3).t() if group else torch.empty(3, 4) for _ in range(size)]
    source = values(rank, 12, torch.float32).view(4, 3).t()
    dist.all_gather(strided, source if group else source.contiguous(), group=group)
    return [*results, *strided]


def all_gather_into_tensor(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    # gloo does not stack.
    flat, stacked = torch.empty(size * 6), torch.empty((size, 2, 3) if group else (size * 2, 3))
    dist.all_gather_into_tensor(flat, values(rank, 6, torch.float32), group=group)
    dist.all_gather_into_tensor(stacked, values(rank, 6, torch.float32, 1).view(2, 3), group=group)
    in_place = torch.zeros(size * 4)
    in_place.view(size, 4)[rank] = values(rank, 4, torch.float32, 2)
    dist.all_gather_into_tensor(in_place, in_place.view(size, 4)[rank], group=group)
    return [flat, stacked.view(size, 2, 3), in_place]


def reduce_scatter(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        output = torch.empty(7)
        dist.reduce_scatter(output, [values(rank, 7, torch.float32, part) for part in range(size)], op, group=group)
        single = torch.empty(2, 3)
        source = values(rank, 6 * size, torch.float32).view(2 * size, 3)
        dist.reduce_scatter_tensor(single, source, op, group=group)
        results += [output, single]
    return results


def reduce(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for root in range(size):
        tensor = values(rank, 8, torch.float32, root)
        dist.reduce(tensor, root, group=group)
        if rank == root:  # unspecified elsewhere
            results.append(tensor)
    return results


def gather_and_scatter(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    results = []
    for root in range(size):
        gathered = [torch.empty(5) for _ in range(size)]
        dist.gather(values(rank, 5, torch.float32, root), gathered if rank == root else None, root, group=group)
        output = torch.empty(5)
        parts = [values(part, 5, torch.float32, 50 + root) for part in range(size)]
        dist.scatter(output, parts if rank == root else None, root, group=group)
        results += [*(gathered if rank == root else []), output]
    return results


def empty(group: Any, rank: int, size: int) -> List[torch.Tensor]:
    tensor = torch.empty(0)
    dist.all_reduce(tensor, group=group)
    dist.broadcast(tensor, 0, group=group)
    outputs = [torch.empty(0) for _ in range(size)]
    dist.all_gather(outputs, tensor, group=group)
    dist.barrier(group=group)
    return [tensor, *outputs]


def objects(group: Any, rank: int, size: int) -> List[Any]:
    gathered: List[Any] = [None] * size
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * rank}, group=group)
    broadcasts = [rank, "two"] if rank == 0 else [None, None]
    dist.broadcast_object_list(broadcasts, 0, group=group)
    at_root: Any = [None] * size if rank == 0 else None
    dist.gather_object(rank * 2, at_root, 0, group=group)
    mine: List[Any] = [None]
    dist.scatter_object_list(mine, list(range(size)) if rank == 0 else None, 0, group=group)
    return [gathered, broadcasts, at_root, mine]


def against_gloo(rank: int, size: int, path: str, names: List[str]) -> None:
    groups = both(rank, size, path)
    for name in names:
        collective: Callable[[Any, int, int], List[Any]] = globals()[name]
        wanted, got = (collective(groups[backend], rank, size) for backend in ("gloo", "pccl"))
        assert len(wanted) == len(got)
        for index, (one, other) in enumerate(zip(wanted, got)):
            if isinstance(one, torch.Tensor):
                place = f"{name}, tensor {index}"
                torch.testing.assert_close(other, one, msg=lambda text, place=place: f"{place}: {text}")
            else:
                assert one == other, (name, index, one, other)
    dist.destroy_process_group()


# What gloo has not


def averages(rank: int, size: int, path: str) -> None:
    start(rank, size, path, "pccl")
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.full((4,), float(rank), dtype=dtype)
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
        assert tensor.tolist() == [(size - 1) / 2] * 4, tensor
    output = torch.empty(2)
    dist.reduce_scatter_tensor(output, torch.arange(2.0 * size) + rank, dist.ReduceOp.AVG)
    assert output.tolist() == [2 * rank + (size - 1) / 2, 2 * rank + 1 + (size - 1) / 2], output
    # Types that gloo does not move.
    for dtype in (torch.int16, torch.uint16, torch.float8_e4m3fn):
        source = torch.arange(5).to(dtype)
        outputs = [torch.zeros(5).to(dtype) for _ in range(size)]
        dist.all_gather(outputs, source)
        tensor = source if rank == 1 else torch.zeros(5).to(dtype)
        dist.broadcast(tensor, 1)
        assert all(output.float().tolist() == [0, 1, 2, 3, 4] for output in [*outputs, tensor]), dtype
    for op, wanted in ((dist.ReduceOp.MAX, [True, True, False]), (dist.ReduceOp.MIN, [True, False, False])):
        tensor = torch.tensor([True, rank == 1, False])
        dist.all_reduce(tensor, op)
        assert tensor.tolist() == wanted, (op, tensor)
    dist.destroy_process_group()


def asynchronous(rank: int, size: int, path: str) -> None:
    start(rank, size, path, "pccl")
    tensors = [torch.full((1000,), float(rank + index)) for index in range(20)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    doubled = works[3].get_future().then(lambda future: future.value()[0] * 2)
    # What is chained to a future may use the group.
    chained = works[4].get_future().then(lambda _: dist.all_reduce(torch.ones(2), async_op=True).wait())
    for work in works:
        work.wait()
        assert work.is_completed() and work.is_success() and work.exception() is None
    for index, tensor in enumerate(tensors):
        assert (tensor == sum(range(size)) + size * index).all()
    assert torch.equal(doubled.wait(), tensors[3] * 2)
    assert chained.wait()
    dist.barrier(async_op=True).wait()
    dist.destroy_process_group()


def functional(rank: int, size: int, path: str) -> None:
    """The collectives that compiled programs use go through C++."""
    import torch.distributed._functional_collectives as functional_collectives

    start(rank, size, path, "pccl")
    group = dist.group.WORLD
    ones = torch.ones(4)
    assert functional_collectives.all_reduce(ones, "sum", group).tolist() == [size] * 4
    # New names for the same since torch 2.15.
    all_gather = getattr(functional_collectives, "all_gather_single", None) or functional_collectives.all_gather_tensor
    scatter_name = "reduce_scatter_single"
    reduce_scatter = getattr(functional_collectives, scatter_name, None) or functional_collectives.reduce_scatter_tensor
    gathered = all_gather(torch.full((2,), float(rank)), 0, group)
    assert gathered.tolist() == [float(r) for r in range(size) for _ in range(2)]
    scattered = reduce_scatter(torch.arange(2.0 * size), "sum", 0, group)
    assert scattered.tolist() == [2.0 * rank * size, (2 * rank + 1.0) * size]
    both_reduced = functional_collectives.all_reduce_coalesced([ones, ones * 2], "sum", group)
    assert [tensor.tolist() for tensor in both_reduced] == [[size] * 4, [2 * size] * 4]
    dist.destroy_process_group()


def refusals(rank: int, size: int, path: str) -> None:
    start(rank, size, path, "pccl")
    refused = [
        (lambda: dist.all_reduce(torch.ones(2), dist.ReduceOp.BXOR), ValueError, "SUM, AVG"),
        (lambda: dist.all_reduce(torch.ones(2).bool()), TypeError, "MAX"),
        (lambda: dist.all_reduce(torch.ones(2, device="meta")), ValueError, "CPU"),
        (lambda: dist.send(torch.ones(2), (rank + 1) % size), NotImplementedError, "gloo"),
        (lambda: dist.all_to_all_single(torch.ones(size), torch.ones(size)), NotImplementedError, "gloo"),
        (lambda: dist.all_gather_into_tensor(torch.ones(1), torch.ones(2)), ValueError, "elements"),
        (lambda: dist.all_gather([torch.ones(1)], torch.ones(1)), ValueError, "each rank"),
    ]
    for call, kind, text in refused:
        try:
            call()
        except kind as error:
            assert text in str(error), error
        else:
            raise AssertionError(f"not refused: {kind} {text}")
    tensor = torch.ones(2)
    dist.all_reduce(tensor)  # and the group is as good as before
    assert tensor.tolist() == [size] * 2
    dist.destroy_process_group()


def subgroups(rank: int, size: int, path: str) -> None:
    """Groups that overlap, with the same ranks, and of one."""
    start(rank, size, path, "pccl")
    for ranks in ([0, 1], [2, 1, 0], [0, 2], [1], [0, 1]):
        group = dist.new_group(ranks)
        if rank in ranks:
            tensor = torch.full((3,), float(rank))
            dist.all_reduce(tensor, group=group)
            assert tensor.tolist() == [float(sum(ranks))] * 3
            source = torch.full((2,), float(rank))
            dist.broadcast(source, max(ranks), group=group)
            assert source.tolist() == [max(ranks)] * 2
            outputs = [torch.empty(1) for _ in ranks]
            dist.all_gather(outputs, torch.full((1,), float(rank)), group=group)
            assert [int(output) for output in outputs] == [dist.get_global_rank(group, i) for i in range(len(ranks))]
            dist.destroy_process_group(group)
    dist.destroy_process_group()


# Training


def digits() -> Any:
    rows = torch.tensor(
        [[float(cell) for cell in line.split(",")] for line in DIGITS.read_text().splitlines() if line[:1].isdigit()]
    )
    return rows[:, :-1] / 16, rows[:, -1].long()


def perceptron() -> torch.nn.Module:
    torch.manual_seed(1)
    hidden = (torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU())
    return torch.nn.Sequential(*hidden, torch.nn.Linear(32, 10))


def train(model: torch.nn.Module, rank: int, size: int, steps: int) -> float:
    inputs, labels = digits()
    inputs, labels = inputs[rank::size], labels[rank::size]
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    for step in range(steps):
        chosen = slice(step * 32 % 400, step * 32 % 400 + 32)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def distributed_data_parallel(rank: int, size: int, path: str) -> None:
    groups = both(rank, size, path)
    trained = {}
    for backend, group in groups.items():
        model = torch.nn.parallel.DistributedDataParallel(perceptron(), process_group=group, bucket_cap_mb=0.005)
        loss = train(model, rank, size, 40)
        assert loss < 1.0, loss
        trained[backend] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, tensor in trained["gloo"].items():
        torch.testing.assert_close(trained["pccl"][name], tensor, rtol=1e-3, atol=1e-4)
    # All ranks hold the same bits.
    whole = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    copies = [torch.empty_like(whole) for _ in range(size)]
    dist.all_gather(copies, whole)
    assert all(torch.equal(copy, whole) for copy in copies)
    dist.destroy_process_group()


def hybrid_sharding(rank: int, size: int, path: str) -> None:
    """Sharded by gloo within pairs, replicated by pccl between them; beside gloo for both, and pccl for both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    start(rank, size, path, "gloo")
    trained = []
    for overrides in ({}, {"replicate": "pccl"}, {"replicate": "pccl", "shard": "pccl"}):
        names, backends = ("replicate", "shard"), dict(overrides) or None
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names, backend_override=backends)
        assert dist.get_backend(mesh.get_group("replicate")) == ("pccl" if overrides else "gloo")
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        train(model, rank, size, 10)
        trained.append({})
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            trained[-1][name] = parameter.full_tensor().detach().clone()
    for other in trained[1:]:
        for name, tensor in trained[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)
    dist.destroy_process_group()


# Losses


def fails(call: Callable[[], Any]) -> str:
    try:
        call()
    except dist.DistBackendError as error:
        return str(error)
    raise AssertionError("no error")


def check_usable(size: int) -> None:
    assert dist.get_world_size() == size
    rank = dist.get_rank()
    tensor = torch.full((1000,), float(rank + 1))
    dist.all_reduce(tensor)
    assert (tensor == size * (size + 1) / 2).all()
    outputs = [torch.empty(2) for _ in range(size)]
    dist.all_gather(outputs, torch.full((2,), float(rank)))
    assert [output[0] for output in outputs] == list(range(size))
    for root in range(size):
        tensor = torch.full((2,), float(rank))
        dist.broadcast(tensor, root)
        assert tensor.tolist() == [root] * 2
    dist.barrier()


def loses_a_peer(rank: int, size: int, path: str, tell: Callable[[Any], None]) -> None:
    """Reduces until a peer is killed, then goes on without it."""
    start(rank, size, path, "pccl")
    tensor = torch.ones(1 << 20)

    def reduce_for_ever() -> None:
        for step in range(10**9):
            tensor.fill_(1)
            dist.all_reduce(tensor)
            assert (tensor == size).all()
            if step == 5:
                tell("reducing")

    assert "lost" in fails(reduce_for_ever)
    # Later operations fail, too, until all survivors say how to go on.
    assert "reconfigure" in fails(lambda: dist.all_reduce(torch.ones(2)))
    pccl.distributed.reconfigure()
    check_usable(size - 1)
    dist.destroy_process_group()


def loses_a_peer_with_different_operations_in_flight(rank: int, size: int, path: str) -> None:
    """Rank 0 has launched more than rank 1 when rank 2 dies."""
    start(rank, size, path, "pccl")
    dist.barrier()
    if rank == 2:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    tensors = [torch.ones(10000) for _ in range(3)]
    if rank == 0:
        works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors[:2]]
        works.append(dist.broadcast(tensors[2], 1, async_op=True))
        gathered = torch.empty(size * 10000)
        works.append(dist.all_gather_into_tensor(gathered, tensors[0], async_op=True))
        scattered = torch.empty(10000)
        works.append(dist.reduce_scatter_tensor(scattered, torch.ones(size * 10000), async_op=True))
        works.append(dist.barrier(async_op=True))
    else:
        works = [dist.all_reduce(tensors[0], async_op=True)]
    future = works[-1].get_future()
    for work in works:
        assert "lost" in fails(work.wait)
        assert work.is_completed() and not work.is_success() and work.exception() is not None
    try:
        future.wait()
    except Exception as error:
        assert "lost" in str(error)
    else:
        raise AssertionError("the future has no error")
    pccl.distributed.reconfigure()
    check_usable(size - 1)
    dist.destroy_process_group()


def loses_all_others(rank: int, size: int, path: str) -> None:
    start(rank, size, path, "pccl")
    dist.barrier()
    if rank:
        os.kill(os.getpid(), signal.SIGKILL)
    fails(lambda: [dist.all_reduce(torch.ones(2)) for _ in range(100)])
    pccl.distributed.reconfigure()
    check_usable(1)
    dist.destroy_process_group()


def loses_a_peer_of_a_subgroup(rank: int, size: int, path: str) -> None:
    """The default group is of gloo; only the group of pccl goes on. Members keep their global ranks."""
    group = both(rank, size, path)["pccl"]
    dist.barrier(group=group)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    assert "lost" in fails(lambda: [dist.all_reduce(torch.ones(9), group=group) for _ in range(1000)])
    pccl.distributed.reconfigure(group)
    assert (dist.get_world_size(group), dist.get_rank(group)) == (2, [0, None, 1][rank])
    assert [dist.get_global_rank(group, place) for place in range(2)] == [0, 2]
    tensor = torch.full((3,), float(rank))
    dist.broadcast(tensor, 2, group=group)
    assert tensor.tolist() == [2.0] * 3
    dist.destroy_process_group(group)


def loses_the_master(rank: int, size: int, path: str) -> None:
    """Rank 0 runs the master: without it there is an end, and it is told."""
    os.environ["PCCL_MASTER_GRACE"] = "1"
    start(rank, size, path, "pccl")
    dist.barrier()
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    fails(lambda: [dist.all_reduce(torch.ones(1000)) for _ in range(10**9)])
    error = fails(pccl.distributed.reconfigure)
    assert "could not be reconfigured" in error, error
    assert time.monotonic() - begin < 20
    dist.destroy_process_group()


def trains_on(rank: int, size: int, path: str) -> None:
    """DDP goes on with the same model after a loss: its gradients are averages among those who are left."""
    start(rank, size, path, "pccl")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3, bias=False), bucket_cap_mb=0.00001)
    model(torch.full((1, 4), float(rank))).sum().backward()
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)

    def step() -> None:
        model.zero_grad()
        model(torch.full((1, 4), float(rank))).sum().backward()

    try:
        for _ in range(100):
            step()
        raise AssertionError("no error")
    except (dist.DistBackendError, RuntimeError) as error:
        assert "lost" in str(error), error
    pccl.distributed.reconfigure()
    group = dist.group.WORLD
    model = torch.nn.parallel.DistributedDataParallel(model.module, process_group=group)
    step()
    assert (model.module.weight.grad == sum(range(1, size)) / (size - 1)).all()
    dist.destroy_process_group()


def is_too_late(rank: int, size: int, path: str) -> None:
    """A peer does not call an operation: the others are told when the time of the group is over."""
    start(rank, size, path, "pccl")
    dist.barrier()
    dist.set_timeout(timedelta(seconds=2), dist.group.WORLD)
    if rank:
        tensor = torch.ones(3)
        work = dist.all_reduce(tensor, async_op=True)
        assert "0.2 seconds" in fails(lambda: work.wait(timedelta(seconds=0.2)))
        assert "2 seconds" in fails(work.wait)
        assert "did not come" in fails(lambda: pccl.distributed.reconfigure(timeout=timedelta(seconds=0.2)))
    else:
        time.sleep(4)
    pccl.distributed.reconfigure(timeout=timedelta(seconds=20))
    check_usable(size)
    dist.destroy_process_group()


def forms_groups_from_handles(rank: int, size: int, path: str) -> None:
    """ProcessGroup.reconfigure of PyTorch: members and ranks are what the program says, and can grow again."""
    from torch._C._distributed_c10d import ReconfigureOptions

    start(rank, size, path, "pccl", enable_reconfigure=True)
    group = dist.group.WORLD
    assert group.supports_reconfigure
    assert "no members" in fails(lambda: dist.all_reduce(torch.ones(1)))
    store = dist.FileStore(path + "-handles", size)
    store.set(str(rank), group.get_reconfigure_handle())
    handles = [store.get(str(r)).decode() for r in range(size)]

    def form(uuid: int, members: Any) -> None:
        options = ReconfigureOptions()
        options.uuid, options.handles, options.timeout = uuid, members, timedelta(seconds=20)
        assert group.reconfigure(options).wait()

    form(1, handles)
    assert dist.get_rank() == rank
    check_usable(size)
    if rank < size - 1:
        form(2, handles[-2::-1])
        assert dist.get_rank() == size - 2 - rank
        check_usable(size - 1)
    form(3, set(handles))
    check_usable(size)
    dist.destroy_process_group()
