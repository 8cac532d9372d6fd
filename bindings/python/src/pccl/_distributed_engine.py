"""Operations in flight on a communicator, and how they end when a peer is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, Generic, List, Optional, Sequence, TypeVar

import torch
import torch.distributed as dist

from ._distributed_work import PcclWork
from ._errors import InvalidArgumentError, InvalidUsageError, PCCLError, RankConnectionLostError, TooFewPeersError
from ._types import ReduceOp
from .communicator import AsyncReduceHandle, Communicator

__all__ = ["Attempt", "Engine", "Plan", "agree", "all_reduce_plan", "destroy_when_idle", "exchange_ranks"]

_T = TypeVar("_T")

# Operations get the tags 0, 1, 2 ... in the order of calls; what groups say among themselves has tags far above.
_AGREEMENT_TAG = 1 << 63
_IDENTITY_TAG = _AGREEMENT_TAG + 1
# How often operations in flight are looked after, in seconds.
_WATCH_INTERVAL = 0.5
_DRAIN_INTERVAL = 0.05
# The library itself ends operations that a loss interrupts. Only one that some survivor never calls stays in flight;
# it is given up so many seconds after the loss.
_LOSS_GRACE = 2.0


@dataclass(frozen=True)
class Plan:
    """One operation of the library, and what is to be done when it has ended. Both may be nothing."""

    start: Optional[Callable[[Communicator, int], AsyncReduceHandle]] = None
    finish: Optional[Callable[[], object]] = None
    outlasts_losses: bool = False
    """An all-reduce that not all have called when a peer is lost stays in flight. All else is for a number of peers,
    and ends when that is no longer so."""


class Engine:
    """A communicator, and the operations in flight on it.

    Operations are launched in the order of calls, so a counter gives the same tags on all peers. One thread awaits them
    in the same order; another one looks for those that will never end. After the first failure nothing is launched or
    awaited any more, until the survivors have agreed how to end what some of them have in flight (``drain``).
    """

    def __init__(self, communicator: Communicator, size: int, subject: str) -> None:
        self.communicator = communicator
        self.size = size
        self.launched = 0
        self.failure: Optional[Exception] = None
        self._subject = subject
        self._changed = threading.Condition()
        self._queue: Deque[PcclWork] = deque()
        self._in_flight: Dict[int, bool] = {}
        self._draining = False
        self._closing = threading.Event()
        self._awaiter = threading.Thread(target=self._await_all, name="pccl-await", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="pccl-watch", daemon=True)
        self._awaiter.start()
        self._watcher.start()

    def submit(self, work: PcclWork, plans: Sequence[Plan]) -> None:
        """Launches ``plans``. Errors of arguments are raised; all others end the work."""
        with self._changed:
            if self._closing.is_set():
                raise dist.DistBackendError(f"pccl: the {self._subject} was destroyed")
            if self.failure is not None:
                work.end(self.failure)
                return
            self._queue.append(work)
            try:
                for plan in plans:
                    if plan.start is not None:
                        self._launch(work, plan, self.launched)
                        self.launched += 1
                    if plan.finish is not None:
                        work.finishes.append(plan.finish)
            except (ValueError, TypeError, NotImplementedError, InvalidArgumentError) as reason:
                # What was launched of it must still be awaited.
                work.end(reason)
                raise
            except PCCLError as reason:
                self.fail(self.loss(work.name, reason))
            finally:
                self._changed.notify_all()

    def fail(self, failure: Exception) -> None:
        """Ends all works, now and later, with ``failure``. The first one stays."""
        with self._changed:
            if self.failure is None:
                self.failure = failure
            for work in self._queue:
                work.end(self.failure)
            self._changed.notify_all()

    def _launch(self, work: PcclWork, plan: Plan, tag: int) -> None:
        assert plan.start is not None
        work.handles.append(plan.start(self.communicator, tag))
        self._in_flight[tag] = plan.outlasts_losses

    def tags_in_flight(self, after_a_loss: bool) -> List[int]:
        """What will not end by itself, unless all launch it."""
        with self._changed:
            return [tag for tag, outlasts_losses in self._in_flight.items() if outlasts_losses or not after_a_loss]

    def stand_in(self, tags: Sequence[int]) -> None:
        """Launches something for ``tags`` that ends what others have in flight under them.

        Arguments that do not match are an error at all peers. Should they match, the lowest of a number and infinity is
        that number.
        """
        with self._changed:
            for tag in tags:
                if tag not in self._in_flight:
                    work = PcclWork("a stand-in", [], 0)
                    infinity = torch.full((1,), float("inf"), dtype=torch.float64)
                    self._launch(work, all_reduce_plan(infinity, ReduceOp.MIN), tag)
                    self._queue.append(work)

    def drain(self, size: int) -> bool:
        """Awaits what is in flight after a failure. False when there are fewer than ``size`` peers meanwhile."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            try:
                while not self._changed.wait_for(lambda: not self._queue, _DRAIN_INTERVAL):
                    if self.peers_left() < size:
                        return False
                return True
            finally:
                self._draining = False

    def renew(self, size: int) -> None:
        """Forgets the failure."""
        with self._changed:
            self.size = size
            self.failure = None

    def close(self, patience: float) -> None:
        """Ends the communicator, after the operations in flight if that does not take longer than ``patience``."""
        with self._changed:
            if patience > 0:
                self._changed.wait_for(lambda: not self._queue or self.failure is not None, patience)
            self._closing.set()
        self.fail(dist.DistBackendError(f"pccl: the {self._subject} was destroyed"))
        # The awaiting thread destroys the communicator: nobody else knows when it is out of the library. It may be held
        # there by an operation that another peer does not call, and is then left behind.
        if threading.current_thread() is not self._awaiter:
            self._awaiter.join(_WATCH_INTERVAL)

    def _await_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_something_to_do)
                if self._closing.is_set():
                    break
                work = self._queue[0]
                handle = work.handles[0] if work.handles else None
            if handle is None:
                self._finish(work)
                continue
            try:
                self._await(work, handle)
            except Exception as reason:
                # A bug; without this thread whoever waits would wait for ever.
                self.fail(reason)
            with self._changed:
                work.handles.popleft()
                self._in_flight.pop(handle.tag, None)
        destroy_when_idle(self.communicator)
        self._queue.clear()

    def _has_something_to_do(self) -> bool:
        return self._closing.is_set() or bool(self._queue and (self.failure is None or self._draining))

    def _await(self, work: PcclWork, handle: AsyncReduceHandle) -> None:
        try:
            info = handle.wait()
        except InvalidArgumentError as reason:
            # Also what ends an operation that only some survivors of a loss have launched; it has failed before then.
            error = dist.DistBackendError(f"pccl: {work.name} failed. {reason}")
            error.__cause__ = reason
            work.end(error)
        except PCCLError as reason:
            self.fail(self.loss(work.name, reason))
        else:
            # An operation that nobody had begun when a peer was lost goes on without it. Here the world is what it was.
            if info.world_size != self.size:
                self.fail(self.loss(work.name, None))

    def _finish(self, work: PcclWork) -> None:
        error: Optional[Exception] = None
        if not work.is_completed():
            try:
                # Results are copied as they are, whatever mode their tensors were made in.
                with torch.inference_mode():
                    for finish in work.finishes:
                        finish()
            except Exception as reason:
                error = reason
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()
        work.end(error)

    def _watch(self) -> None:
        lost_since: Optional[float] = None
        while not self._closing.wait(_WATCH_INTERVAL):
            with self._changed:
                work = self._queue[0] if self._queue else None
                if work is None or self.failure is not None:
                    lost_since = None
                    continue
            now = time.monotonic()
            if now > work.deadline:
                seconds = work.seconds
                self.fail(
                    dist.DistBackendError(
                        f"pccl: {work.name} in the {self._subject} did not finish within {seconds:g} seconds. "
                        "Some peer has not called it. pccl.distributed.reconfigure() on all peers makes the group "
                        "usable again."
                    )
                )
            elif self.peers_left() == self.size:
                lost_since = None
            elif lost_since is None:
                lost_since = now
            elif now - lost_since > _LOSS_GRACE:
                self.fail(self.loss(work.name, None))

    def peers_left(self) -> int:
        """Peers of the group that are not lost, as far as is known; 0 when this one is."""
        try:
            return self.communicator.world_size
        except PCCLError:
            return 0

    def loss(self, name: str, reason: Optional[PCCLError]) -> Exception:
        left = self.peers_left()
        if left == 0:
            what = "this process is not connected any more. Destroy the process group and make a new one."
        elif left == self.size:
            what = "it failed. pccl.distributed.reconfigure() on all peers makes the group usable again."
        else:
            what = (
                f"a peer was lost, {left} of {self.size} are left. The group can be used again when all of them have "
                "called pccl.distributed.reconfigure()."
            )
        error = dist.DistBackendError(
            f"pccl: {name} in the {self._subject}: {what}" + ("" if reason is None else f" ({reason})")
        )
        error.__cause__ = reason
        return error


