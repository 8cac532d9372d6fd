"""Who is inside a call on a native object, so that nothing frees it under them."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import Any, Iterator, Optional

from ._errors import InvalidUsageError

__all__ = ["Lifetime"]


class Lifetime:
    """A native pointer from its creation to its end.

    The C functions may be called from any thread, but the one that frees the object only when no other thread is inside
    a call on it. C leaves that to the caller; here it is counted.
    """

    def __init__(self, pointer: Any, what: str) -> None:
        self._pointer = pointer
        self._what = what
        self._owner = os.getpid()
        self._calls = 0
        self._changed = threading.Condition()

    @property
    def is_alive(self) -> bool:
        """False after the end, and in a forked child, which must leave its parent's objects alone."""
        return self._pointer is not None and os.getpid() == self._owner

    @property
    def calls(self) -> int:
        """Calls that threads are inside of now."""
        return self._calls

    @contextmanager
    def inside(self) -> Iterator[Any]:
        """Gives the pointer for one call. InvalidUsageError after the end."""
        if os.getpid() != self._owner:
            raise InvalidUsageError(f"{self._what} does not survive fork(). Make it in the process that uses it.")
        with self._changed:
            if self._pointer is None:
                raise InvalidUsageError(f"{self._what} is destroyed. Make a new one.")
            self._calls += 1
            pointer = self._pointer
        try:
            yield pointer
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def end(self) -> Optional[Any]:
        """Takes the pointer, to free it; None when it was taken before or belongs to the parent process.

        InvalidUsageError while a thread is inside a call.
        """
        if not self.is_alive:
            return None
        with self._changed:
            if self._calls:
                raise InvalidUsageError(
                    f"{self._what} cannot be destroyed: {self._calls} threads are inside calls on it. Let them "
                    "return first."
                )
            pointer, self._pointer = self._pointer, None
        return pointer

    def await_no_calls(self) -> None:
        """Blocks until no thread is inside a call."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls == 0)
