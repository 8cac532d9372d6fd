"""What torch.distributed hands out for an operation in flight."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Callable, Deque, List, Optional, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Work

from .communicator import AsyncReduceHandle

__all__ = ["JoinedWork", "PcclWork"]


class PcclWork(Work):
    """An operation of a :class:`PcclProcessGroup`. Any thread may wait for it, any number of times."""

    def __init__(self, name: str, results: Sequence[Tensor], seconds: float) -> None:
        super().__init__()
        self.name = name
        self.deadline = time.monotonic() + seconds
        self.handles: Deque[AsyncReduceHandle] = deque()
        self.finishes: List[Callable[[], object]] = []
        self._results = list(results)
        self.seconds = seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._error: Optional[Exception] = None
        self._future: Optional[torch.futures.Future[List[Tensor]]] = None
        self._afterwards: List[Callable[[], object]] = []

    def end(self, error: Optional[Exception]) -> None:
        """Sets the outcome. The first one stays."""
        with self._lock:
            if self._ended.is_set():
                return
            self._error = error
            self._ended.set()
            afterwards, self._afterwards = self._afterwards, []
        for call in afterwards:
            call()

    def after(self, call: Callable[[], object]) -> None:
        """Has ``call`` made when the outcome is there, or at once."""
        with self._lock:
            if not self._ended.is_set():
                self._afterwards.append(call)
                return
        call()

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Blocks until the operation has ended. A timeout of zero is the group's.

        Raises DistBackendError when it failed, or was not finished in time.
        """
        seconds = timeout.total_seconds() if timeout is not None else 0
        # Without one of its own the watcher ends it.
        if not self._ended.wait(seconds if seconds > 0 else None):
            raise dist.DistBackendError(f"pccl: {self.name} did not finish within {seconds:g} seconds")
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self._ended.is_set() and self._error is None

    def exception(self) -> Optional[Exception]:
        """Why it failed; None when it did not, or has not ended."""
        return self._error

    def result(self) -> List[Tensor]:
        """The tensors that hold the result, after it has ended."""
        return self._results

    def synchronize(self) -> None:
        """As ``wait()``."""
        self.wait()

    def get_future(self) -> torch.futures.Future[List[Tensor]]:
        """A future of the tensors that hold the result."""
        with self._lock:
            if self._future is not None:
                return self._future
            self._future = torch.futures.Future()
        # What is chained to the future runs where it is completed, and may itself wait for operations of this group, so
        # that must not be the thread that ends them.
        self.after(lambda: _callbacks().submit(self._complete))
        return self._future

    def _complete(self) -> None:
        assert self._future is not None
        if self._error is None:
            self._future.set_result(self._results)
        else:
            self._future.set_exception(self._error)  # type: ignore[arg-type]


_making = threading.Lock()
_executor: Optional[ThreadPoolExecutor] = None


def _callbacks() -> ThreadPoolExecutor:
    global _executor
    with _making:
        if _executor is None:
            _executor = ThreadPoolExecutor(max_workers=32, thread_name_prefix="pccl-future")
        return _executor


class JoinedWork(PcclWork):
    """Several works as one."""

    def __init__(self, works: Sequence[Work]) -> None:
        super().__init__("coalesced operations", [tensor for work in works for tensor in work.result()], 0)
        mine = [work for work in works if isinstance(work, PcclWork)]
        self._left = len(mine)
        if not mine:
            self.end(None)
        for work in mine:
            work.after(lambda work=work: self._one_ended(work))  # type: ignore[misc]

    def _one_ended(self, work: PcclWork) -> None:
        if work.exception() is not None:
            self.end(work.exception())
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self.end(None)
