"""The backend ``pccl`` of torch.distributed: process groups for CPU tensors that survive the loss of peers.

Importing this module registers it; torch is needed, which ``import pccl`` alone does not::

    import pccl.distributed
    torch.distributed.init_process_group("pccl")    # rank and world size as for every other backend

Every group is a peer group of one pccl master: the one that the environment variable ``PCCL_MASTER`` ("host:port")
names, else one that a process of the first group starts for itself and tells the others of through the store.

When a peer is lost, all operations of the group that are not finished, and all later ones, fail at the survivors with
:class:`torch.distributed.DistBackendError`. They go on after all of them have called :func:`reconfigure`, with new
ranks and a smaller world, or after ``ProcessGroup.reconfigure``, where PyTorch has it, with whomever they agree on.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import secrets
import threading
import time
import warnings
import weakref
from datetime import timedelta
from typing import Any, Callable, Dict, List, Optional, Sequence

try:
    import torch
    import torch.distributed as dist
except ImportError as reason:
    raise ImportError(f"pccl.distributed needs torch, which cannot be imported: {reason}") from reason
if not dist.is_available():
    raise ImportError("pccl.distributed needs a torch that was built with torch.distributed, and this one was not.")

from torch import Tensor
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceCoalescedOptions,
    AllreduceOptions,
    BarrierOptions,
    BroadcastOptions,
    GatherOptions,
    ReduceOptions,
    ReduceScatterOptions,
    ScatterOptions,
    Store,
    Work,
)

from ._distributed_engine import Attempt, Engine, Plan, agree, destroy_when_idle, exchange_ranks
from ._distributed_meeting import PARTING_PATIENCE, known_master, meet, named_master, part, start_master
from ._distributed_plans import Members, check_alike, flat_memory, only, reduce_op
from ._distributed_work import JoinedWork, PcclWork
from ._errors import PCCLError, RankConnectionLostError
from ._types import ReduceOp
from .communicator import Communicator

__all__ = ["PcclProcessGroup", "PcclWork", "reconfigure"]

# The master is up before its address is told, but one that PCCL_MASTER names may be started beside the peers.
_CONNECT_INTERVAL = 0.1

_groups: "weakref.WeakSet[PcclProcessGroup]" = weakref.WeakSet()


def reconfigure(group: Optional[dist.ProcessGroup] = None, timeout: Optional[timedelta] = None) -> None:
    """Makes a group usable again after a loss, among those who are left. All of them call it.

    Operations in flight end; whoever was lost is a member no more. Survivors keep their order and are ranked anew from
    0, so ``get_rank()`` and ``get_world_size()`` change. The new ranks of the default group are the global ones: make
    subgroups of it anew. The content of tensors whose operations failed is unspecified: load or send what the survivors
    are to have alike.

    Args:
        group: a group of this backend; the default group if None.
        timeout: how long to wait for the other survivors; the group's own if None.

    Raises:
        DistBackendError: this peer itself was taken for lost, the master is gone, or a survivor did not call it in
            time; then it may be called again.
        ValueError: the group is none of this backend, or this process is not in it.
    """
    chosen = dist.distributed_c10d._get_default_group() if group is None else group
    if not isinstance(chosen, PcclProcessGroup):
        raise ValueError(f"{chosen!r} is not a process group of the backend pccl that this process is in")
    chosen.go_on_with_survivors(timeout)


class PcclProcessGroup(dist.ProcessGroup):
    """A process group over a pccl peer group, as ``init_process_group("pccl")`` and ``new_group()`` make it."""

    def __init__(self, store: Store, rank: int, size: int, timeout: timedelta, name: str, deferred: bool) -> None:
        super().__init__(rank, size)
        self._members = Members(rank, tuple(range(size)))
        self._timeout = timeout
        self._name = name
        self._description = "undefined"
        self._engine: Optional[Engine] = None
        self._attempt: Optional[Attempt[List[int]]] = None
        self._store: Optional[Store] = store
        self._coalesced: Optional[List[Work]] = None
        self._destroyed = False
        self._formed = not deferred
        self._member = secrets.token_hex(8)
        if size == 1 and not deferred:
            self._master = known_master() or ""
        elif deferred:
            # Who is in the group is said later, in reconfigure(), and by handles that tell of the master.
            self._master = known_master() or (start_master(store) if rank == 0 else "")
        else:
            # Rank 0 is a member before the others hear of the group, so that two at least are in order.
            meeting, announce = meet(store, rank, timeout)
            self._master = str(meeting["master"])
            self._form(
                self._master, int(meeting["peer_group"]), int(meeting["nonce"]), timeout.total_seconds(), announce
            )
        _groups.add(self)

    # What torch asks about a group

    def rank(self) -> int:
        return self._members.rank

    def size(self) -> int:
        return self._members.size

    def getRank(self) -> int:  # noqa: N802 - the names under which C++ finds them
        return self._members.rank

    def getSize(self) -> int:  # noqa: N802
        return self._members.size

    def getBackendName(self) -> str:  # noqa: N802
        return "pccl"

    def name(self) -> str:
        return "pccl"

    def getGroupName(self) -> str:  # noqa: N802
        return self._name

    def setGroupName(self, name: str) -> None:  # noqa: N802
        self._name = name

    def getGroupDesc(self) -> str:  # noqa: N802
        return self._description

    def setGroupDesc(self, description: str) -> None:  # noqa: N802
        self._description = description

    @property
    def group_name(self) -> Any:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._description

    def get_group_store(self) -> Store:
        assert self._store is not None
        return self._store

    @property
    def _device_types(self) -> List[torch.device]:
        # Before torch knows the group it asks in order to attach its flight recorder, which is for backends in C++.
        return [torch.device("cpu")] if self in dist.distributed_c10d._world.pg_map else []

    def _get_backend(self, device: torch.device) -> Any:
        # torch asks the backend of a device what it can do. A group in Python is its own backend.
        if torch.device(device).type != "cpu":
            raise RuntimeError(f"pccl: there is no backend for device {str(device)!r}; this one is for CPU tensors")
        return self

    get_backend = _get_backend
    supports_splitting = False
    supports_coalescing = False
    supports_shrinking = False
    supports_window = False

    def supports_tensor_alloc(self, device: torch.device) -> bool:
        return False

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout

    _set_default_timeout = set_timeout

    def __repr__(self) -> str:
        return f"<PcclProcessGroup {self._name!r}: rank {self._members.rank} of {self._members.size}>"

    # Collectives

    def allreduce(self, tensors: List[Tensor], opts: Any = AllreduceOptions()) -> Work:
        op = reduce_op(opts.reduceOp)
        return self._run("allreduce", tensors, [self._members.all_reduce(only(tensors, "tensor"), op)], opts)

    def allreduce_coalesced(self, tensors: List[Tensor], opts: Any = AllreduceCoalescedOptions()) -> Work:
        op = reduce_op(opts.reduceOp)
        return self._run("allreduce_coalesced", tensors, [self._members.all_reduce(t, op) for t in tensors], opts)

    def reduce(self, tensors: List[Tensor], opts: Any = ReduceOptions()) -> Work:
        tensor, op = only(tensors, "tensor"), reduce_op(opts.reduceOp)
        self._members.check_root(opts.rootRank)
        if self._members.rank != opts.rootRank:
            tensor = tensor.detach().clone()
        return self._run("reduce", tensors, [self._members.all_reduce(tensor, op)], opts)

    def broadcast(self, tensors: List[Tensor], opts: Any = BroadcastOptions()) -> Work:
        plan = self._members.broadcast(only(tensors, "tensor"), opts.rootRank)
        return self._run("broadcast", tensors, [plan], opts)

    def allgather(
        self, output_tensors: List[List[Tensor]], input_tensors: List[Tensor], opts: Any = AllgatherOptions()
    ) -> Work:
        outputs, source = only(output_tensors, "list of output tensors"), only(input_tensors, "input tensor")
        return self._run("allgather", outputs, [self._members.all_gather(outputs, source)], opts)

    def allgather_coalesced(
        self, output_lists: List[List[Tensor]], input_list: List[Tensor], opts: Any = AllgatherOptions()
    ) -> Work:
        if len(output_lists) != self._members.size or any(len(outputs) != len(input_list) for outputs in output_lists):
            raise ValueError(f"pccl: expected {self._members.size} lists of {len(input_list)} output tensors")
        plans = [
            self._members.all_gather([outputs[index] for outputs in output_lists], source)
            for index, source in enumerate(input_list)
        ]
        return self._run("allgather_coalesced", [t for outputs in output_lists for t in outputs], plans, opts)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = AllgatherOptions()) -> Work:
        return self._run("all_gather_single", [output], [self._members.all_gather_single(output, input)], opts)

    def all_gather_single_coalesced(
        self, output_lists: List[Tensor], input_list: List[Tensor], opts: Any = AllgatherOptions()
    ) -> Work:
        if len(output_lists) != len(input_list):
            raise ValueError(f"pccl: {len(input_list)} input tensors, but {len(output_lists)} output tensors")
        plans = [self._members.all_gather_single(output, source) for output, source in zip(output_lists, input_list)]
        return self._run("all_gather_single_coalesced", output_lists, plans, opts)

    def reduce_scatter(
        self, output_tensors: List[Tensor], input_tensors: List[List[Tensor]], opts: Any = ReduceScatterOptions()
    ) -> Work:
        output, sources = only(output_tensors, "output tensor"), only(input_tensors, "list of input tensors")
        check_alike(sources, output, self._members.size, "input")
        plan = self._members.reduce_scatter(output, sources, None, reduce_op(opts.reduceOp))
        return self._run("reduce_scatter", [output], [plan], opts)

    def reduce_scatter_single(
        self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = ReduceScatterOptions()
    ) -> Work:
        opts = ReduceScatterOptions() if opts is None else opts
        plan = self._members.reduce_scatter_single(output_tensor, input_tensor, reduce_op(opts.reduceOp))
        return self._run("reduce_scatter_single", [output_tensor], [plan], opts)

    def reduce_scatter_single_coalesced(
        self, output_tensors: List[Tensor], input_tensors: List[Tensor], opts: Any = ReduceScatterOptions()
    ) -> Work:
        opts = ReduceScatterOptions() if opts is None else opts
        if len(output_tensors) != len(input_tensors):
            raise ValueError(f"pccl: {len(input_tensors)} input tensors, but {len(output_tensors)} output tensors")
        op = reduce_op(opts.reduceOp)
        plans = [
            self._members.reduce_scatter_single(output, source, op)
            for output, source in zip(output_tensors, input_tensors)
        ]
        return self._run("reduce_scatter_single_coalesced", output_tensors, plans, opts)

    # The names of these before torch 2.15, and in its C++.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def gather(
        self, output_tensors: List[List[Tensor]], input_tensors: List[Tensor], opts: Any = GatherOptions()
    ) -> Work:
        """All get the parts of all; only the root keeps them."""
        source = only(input_tensors, "input tensor")
        self._members.check_root(opts.rootRank)
        if self._members.rank == opts.rootRank:
            outputs = only(output_tensors, "list of output tensors")
        else:
            outputs = list(torch.empty(self._members.size, source.numel(), dtype=source.dtype).unbind())
        return self._run("gather", outputs, [self._members.all_gather(outputs, source)], opts)

    def scatter(
        self, output_tensors: List[Tensor], input_tensors: List[List[Tensor]], opts: Any = ScatterOptions()
    ) -> Work:
        """All get the parts for all; each keeps its own."""
        output = only(output_tensors, "output tensor")
        self._members.check_root(opts.rootRank)
        if self._members.rank == opts.rootRank:
            sources = only(input_tensors, "list of input tensors")
            check_alike(sources, output, self._members.size, "input")
            parts = torch.cat([flat_memory(source, "an input tensor") for source in sources])
        else:
            parts = torch.empty(self._members.size * output.numel(), dtype=output.dtype)
        moved = self._members.broadcast(parts, opts.rootRank)
        mine = parts.view(self._members.size, -1)[self._members.rank] if output.numel() else parts
        kept = Plan(finish=lambda: output.detach().copy_(mine.view(output.shape)))
        return self._run("scatter", [output], [moved, kept], opts)

    def barrier(self, opts: Any = BarrierOptions()) -> Work:
        # The library's own barrier blocks. Nobody's sum is done before all have contributed.
        return self._run("barrier", [], [self._members.all_reduce(torch.zeros(1), ReduceOp.SUM)], opts)

    def _refuse(self, *_: Any, **__: Any) -> Work:
        raise NotImplementedError(
            "pccl: the backend has no send, recv, all_to_all, monitored_barrier and sparse all_reduce. Use a group of "
            'gloo for them: new_group(backend="gloo").'
        )

    send = recv = recv_anysource = recvAnysource = _refuse  # noqa: N815
    all_to_all_single = alltoall_base = alltoall = monitored_barrier = allreduce_sparse = _refuse

    def start_coalescing(self, device: Any = None) -> None:
        # Operations are under way when they are launched: all there is to do is to give one work for all of them.
        self._coalesced = []

    def end_coalescing(self, device: Any = None) -> Work:
        works, self._coalesced = self._coalesced or [], None
        return JoinedWork(works)

    _start_coalescing = start_coalescing
    _end_coalescing = end_coalescing

    def _run(self, name: str, results: Sequence[Tensor], plans: Sequence[Plan], opts: Any) -> Work:
        timeout: Optional[timedelta] = getattr(opts, "timeout", None)
        if timeout is None or timeout <= timedelta(0):
            timeout = self._timeout
        work = PcclWork(name, results, timeout.total_seconds())
        if self._destroyed:
            raise dist.DistBackendError(f"pccl: the {self._subject} was destroyed")
        if not self._formed:
            raise dist.DistBackendError(f"pccl: the {self._subject} has no members yet. Call its reconfigure() first.")
        if self._engine is not None:
            self._engine.submit(work, plans)
        else:
            for plan in plans:
                assert plan.start is None
                if plan.finish is not None:
                    plan.finish()
            work.end(None)
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    # Membership

    @property
    def _subject(self) -> str:
        return f"process group {self._name!r} (rank {self._members.rank} of {self._members.size})"

    def _form(
        self,
        master: str,
        peer_group: int,
        nonce: int,
        seconds: float,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Connects to a peer group and waits until it has ``size`` members."""
        communicator = Communicator(master, peer_group)
        size, rank = self._members.size, self._members.rank
        deadline = time.monotonic() + seconds
        over = threading.Event()

        def gather() -> List[int]:
            attempts = max(1, int(seconds / _CONNECT_INTERVAL))
            communicator.connect(attempts, _CONNECT_INTERVAL)
            announce()
            while communicator.world_size < size:
                if over.is_set():
                    raise RankConnectionLostError("gave up")
                if communicator.are_peers_pending():
                    communicator.update_topology()
                else:
                    time.sleep(0.005)
            return exchange_ranks(communicator, size, rank, nonce)

        try:
            order = Attempt(gather).result(deadline)
            if sorted(order) != list(range(size)):
                raise dist.DistBackendError(f"the peers have the ranks {order}")
        except (TimeoutError, PCCLError, dist.DistBackendError) as reason:
            over.set()
            threading.Thread(target=destroy_when_idle, args=(communicator,), name="pccl-destroy", daemon=True).start()
            raise dist.DistBackendError(
                f"pccl: the {self._subject} could not be formed at the master {master} within {seconds:g} seconds: "
                f"{reason}"
            ) from reason
        self._members = Members(rank, tuple(order))
        self._engine = Engine(communicator, size, f"process group {self._name!r}")

    def go_on_with_survivors(self, timeout: Optional[timedelta] = None) -> None:
        """What :func:`reconfigure` does for this group."""
        engine = self._engine
        if self._destroyed or not self._formed:
            raise dist.DistBackendError(f"pccl: the {self._subject} was destroyed, or never formed")
        if engine is None:
            return
        seconds = (timeout or self._timeout).total_seconds()
        engine.fail(dist.DistBackendError(f"pccl: the {self._subject} is being reconfigured"))
        rank = self._members.rank
        # An attempt that took too long is still under way when this is called again.
        attempt = self._attempt or Attempt(lambda: agree(engine, rank))
        self._attempt = attempt
        try:
            order = attempt.result(time.monotonic() + seconds)
            self._attempt = None
        except (PCCLError, dist.DistBackendError) as reason:
            self._attempt = None
            raise dist.DistBackendError(f"pccl: the {self._subject} could not be reconfigured: {reason}") from reason
        except TimeoutError as reason:
            raise dist.DistBackendError(
                f"pccl: the {self._subject} could not be reconfigured within {seconds:g} seconds: {reason}"
            ) from reason
        self._renumber(order)
        if self._members.size == 1:
            self._engine = None
            engine.close(0)
        else:
            engine.renew(self._members.size)

    def _renumber(self, old_ranks: List[int]) -> None:
        """Takes over the members, told by their ranks before, in the order of pccl."""
        left = sorted(old_ranks)
        world = dist.distributed_c10d._world
        known: Optional[Dict[int, int]] = world.pg_group_ranks.get(self)
        if known is not None and self is not world.default_pg:
            world.pg_group_ranks[self] = {g: left.index(old) for g, old in known.items() if old in left}
        elif known is not None:
            world.pg_group_ranks[self] = {rank: rank for rank in range(len(left))}
        self._members = Members(left.index(self._members.rank), tuple(left.index(old) for old in old_ranks))

    @property
    def supports_reconfigure(self) -> bool:
        return True

    def get_reconfigure_handle(self) -> str:
        """Names this process in the ``handles`` of ``reconfigure()``."""
        return f"pccl:{self._member}@{self._master}"

    def reconfigure(self, opts: Any) -> Work:
        """Forms the group anew, of the members that ``opts.handles`` names; ``opts.uuid`` must be a new number.

        All of them call it with the same options: survivors, and newcomers that called ``init_process_group`` with
        ``enable_reconfigure=True``. A list gives ranks by position, a set in the order of the handles. What is in
        flight is given up. Returns when the group is formed; errors are raised by the work's ``wait()``.
        """
        work = PcclWork("reconfigure", [], self._timeout.total_seconds())
        try:
            self._reconfigure(opts)
        except Exception as reason:
            work.end(reason)
        else:
            work.end(None)
        return work

    def _reconfigure(self, opts: Any) -> None:
        if self._destroyed:
            raise dist.DistBackendError(f"pccl: the {self._subject} was destroyed")
        handles = list(opts.handles) if isinstance(opts.handles, (list, tuple)) else sorted(opts.handles)
        mine = self.get_reconfigure_handle()
        if mine not in handles or len(set(handles)) != len(handles):
            raise ValueError(f"pccl: the handles must be different, and {mine!r} among them: {handles}")
        engine, self._engine, self._formed = self._engine, None, False
        if engine is not None:
            engine.close(0)
        # Members may know different masters: all take that of the first one that knows any.
        master = next(filter(None, [named_master(), *(handle.rpartition("@")[2] for handle in handles)]), "")
        timeout = opts.timeout or self._timeout
        digest = hashlib.sha256(json.dumps([opts.uuid, handles]).encode()).digest()
        self._members = Members(handles.index(mine), tuple(range(len(handles))))
        if self._members.size > 1:
            if not master:
                raise dist.DistBackendError("pccl: no member knows a master. Set PCCL_MASTER.")
            self._form(
                master, int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:11], "big"), timeout.total_seconds()
            )
        self._formed = True
        world = dist.distributed_c10d._world
        if self in world.pg_group_ranks and self is world.default_pg:
            world.pg_group_ranks[self] = {rank: rank for rank in range(self._members.size)}

    def shutdown(self) -> None:
        """Leaves the group, after the operations in flight."""
        self._leave(PARTING_PATIENCE)

    def abort(self) -> None:
        """Leaves the group at once. Operations in flight fail."""
        self._leave(0)

    def _leave(self, patience: float) -> None:
        if self._destroyed:
            return
        self._destroyed = True
        engine, self._engine = self._engine, None
        if engine is None:
            return
        unbroken = engine.failure is None
        engine.close(patience)
        if patience and unbroken and self._store is not None:
            part(self._store, self._members.size, self._master)


@atexit.register
def _leave_all() -> None:
    for group in list(_groups):
        group.abort()


def _create(options: Any, backend_options: Any) -> PcclProcessGroup:
    if backend_options is not None:
        warnings.warn("pccl: the backend has no options; pg_options is ignored", stacklevel=2)
    return PcclProcessGroup(
        options.store,
        options.group_rank,
        options.group_size,
        options.timeout,
        str(options.group_id),
        bool(getattr(options, "enable_reconfigure", False)),
    )


dist.Backend.register_backend("pccl", _create, extended_api=True, devices=["cpu"])
