"""A peer, and the collectives that it takes part in."""

from __future__ import annotations

import collections
import os
import threading
import time
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Deque, List, Optional, Sequence, Tuple, Type, Union

from ._address import Address, describe_address, resolve_address, split_address
from ._arguments import INT_MAX, UINT32_MAX, UINT64_MAX, checked_integer
from ._buffers import Loans, Region, region_of
from ._collectives import BlockRequest, Collectives
from ._errors import InternalError, InvalidUsageError, MasterConnectionFailedError, PCCLError, check, error
from ._lifetime import Lifetime
from ._native import ffi, initialized_library, require_extension
from ._states import native_state
from ._types import (
    Attribute,
    Codec,
    CodecFormat,
    DistributionHint,
    OnLoss,
    QuantizationAlgorithm,
    QuantizationOptions,
    ReduceInfo,
    ReduceOp,
    ReduceOperand,
    Result,
    ResultPart,
    Rounding,
    SharedState,
    SharedStateSyncInfo,
    SharedStateSyncStrategy,
)

__all__ = ["AsyncReduceHandle", "Communicator"]

# The library keeps up to 256 parts of an operation that was interrupted, however often, and reduces what lies between
# them: 513 parts at most.
_PARTS_AT_MOST = 1024
# pcclOnLossUsual
_ON_LOSS_USUAL = 3