def exchange_ranks(communicator: Communicator, size: int, rank: int, nonce: int) -> List[int]:
    """The ranks of all peers in the order that pccl has them in."""
    table = torch.empty(size, 2, dtype=torch.int64)
    info = communicator.all_gather(torch.tensor([rank, nonce]), table, tag=_IDENTITY_TAG)
    if info.world_size != size:
        raise RankConnectionLostError("a peer was lost meanwhile")
    if bool((table[:, 1] != nonce).any()):
        raise dist.DistBackendError("other peers are in the same peer group by accident; try again")
    return [int(other) for other in table[:, 0]]


def agree(engine: Engine, rank: int) -> List[int]:
    """Ends what is in flight at some survivors, and gives the ranks of all of them in the order that pccl has them in.

    A survivor that saw the loss early has not launched all that others have, and those would wait for it for ever. So
    they say what they wait for, and who has not launched it launches a stand-in. Every step ends alike for them all.
    """
    communicator = engine.communicator
    while True:
        try:
            oldest = min(engine.tags_in_flight(after_a_loss=False), default=engine.launched)
            bounds = torch.tensor([engine.launched, -oldest])
            size = communicator.all_reduce(bounds, op=ReduceOp.MAX, tag=_AGREEMENT_TAG).world_size
            last, first = int(bounds[0]), -int(bounds[1])
            engine.launched = last
            waited_for = torch.zeros(last - first + 1, dtype=torch.uint8)
            for tag in engine.tags_in_flight(after_a_loss=size != engine.size):
                waited_for[tag - first] = 1
            if communicator.all_reduce(waited_for, op=ReduceOp.MAX, tag=_AGREEMENT_TAG).world_size != size:
                continue
            engine.stand_in([first + int(place) for place in waited_for.nonzero()])
            if engine.drain(size):
                return exchange_ranks(communicator, size, rank, 0)
        except RankConnectionLostError:
            continue
        except TooFewPeersError:
            engine.drain(1)
            return [rank]


def all_reduce_plan(elements: torch.Tensor, op: ReduceOp, finish: Optional[Callable[[], object]] = None) -> Plan:
    """An all-reduce in place."""
    return Plan(lambda peers, tag: peers.all_reduce_async(elements, op=op, tag=tag), finish, outlasts_losses=True)


class Attempt(Generic[_T]):
    """A call that blocks in the library, in a thread of its own, and can be waited for again if it takes too long."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._results: List[_T] = []
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="pccl-membership", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as reason:  # handed on below
            self._error = reason

    def result(self, deadline: float) -> _T:
        """What the call returns or raises; TimeoutError when it has done neither at ``deadline``."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError("some peer did not come")
        return self._results[0]


def destroy_when_idle(communicator: Communicator) -> None:
    """Destroys a communicator when no thread is inside of it any more."""
    while True:
        try:
            communicator.destroy()
            return
        except InvalidUsageError:
            time.sleep(0.05)
