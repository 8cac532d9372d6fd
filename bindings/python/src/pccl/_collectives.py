"""The collectives beside the all-reduce: requests that were checked, and the methods that Communicator has for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Tuple

from ._arguments import UINT32_MAX, UINT64_MAX, checked_integer
from ._buffers import Loans, Region, region_of
from ._errors import check
from ._lifetime import Lifetime
from ._native import ffi, require_extension
from ._types import Codec, OnLoss, ReduceInfo, ReduceOp

if TYPE_CHECKING:
    from .communicator import AsyncReduceHandle

__all__ = ["BlockRequest", "Collectives"]


@dataclass(frozen=True)
class BlockRequest:
    """An all-gather, a reduce-scatter, a broadcast or a barrier."""

    function: str
    buffers: Tuple[Region, ...]
    tag: int
    count: int = 0
    world_size: int = 0
    op: ReduceOp = ReduceOp.SUM
    root: int = 0
    options: Any = None

    @classmethod
    def of_blocks(
        cls,
        function: str,
        send: Any,
        recv: Any,
        tag: int,
        loans: Loans,
        op: ReduceOp = ReduceOp.SUM,
        options: Any = None,
    ) -> BlockRequest:
        source = region_of(send, "send", False, loans, device=True)
        target = region_of(recv, "recv", True, loans, device=True)
        if source.datatype != target.datatype:
            raise TypeError(
                f"send has elements of type {source.datatype.name}, recv of {target.datatype.name}; "
                "they must be the same"
            )
        sides = [(source.count, "send"), (target.count, "recv")]
        (block, block_name), (whole, whole_name) = sides if function == "pcclAllGather" else reversed(sides)
        if whole % block != 0:
            raise ValueError(
                f"{whole_name} has {whole} elements, which are not blocks of {block}, as {block_name} has, for each peer"
            )
        return cls(
            function,
            (source, target),
            checked_integer(tag, "tag", 0, UINT64_MAX),
            count=block,
            world_size=whole // block,
            op=ReduceOp(op),
            options=options,
        )

    @classmethod
    def of_broadcast(
        cls, buffer: Any, root: int, tag: int, world_size: Optional[int], loans: Loans
    ) -> BlockRequest:
        region = region_of(buffer, "buffer", True, loans, device=True)
        return cls(
            "pcclBroadcast",
            (region,),
            checked_integer(tag, "tag", 0, UINT64_MAX),
            count=region.count,
            world_size=0 if world_size is None else checked_integer(world_size, "world_size", 1, UINT32_MAX),
            root=checked_integer(root, "root", 0, UINT32_MAX),
        )

    def arguments(self) -> Tuple[Any, ...]:
        """What the C function takes before the communicator."""
        descriptor = ffi.new("pcclCollectiveDescriptor_t *")
        descriptor.struct_size = ffi.sizeof("pcclCollectiveDescriptor_t")
        descriptor.tag = self.tag
        descriptor.count = self.count
        descriptor.datatype = self.buffers[0].datatype
        descriptor.op = self.op
        descriptor.world_size = self.world_size
        descriptor.root = self.root
        if self.options is not None:
            descriptor.options = self.options
        return (*(ffi.cast("void *", region.address) for region in self.buffers), descriptor)


class Collectives:
    """The part of :class:`pccl.Communicator` that has these collectives.

    All peers of the group take part in each, with the same tag, and get the same outcome. Buffers have a block for each
    peer, of the same size at all of them. A peer that is lost meanwhile, or was lost before the call without the caller
    knowing, ends them with RankConnectionLostError at all others: what was to be sent is whole then, what was to be
    received is undefined, and the world size is new, so call again with buffers for that.

    What they raise beside that is as with :meth:`pccl.Communicator.all_reduce`. NotImplementedError: the library that
    ``PCCL_LIBRARY`` names does not have them.
    """

    _library: Any
    _lifetime: Lifetime

    @property
    def rank(self) -> int:
        """This peer's place among its group's members, which are in the same order at each of them. Never blocks.

        It changes with a join point, an optimisation of the topology, or the loss of a peer. InvalidUsageError when not
        connected.
        """
        require_extension(self._library, "rank", ("pcclGetRank",))
        value = ffi.new("uint32_t *")
        with self._lifetime.inside() as pointer:
            code = self._library.pcclGetRank(pointer, value, ffi.NULL)
        check(code, "pcclGetRank", self._subject)
        return int(value[0])

    def all_gather(self, send: Any, recv: Any, tag: int = 0) -> ReduceInfo:
        """Brings the block of every peer to every peer.

        Args:
            send: this peer's block; what can be lent to :meth:`all_reduce` can be lent here.
            recv: as many elements for each peer, in the order of ranks. ``send`` may be this peer's part of it.
            tag: as with :meth:`all_reduce`.

        Returns:
            How many peers took part, and the bytes moved.
        """
        with Loans() as loans:
            return self._run(BlockRequest.of_blocks("pcclAllGather", send, recv, tag, loans))

    def all_gather_async(self, send: Any, recv: Any, tag: int = 0) -> AsyncReduceHandle:
        """Starts what :meth:`all_gather` does, and returns at once. The buffers are lent until ``wait()`` has returned."""
        with Loans() as loans:
            return self._start(BlockRequest.of_blocks("pcclAllGather", send, recv, tag, loans), loans)

    def reduce_scatter(
        self,
        send: Any,
        recv: Any,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        *,
        codec: Optional[Codec] = None,
        error_feedback: bool = False,
    ) -> ReduceInfo:
        """Combines the blocks of all peers, of which each peer gets the one of its rank.

        Args:
            send: a block for each peer, in the order of ranks.
            recv: room for one. It may be this peer's part of ``send``.
            codec: how contributions are made smaller; the result is not coded.
            op, tag, error_feedback: as with :meth:`all_reduce`.
        """
        options = self._checked_options(OnLoss.ABORT, codec, error_feedback, None)
        with Loans() as loans:
            return self._run(BlockRequest.of_blocks("pcclReduceScatter", send, recv, tag, loans, op, options))

    def reduce_scatter_async(
        self,
        send: Any,
        recv: Any,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        *,
        codec: Optional[Codec] = None,
        error_feedback: bool = False,
    ) -> AsyncReduceHandle:
        """Starts what :meth:`reduce_scatter` does, and returns at once."""
        options = self._checked_options(OnLoss.ABORT, codec, error_feedback, None)
        with Loans() as loans:
            return self._start(BlockRequest.of_blocks("pcclReduceScatter", send, recv, tag, loans, op, options), loans)

    def broadcast(self, buffer: Any, root: int = 0, tag: int = 0, *, world_size: Optional[int] = None) -> ReduceInfo:
        """Brings what the peer of rank ``root`` has in ``buffer`` to the buffers of all others.

        Args:
            world_size: for how many peers ``root`` was chosen; None: for as many as there are now.
        """
        with Loans() as loans:
            return self._run(BlockRequest.of_broadcast(buffer, root, tag, world_size, loans))

    def broadcast_async(
        self, buffer: Any, root: int = 0, tag: int = 0, *, world_size: Optional[int] = None
    ) -> AsyncReduceHandle:
        """Starts what :meth:`broadcast` does, and returns at once."""
        with Loans() as loans:
            return self._start(BlockRequest.of_broadcast(buffer, root, tag, world_size, loans), loans)

    def barrier(self, tag: int = 0) -> ReduceInfo:
        """Waits until all peers have called it with this tag; after a loss, those who are left."""
        number = checked_integer(tag, "tag", 0, UINT64_MAX)
        require_extension(self._library, "barrier", ("pcclBarrier",))
        self._settle_abandoned(number)
        info = ffi.new("pcclReduceInfo_t *")
        with self._lifetime.inside() as pointer:
            code = self._library.pcclBarrier(number, pointer, info)
        check(code, "pcclBarrier", f"tag {number}, {self._subject}")
        return ReduceInfo(int(info.local_world_size), int(info.tx_bytes), int(info.rx_bytes), ())

    def _run(self, request: BlockRequest) -> ReduceInfo:
        require_extension(self._library, request.function, (request.function,))
        self._settle_abandoned(request.tag)
        info = ffi.new("pcclReduceInfo_t *")
        arguments = request.arguments()
        with self._lifetime.inside() as pointer:
            code = getattr(self._library, request.function)(*arguments, pointer, info)
        check(code, request.function, f"tag {request.tag}, {self._subject}")
        return ReduceInfo(int(info.local_world_size), int(info.tx_bytes), int(info.rx_bytes), ())

    def _start(self, request: BlockRequest, loans: Loans) -> AsyncReduceHandle:
        function = request.function + "Async"
        require_extension(self._library, function, (function,))
        self._settle_abandoned(request.tag)
        native = ffi.new("pcclAsyncReduceOp_t *")
        arguments = request.arguments()
        with self._lifetime.inside() as pointer:
            code = getattr(self._library, function)(*arguments, pointer, native)
        check(code, function, f"tag {request.tag}, {self._subject}")
        return self._handle(native, request, loans)

    # What Communicator has for them.

    @property
    def _subject(self) -> str:
        raise NotImplementedError

    def _settle_abandoned(self, tag: Optional[int] = None) -> None:
        raise NotImplementedError

    def _checked_options(self, on_loss: Any, codec: Any, error_feedback: bool, quantization: Any) -> Any:
        raise NotImplementedError

    def _handle(self, native: Any, request: BlockRequest, loans: Loans) -> AsyncReduceHandle:
        raise NotImplementedError
