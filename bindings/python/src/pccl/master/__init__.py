"""The master as an object of this process. ``python -m pccl.master`` is the program ``pccl-master``, a service of its own."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Optional, Type

from .._address import Address, describe_address, resolve_address, split_address
from .._errors import check
from .._lifetime import Lifetime
from .._native import ffi, library

__all__ = ["MasterNode"]


class MasterNode:
    """Admits peers, declares losses and arbitrates. No payload passes through it, so it needs little of anything.

    Args:
        listen_address: ``"host:port"``, ``"[IPv6 address]:port"`` or ``(host, port)``. ``0.0.0.0`` listens on every
            IPv4 address of the machine, ``[::]`` on every IPv6 one.

    Raises:
        ValueError, TypeError: the address is malformed. OSError: its name is not known.

    Any thread may call any method. As a context manager it is destroyed at the end; ``run()`` is yours to call::

        with pccl.MasterNode("0.0.0.0:48148") as master:
            master.run()
            master.await_termination()
    """

    def __init__(self, listen_address: Address = "0.0.0.0:48148") -> None:
        self._address = describe_address(*split_address(listen_address))
        self._library = library()
        created = ffi.new("pcclMasterInstance_t **")
        code = self._library.pcclCreateMaster(resolve_address(listen_address)[0], created)
        check(code, "pcclCreateMaster", self._address)
        self._lifetime = Lifetime(created[0], f"the master {self._address}")

    def run(self) -> None:
        """Starts to listen and returns at once; the master works in its own thread.

        Raises:
            InvalidUsageError: the address is in use or not of this machine, or the master ran already.
        """
        with self._lifetime.inside() as pointer:
            check(self._library.pcclRunMaster(pointer), "pcclRunMaster", self._address)

    def interrupt(self) -> None:
        """Asks the master to end, and returns at once. May be called again. InvalidUsageError before ``run()``."""
        with self._lifetime.inside() as pointer:
            check(self._library.pcclInterruptMaster(pointer), "pcclInterruptMaster", self._address)

    def await_termination(self) -> None:
        """Blocks until the master has ended, which :meth:`interrupt` from another thread brings about.

        Python runs signal handlers (Ctrl-C) only after this returns: let the main thread wait for something else, such
        as :class:`threading.Event`, where that matters. InvalidUsageError before ``run()``.
        """
        with self._lifetime.inside() as pointer:
            check(self._library.pcclMasterAwaitTermination(pointer), "pcclMasterAwaitTermination", self._address)

    def destroy(self) -> None:
        """Ends the master if it runs, and frees it. The object cannot be used any more; a second call does nothing.

        Threads that are inside :meth:`await_termination` return first.
        """
        if self._lifetime.calls and self._lifetime.is_alive:
            self.interrupt()
            self._lifetime.await_no_calls()
        pointer = self._lifetime.end()
        if pointer is not None:
            check(self._library.pcclDestroyMaster(pointer), "pcclDestroyMaster", self._address)

    def __enter__(self) -> MasterNode:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.destroy()

    def __del__(self) -> None:
        lifetime: Optional[Lifetime] = getattr(self, "_lifetime", None)
        if lifetime is not None and lifetime.is_alive:
            # First the deed: where warnings are errors, the second line does not return.
            self.destroy()
            warnings.warn(f"master {self._address} was never destroyed", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return f"<pccl.MasterNode {self._address}{'' if self._lifetime.is_alive else ', destroyed'}>"