class Communicator(Collectives):
    """This process as a peer of a run.

    Args:
        address: the master's address: ``"host:port"``, ``"[IPv6 address]:port"`` or ``(host, port)``. A name is looked
            up once, here; its IPv4 address is preferred.
        peer_group: collectives run among the peers of the same group. 0 unless a run has several.
        p2p_connection_pool_size: connections to each other peer. 0: the library chooses.
        ensemble: ``(id, size)`` of the peers that this one is admitted and lost with, in whatever groups they are: the
            processes of a node, say, each of which has one shard of a model. The id is the same at all of them and was
            never used before; a node that is started again has another. ``connect()`` returns when all of them are
            members, and ``update_topology()`` and ``are_peers_pending()`` are joint calls of all groups that such
            peers are in.

    Raises:
        ValueError, TypeError: an argument is malformed. OSError: the host name is not known.
        ImportError: the shared library is missing or cannot be loaded.

    **Joint calls.** All peers of a group must make the same joint calls in the same order: :meth:`update_topology`,
    :meth:`are_peers_pending`, :meth:`optimize_topology`, :meth:`sync_shared_state`. Collectives are matched by tag.

    **Threads.** Any thread may call any method, but :meth:`destroy` only when no other is inside a call; the
    interpreter lock is free while a call blocks. Python runs signal
    handlers (Ctrl-C) only after a blocking call has returned. A communicator does not survive ``fork()``.

    **Ownership.** Buffers are lent for the time of a call, or until an operation's ``wait()`` has returned; do not
    write to them, nor read results from them, before. Nothing is copied on the way in.

    As a context manager it is destroyed, which tells the others goodbye, at the end of the block.
    """

    def __init__(
        self,
        address: Address,
        peer_group: int = 0,
        p2p_connection_pool_size: int = 0,
        ensemble: Optional[Tuple[int, int]] = None,
    ) -> None:
        # Operations whose handle was dropped before it was awaited. They still write to their buffers, which are kept
        # alive here until somebody awaits them. Filled by __del__, hence a deque: its append needs no lock.
        self._abandoned: Deque[_Operation] = collections.deque()
        self._address = describe_address(*split_address(address))
        parameters = ffi.new("pcclCommCreateParams_t *")
        parameters.master_address = resolve_address(address)[0]
        parameters.peer_group = checked_integer(peer_group, "peer_group", 0, UINT32_MAX)
        parameters.p2p_connection_pool_size = checked_integer(
            p2p_connection_pool_size, "p2p_connection_pool_size", 0, UINT32_MAX
        )
        self._library = initialized_library()
        created = ffi.new("pcclComm_t **")
        if ensemble is None:
            check(self._library.pcclCreateCommunicator(parameters, created), "pcclCreateCommunicator", self._subject)
        else:
            function = "pcclCreateCommunicatorInEnsemble"
            require_extension(self._library, "ensembles", (function,))
            native = ffi.new("pcclEnsemble_t *")
            native.id = checked_integer(ensemble[0], "the id of the ensemble", 0, UINT64_MAX)
            native.size = checked_integer(ensemble[1], "the size of the ensemble", 0, UINT32_MAX)
            check(getattr(self._library, function)(parameters, native, created), function, self._subject)
        self._lifetime = Lifetime(created[0], f"the communicator ({self._subject})")

    # Membership

    def connect(self, attempts: int = 1, interval: float = 1.0) -> None:
        """Joins the run, and blocks until this peer is admitted.

        The first peer of a group is admitted at once, others when the members call :meth:`update_topology`. After that
        the members go on, to reduce, say: do not call ``update_topology()`` in the same turn.

        Args:
            attempts: how often to try when the master cannot be reached or refuses.
            interval: seconds between two attempts.

        Raises:
            MasterConnectionFailedError: the last attempt failed too. ``connect()`` may be called again.
            InvalidUsageError: connected already.
        """
        checked_integer(attempts, "attempts", 1, INT_MAX)
        if not interval >= 0:
            raise ValueError(f"interval is {interval!r}; expected seconds, 0 or more")
        for attempt in range(1, attempts + 1):
            try:
                with self._lifetime.inside() as pointer:
                    check(self._library.pcclConnect(pointer), "pcclConnect", self._subject)
                return
            except MasterConnectionFailedError:
                if attempt == attempts:
                    raise
            time.sleep(interval)

    def update_topology(self) -> None:
        """Join point: blocks until all peers of the group have called it, and admits those who wait in ``connect()``.

        Raises:
            UpdateTopologyFailedError: this peer was evicted, or the master stayed away.
            PendingAsyncOpsError: operations are not awaited.
            InvalidUsageError: not connected, or the peers are in different calls.
        """
        self._settle_abandoned()
        with self._lifetime.inside() as pointer:
            check(self._library.pcclUpdateTopology(pointer), "pcclUpdateTopology", self._subject)

    def are_peers_pending(self) -> bool:
        """Tells whether peers wait in ``connect()``. Joint: all peers of the group call it and get the same answer.

        It may be called while asynchronous operations run.

        Raises:
            InvalidUsageError: not connected, the master is gone, or the peers are in different calls.
        """
        pending = ffi.new("bool *")
        with self._lifetime.inside() as pointer:
            check(self._library.pcclArePeersPending(pointer, pending), "pcclArePeersPending", self._subject)
        return bool(pending[0])

    def optimize_topology(self) -> None:
        """Arranges the group by what the transfers so far say of the connections. Joint; admits nobody.

        Ranks are then in the order of the best ring, peers with slow connections reduce smaller shares, and algorithms
        are chosen by measured latencies and rates. Nothing is worse than before. Call it after some operations, and
        again when a peer has joined.

        Raises:
            TopologyOptimizationFailedError: it failed, or operations are not awaited; the old order stays.
            InvalidUsageError: not connected, alone in the group, or the peers are in different calls.
        """
        self._settle_abandoned()
        with self._lifetime.inside() as pointer:
            check(self._library.pcclOptimizeTopology(pointer), "pcclOptimizeTopology", self._subject)

    @property
    def world_size(self) -> int:
        """Peers of this group now, this one included. Never blocks. InvalidUsageError when not connected."""
        return self.get_attribute(Attribute.PEER_GROUP_WORLD_SIZE)

    def get_attribute(self, attribute: Attribute) -> int:
        """A number about the run as it is now. Never blocks.

        Raises:
            InvalidUsageError: not connected.
            ValueError: no such attribute.
        """
        value = ffi.new("int *")
        with self._lifetime.inside() as pointer:
            code = self._library.pcclGetAttribute(pointer, Attribute(attribute), value)
        check(code, "pcclGetAttribute", self._subject)
        return int(value[0])

    # Collectives

    def all_reduce(
        self,
        send: Any,
        recv: Any = None,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        *,
        quantization: Optional[QuantizationOptions] = None,
        distribution_hint: DistributionHint = DistributionHint.NONE,
        on_loss: OnLoss = OnLoss.ABORT,
        codec: Optional[Codec] = None,
        error_feedback: bool = False,
    ) -> ReduceInfo:
        """Combines the tensors of all peers of the group, element by element; all get the same bits.

        Args:
            send: this peer's contribution: a NumPy array, a torch tensor, or an object with the buffer protocol,
                ``__cuda_array_interface__`` or DLPack; C-contiguous, of any shape, with the same number of elements and
                the same type on every peer.
            recv: where the result goes; as many elements of the same type as ``send``. None: into ``send``, in place.
                It may be ``send`` itself, but not overlap it in part. Unspecified content after an error, unless it is
                ``send``.
            op: how elements are combined.
            tag: name of this operation among all that run at once, 0 to 2**64 - 1, the same on every peer.
            quantization: how floats are made smaller for the network, in the terms of PCCL 1.0; the same on every peer.
                What would not become smaller travels as it is, integers do so always. None: as ``codec`` says.
            distribution_hint: how values are distributed. It changes nothing: blocks have ranges of their own.
            on_loss: what is to become of it when a peer is lost. Peers may differ; :class:`OnLoss` tells whose holds.
            codec: how floats are made smaller, with a wider choice; the same on every peer. None: not at all.
            error_feedback: whether what coding loses of this peer's contributions to a SUM or an AVG is kept under the
                tag and added to the next ones, so that in the long run nothing is lost. Takes 8 bytes for an element
                (float64: 16) until :meth:`free_error_feedback`; an operation that fails leaves it as it was.

        Returns:
            The number of contributors, the bytes moved, and the parts of the result if ``OnLoss.RESUME`` left several.

        Raises:
            RankConnectionLostError: a peer was lost. ``send`` is whole, the world size is new: call it again. All
                surviving peers get this same error. With an ``on_loss`` that resumes only when no second peer is left,
                or another peer's call has ``OnLoss.ABORT``.
            TooFewPeersError: this peer is alone.
            InvalidArgumentError: the peers' arguments do not match, the tag is in use, or the buffers overlap.
            MasterConnectionFailedError: this peer was taken for lost and evicted. ``send`` is whole; ``connect()``
                again to come back as a newcomer.
            InvalidUsageError: not connected, or the peers are in different calls.
            ValueError, TypeError: a buffer cannot be used; the text says what to do.
            NotImplementedError: ``on_loss`` resumes, or there is a ``codec`` or error feedback, which the library that
                ``PCCL_LIBRARY`` names does not have.
            InternalError: a bug; among others that the result has more than 1024 parts, as no release makes them. It is
                there then, at all surviving peers, but which elements have what cannot be told.
        """
        with Loans() as loans:
            request = _Request.of(send, recv, op, tag, quantization, distribution_hint, loans)
            options = self._checked_options(on_loss, codec, error_feedback, quantization)
            self._settle_abandoned(tag)
            info = ffi.new("pcclReduceInfo_t *")
            arguments = (
                ffi.cast("void *", request.send.address),
                ffi.cast("void *", request.recv.address),
                request.native_descriptor(),
            )
            parts: Optional[_Parts] = None
            with self._lifetime.inside() as pointer:
                if options is None:
                    function = "pcclAllReduce"
                    code = self._library.pcclAllReduce(*arguments, pointer, info)
                else:
                    function = "pcclAllReduceWithOptions"
                    parts = _Parts(OnLoss(on_loss), request)
                    code = self._library.pcclAllReduceWithOptions(
                        *arguments, pointer, options, info, parts.array, parts.capacity, parts.count
                    )
            check(code, function, f"tag {tag}, {self._subject}")
            return _reduce_info(info, parts)

    def all_reduce_async(
        self,
        send: Any,
        recv: Any = None,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        *,
        quantization: Optional[QuantizationOptions] = None,
        distribution_hint: DistributionHint = DistributionHint.NONE,
        on_loss: OnLoss = OnLoss.ABORT,
        codec: Optional[Codec] = None,
        error_feedback: bool = False,
    ) -> AsyncReduceHandle:
        """Starts what :meth:`all_reduce` does, and returns at once.

        Several may run at the same time under different tags, launched in any order on each peer. The buffers belong to
        the library until :meth:`AsyncReduceHandle.wait` has returned; the handle keeps them alive.

        Raises:
            TooFewPeersError, InvalidArgumentError, InvalidUsageError, ValueError, TypeError, NotImplementedError: as
                ``all_reduce()``. What is learnt later is raised by ``wait()``.
        """
        with Loans() as loans:
            request = _Request.of(send, recv, op, tag, quantization, distribution_hint, loans)
            options = self._checked_options(on_loss, codec, error_feedback, quantization)
            self._settle_abandoned(tag)
            native = ffi.new("pcclAsyncReduceOp_t *")
            arguments = (
                ffi.cast("void *", request.send.address),
                ffi.cast("void *", request.recv.address),
                request.native_descriptor(),
            )
            with self._lifetime.inside() as pointer:
                if options is None:
                    function = "pcclAllReduceAsync"
                    code = self._library.pcclAllReduceAsync(*arguments, pointer, native)
                else:
                    function = "pcclAllReduceAsyncWithOptions"
                    code = self._library.pcclAllReduceAsyncWithOptions(*arguments, pointer, options, native)
            check(code, function, f"tag {tag}, {self._subject}")
            return AsyncReduceHandle(self, _Operation(native, request, OnLoss(on_loss), loans.kept()))

    def _handle(self, native: Any, request: BlockRequest, loans: Loans) -> AsyncReduceHandle:
        return AsyncReduceHandle(self, _Operation(native, request, OnLoss.ABORT, loans.kept()))

    def all_reduce_multiple_with_retry(
        self,
        operands: Sequence[ReduceOperand],
        max_in_flight: int = 16,
        on_loss: Optional[OnLoss] = None,
        *,
        codec: Optional[Codec] = None,
        error_feedback: bool = False,
    ) -> ReduceInfo:
        """Reduces several tensors, ``max_in_flight`` of them at a time, and goes on among the survivors after a loss.

        Returns only when every tensor is reduced, whoever is lost meanwhile. What was finished before a loss keeps the
        lost peer's contribution. So tensors may have the contributions of more or fewer peers, and with
        ``OnLoss.RESUME`` the elements of one tensor may; the library does not tell which.

        Args:
            operands: what to reduce; the same list, but for the buffers, on every peer. Tags must differ.
            max_in_flight: most operations at once, 1 or more.
            on_loss: what becomes of a tensor that a loss interrupts. None: ``OnLoss.RESUME`` for AVG, MAX and MIN, and
                ``OnLoss.RESUME_WHOLE`` for SUM and PROD, all elements of which then have the contributions of the same
                peers. Else this, for all of them; with ``OnLoss.ABORT`` an interrupted tensor is reduced again from its
                beginning.
            codec: as in :meth:`all_reduce`, for all of them that it makes smaller; others travel as they are.
            error_feedback: as in :meth:`all_reduce`, for the SUMs and AVGs among those that are coded.

        Returns:
            The traffic of all, and the world size at the end. It has no parts.

        Raises:
            TooFewPeersError: nobody else is left. Buffers of unfinished tensors are whole.
            InvalidArgumentError, InvalidUsageError, ValueError, TypeError: as :meth:`all_reduce`.
            NotImplementedError: ``on_loss`` is not None, or there is a ``codec`` or error feedback, and the library that
                ``PCCL_LIBRARY`` names offers no choice.
        """
        if not operands:
            raise ValueError("operands is empty")
        checked_integer(max_in_flight, "max_in_flight", 1, INT_MAX)
        with Loans() as loans:
            requests: List[_Request] = []
            for index, operand in enumerate(operands):
                tag = index if operand.tag is None else operand.tag
                requests.append(
                    _Request.of(
                        operand.send,
                        operand.recv,
                        operand.op,
                        tag,
                        operand.quantization,
                        operand.distribution_hint,
                        loans,
                        place=f"operands[{index}].",
                    )
                )
            tags = collections.Counter(request.tag for request in requests)
            repeated = sorted(tag for tag, uses in tags.items() if uses > 1)
            if repeated:
                raise ValueError(f"tags {repeated[:8]} are used by several operands; each needs its own")
            options = None
            if on_loss is not None or codec is not None or error_feedback:
                quantizations = (operand.quantization for operand in operands)
                quantized = next((found for found in quantizations if found is not None), None)
                options = self._checked_options(on_loss, codec, error_feedback, quantized, even_default=True)
            for tag in tags:
                self._settle_abandoned(tag)
            natives = ffi.new("pcclReduceOpDescriptor_t[]", len(requests))
            for native, request in zip(natives, requests):
                native.sendbuf = ffi.cast("void *", request.send.address)
                native.recvbuf = ffi.cast("void *", request.recv.address)
                request.fill(native.descriptor)
            info = ffi.new("pcclReduceInfo_t *")
            with self._lifetime.inside() as pointer:
                if options is None:
                    function = "pcclAllReduceMultipleWithRetry"
                    code = self._library.pcclAllReduceMultipleWithRetry(
                        natives, len(requests), pointer, info, max_in_flight
                    )
                else:
                    function = "pcclAllReduceMultipleWithOptions"
                    code = self._library.pcclAllReduceMultipleWithOptions(
                        natives, len(requests), pointer, options, info, max_in_flight
                    )
            check(code, function, f"{len(requests)} tensors, {self._subject}")
            return _reduce_info(info)

    def free_error_feedback(self, tag: int = 0) -> None:
        """Forgets what coding has lost of this peer's contributions under a tag, and frees the memory.

        Raises:
            InvalidArgumentError: nothing is kept under this tag.
            NotImplementedError: the library that ``PCCL_LIBRARY`` names has no error feedback.
        """
        require_extension(self._library, "error feedback")
        checked_integer(tag, "tag", 0, UINT64_MAX)
        with self._lifetime.inside() as pointer:
            code = self._library.pcclFreeErrorFeedback(pointer, tag)
        check(code, "pcclFreeErrorFeedback", f"tag {tag}, {self._subject}")

    def dump_recorder(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes the last events of this peer to a file for ``pccl trace``, while other threads wait or after it was lost.

        Raises:
            InvalidArgumentError: the file cannot be written.
            InvalidUsageError: nothing is recorded: ``PCCL_RECORDER=0``.
            NotImplementedError: the library that ``PCCL_LIBRARY`` names has no flight recorder.
        """
        require_extension(self._library, "a flight recorder", ("pcclDumpRecorder",))
        with self._lifetime.inside() as pointer:
            code = self._library.pcclDumpRecorder(pointer, os.fsencode(path))
        check(code, "pcclDumpRecorder", f"{path}, {self._subject}")

    # Shared state

    def sync_shared_state(
        self,
        shared_state: SharedState,
        strategy: SharedStateSyncStrategy = SharedStateSyncStrategy.ENFORCE_POPULAR,
    ) -> SharedStateSyncInfo:
        """Makes all peers of the group hold the same tensors. Joint: returns when all do.

        One content is elected: that of most peers that have the revision that is due (any the first time, then one
        more each time) and do not only receive; among equals that of the lowest rank. Who holds something else
        receives the chunks that differ, from all who have them.

        Args:
            shared_state: this peer's tensors, written where they differ from the elected content, and its revision,
                updated where it was behind. Names, types and counts are the same on every peer, in any order.
            strategy: what this peer is ready to do.

        Raises:
            InvalidUsageError: not connected, other peers wait in another call, or this state does not go with the
                others' (see the log): a revision above the one that is due, other names, types or counts, strategies
                that cannot be mixed. Then this peer is no longer a member, and the others go on.
            NoSharedStateAvailableError: on all peers: none has the revision that is due and gives it, or none is left
                that had it.
            PendingAsyncOpsError: operations are not awaited.
            MasterConnectionFailedError: the master has taken this peer for lost, or stayed away for too long.
            NotImplementedError: an entry is said to be unchanged, and the library that ``PCCL_LIBRARY`` names has no
                such option.
            ValueError, TypeError: a tensor cannot be used; the text says what to do.
        """
        strategy = SharedStateSyncStrategy(strategy)
        with Loans() as loans:
            native, _regions, _kept = native_state(shared_state, True, loans, device=True)
            self._settle_abandoned()
            moved = ffi.new("pcclSharedStateSyncInfo_t *")
            unchanged = [bool(entry.unchanged) for entry in shared_state.tensors]
            if any(unchanged):
                require_extension(self._library, "unchanged entries")
                flags = ffi.new("bool[]", unchanged)
                options = ffi.new("pcclSyncOptions_t *")
                options.struct_size, options.unchanged = ffi.sizeof("pcclSyncOptions_t"), flags
                with self._lifetime.inside() as pointer:
                    code = self._library.pcclSynchronizeSharedStateWithOptions(
                        pointer, native, strategy, options, moved
                    )
            else:
                with self._lifetime.inside() as pointer:
                    code = self._library.pcclSynchronizeSharedState(pointer, native, strategy, moved)
            check(code, "pcclSynchronizeSharedState", f"revision {shared_state.revision}, {self._subject}")
        shared_state.revision = int(native.revision)
        return SharedStateSyncInfo(tx_bytes=int(moved.tx_bytes), rx_bytes=int(moved.rx_bytes))

    # Life

    def destroy(self) -> None:
        """Leaves the run, if connected, and frees the communicator. A second call does nothing.

        Operations that are not awaited end; the other peers see this one leave. Buffers are free when it returns.

        Raises:
            InvalidUsageError: another thread is inside a call on this communicator.
        """
        pointer = self._lifetime.end()
        if pointer is not None:
            check(self._library.pcclDestroyCommunicator(pointer), "pcclDestroyCommunicator", self._subject)
        # Only now does the library not touch them any more.
        while self._abandoned:
            self._abandoned.popleft().loans.give_back()

    @property
    def _subject(self) -> str:
        return f"master {self._address}"

    def _checked_options(
        self,
        on_loss: Optional[OnLoss],
        codec: Optional[Codec],
        error_feedback: bool,
        quantization: Optional[QuantizationOptions],
        even_default: bool = False,
    ) -> Any:
        """The library's options; None where the functions of PCCL 1.0 do as much."""
        policy = None if on_loss is None and even_default else OnLoss(on_loss)  # type: ignore[arg-type]
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"codec is {codec!r}; expected pccl.Codec or None")
        if codec is not None and quantization is not None:
            raise ValueError("codec and quantization are two ways to say the same; give one of them")
        if policy is OnLoss.ABORT and codec is None and not error_feedback and not even_default:
            return None
        wish = "error feedback"
        if codec is not None:
            wish = f"codec={codec}"
        elif policy is not None and not error_feedback:
            wish = f"on_loss={policy.name}"
        require_extension(self._library, wish)
        options = ffi.new("pcclReduceOptions_t *")
        options.struct_size = ffi.sizeof("pcclReduceOptions_t")
        options.on_loss = _ON_LOSS_USUAL if policy is None else policy
        options.error_feedback = bool(error_feedback)
        if codec is not None:
            options.codec = CodecFormat(codec.format)
            options.block_elements = 0 if codec.block is None else checked_integer(codec.block, "codec.block", 32, 256)
            options.rounding = Rounding(codec.rounding)
        return options

    def _settle_abandoned(self, tag: Optional[int] = None) -> None:
        """Awaits operations whose handles were dropped: all, or the one of ``tag``.

        Else a join point would say "pending operations" for ever, for nobody has a handle left to await. Their
        outcome was given up with the handle.
        """
        for operation in list(self._abandoned):
            if tag is not None and operation.request.tag != tag:
                continue
            try:
                self._abandoned.remove(operation)
            except ValueError:
                continue  # another thread is awaiting it
            with self._lifetime.inside():
                self._library.pcclAwaitAsyncReduce(operation.native, ffi.NULL)
            operation.loans.give_back()

    def __enter__(self) -> Communicator:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            self.destroy()
        except InvalidUsageError:
            # Another thread is still inside a call. An error that is on its way already matters more than this one.
            if value is None:
                raise

    def __del__(self) -> None:
        lifetime: Optional[Lifetime] = getattr(self, "_lifetime", None)
        if lifetime is not None and lifetime.is_alive:
            # First the deed: where warnings are errors, the second line does not return.
            self.destroy()
            warnings.warn(f"communicator ({self._subject}) was never destroyed", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return f"<pccl.Communicator {self._subject}{'' if self._lifetime.is_alive else ', destroyed'}>"


class AsyncReduceHandle:
    """A collective in flight, made by :meth:`Communicator.all_reduce_async` and its like. It keeps the buffers alive.

    Every handle must be awaited. One that is dropped before gives a ResourceWarning; its buffers then stay alive, and
    in use, until the next join point, the next operation of its tag, or the end of the communicator.
    """

    def __init__(self, communicator: Communicator, operation: _Operation) -> None:
        self._communicator = communicator
        self._operation = operation
        self._outcome: Union[ReduceInfo, PCCLError, None] = None
        self._waiting = threading.Lock()

    @property
    def tag(self) -> int:
        """The operation's tag."""
        return self._operation.request.tag

    def wait(self) -> ReduceInfo:
        """Blocks until the operation has ended. Any thread may call it, several at once, and again: same outcome.

        Raises:
            RankConnectionLostError: a peer was lost, and the operation is not resumed, as with
                :meth:`Communicator.all_reduce`. The input is whole, the world size is new: launch it again.
            InvalidArgumentError: the peers' arguments do not match.
            MasterConnectionFailedError: this peer was taken for lost and evicted. The input is whole.
            InvalidUsageError: the communicator was destroyed before, or the peers are in different calls.
        """
        with self._waiting:
            if self._outcome is None:
                self._outcome = self._await()
                self._operation.loans.give_back()
            outcome = self._outcome
        if isinstance(outcome, PCCLError):
            raise outcome
        return outcome

    def _await(self) -> Union[ReduceInfo, PCCLError]:
        communicator, operation = self._communicator, self._operation
        info = ffi.new("pcclReduceInfo_t *")
        parts: Optional[_Parts] = None
        with communicator._lifetime.inside():  # the native operation points to the communicator
            if operation.on_loss is OnLoss.ABORT:
                function = "pcclAwaitAsyncReduce"
                code = communicator._library.pcclAwaitAsyncReduce(operation.native, info)
            else:
                function = "pcclAwaitAsyncReduceParts"
                parts = _Parts(operation.on_loss, operation.request)
                code = communicator._library.pcclAwaitAsyncReduceParts(
                    operation.native, info, parts.array, parts.capacity, parts.count
                )
        if code != Result.SUCCESS:
            return error(code, function, f"tag {self.tag}, {communicator._subject}")
        try:
            return _reduce_info(info, parts)
        except InternalError as reason:
            return reason

    def __del__(self) -> None:
        communicator: Optional[Communicator] = getattr(self, "_communicator", None)
        if communicator is None or self._outcome is not None or not communicator._lifetime.is_alive:
            return
        communicator._abandoned.append(self._operation)
        warnings.warn(f"the operation with tag {self.tag} was never awaited", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        state = "in flight" if self._outcome is None else "ended"
        return f"<pccl.AsyncReduceHandle tag {self.tag}, {state}>"


@dataclass(frozen=True)
class _Request:
    """One all-reduce whose arguments were checked."""

    send: Region
    recv: Region
    op: ReduceOp
    tag: int
    quantization: Optional[QuantizationOptions]
    distribution_hint: DistributionHint

    @classmethod
    def of(
        cls,
        send: Any,
        recv: Any,
        op: ReduceOp,
        tag: int,
        quantization: Optional[QuantizationOptions],
        distribution_hint: DistributionHint,
        loans: Loans,
        place: str = "",
    ) -> _Request:
        in_place = recv is None
        source = region_of(send, f"{place}send", in_place, loans, device=True)
        target = source if in_place else region_of(recv, f"{place}recv", True, loans, device=True)
        if source.datatype != target.datatype:
            raise TypeError(
                f"{place}send has elements of type {source.datatype.name}, {place}recv of {target.datatype.name}; "
                "they must be the same"
            )
        if source.count != target.count:
            raise ValueError(
                f"{place}send has {source.count} elements, {place}recv {target.count}; they must be as many"
            )
        if quantization is not None and not isinstance(quantization, QuantizationOptions):
            raise TypeError(f"{place}quantization is {quantization!r}; expected pccl.QuantizationOptions or None")
        return cls(
            source,
            target,
            ReduceOp(op),
            checked_integer(tag, f"{place}tag", 0, UINT64_MAX),
            quantization,
            DistributionHint(distribution_hint),
        )

    def fill(self, descriptor: Any) -> None:
        descriptor.count = self.send.count
        descriptor.op = self.op
        descriptor.tag = self.tag
        descriptor.src_descriptor.datatype = self.send.datatype
        descriptor.src_descriptor.distribution_hint = self.distribution_hint
        chosen = self.quantization or QuantizationOptions(self.send.datatype, QuantizationAlgorithm.NONE)
        descriptor.quantization_options.quantized_datatype = chosen.datatype
        descriptor.quantization_options.algorithm = chosen.algorithm

    def native_descriptor(self) -> Any:
        descriptor = ffi.new("pcclReduceDescriptor_t *")
        self.fill(descriptor)
        return descriptor


@dataclass(frozen=True, eq=False)
class _Operation:
    """An operation in flight, as the library knows it, and the buffers that it uses."""

    native: Any
    request: Union[_Request, BlockRequest]
    on_loss: OnLoss
    loans: Loans


class _Parts:
    """Where the library tells of the parts of a result. It tells once, so there must be room for all of them before.

    Only ``OnLoss.RESUME`` makes several; all others need no room. A result has at most as many as it has elements.
    """

    def __init__(self, on_loss: OnLoss, request: Union[_Request, BlockRequest]) -> None:
        resumes = on_loss is OnLoss.RESUME and isinstance(request, _Request)
        self.capacity = min(request.recv.count, _PARTS_AT_MOST) if resumes else 0  # type: ignore[union-attr]
        self.array = ffi.new("pcclReducePart_t[]", self.capacity) if self.capacity else ffi.NULL
        self.count = ffi.new("size_t *")

    def told(self) -> Tuple[ResultPart, ...]:
        """The parts after a success: empty if there is one only."""
        count = int(self.count[0])
        if count <= 1:
            return ()
        if count > self.capacity:
            raise InternalError(
                f"the result is there, but it has {count} parts, and {self.capacity} is the most that this package "
                "knows the library to make. Which elements have how many contributions cannot be told."
            )
        return tuple(
            ResultPart(int(part.first_element), int(part.element_count), int(part.world_size))
            for part in self.array[0:count]
        )


def _reduce_info(info: Any, parts: Optional[_Parts] = None) -> ReduceInfo:
    return ReduceInfo(
        int(info.local_world_size), int(info.tx_bytes), int(info.rx_bytes), () if parts is None else parts.told()
    )
