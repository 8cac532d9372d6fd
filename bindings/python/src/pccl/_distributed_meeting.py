"""How the processes of a group find each other: a master, a peer group, and what the store is used for."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any, Callable, Dict, Optional, Tuple

from torch._C._distributed_c10d import Store

from ._address import describe_address
from ._errors import InvalidUsageError
from .master import MasterNode

__all__ = ["PARTING_PATIENCE", "known_master", "meet", "named_master", "own_host", "part", "start_master"]

# How long destroy_process_group() waits: for operations in flight, and the process with the master for the others.
PARTING_PATIENCE = 10.0

_own_master: Optional[MasterNode] = None
_own_master_address = ""
_heard_of = ""


def named_master() -> str:
    """The master that the environment names, or an empty text."""
    return os.environ.get("PCCL_MASTER", "")


def known_master() -> str:
    """``PCCL_MASTER``, or the master of an earlier group, or an empty text."""
    return named_master() or _heard_of


def start_master(store: Store) -> str:
    """Starts a master in this process, where the peers that use ``store`` can reach it."""
    global _own_master, _own_master_address, _heard_of
    listen, told = own_host(store)
    for attempt in range(5):
        # The system chooses a port that is free now; another program may take it first.
        with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as probe:
            probe.bind((listen, 0))
            port = int(probe.getsockname()[1])
        master = MasterNode((listen, port))
        try:
            master.run()
        except InvalidUsageError:
            master.destroy()
            if attempt == 4:
                raise
            continue
        break
    _own_master, _own_master_address = master, describe_address(told, port)
    _heard_of = _own_master_address
    return _own_master_address


def own_host(store: Any) -> Tuple[str, str]:
    """Where a master of this process is to listen, and the address of it that others are told."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    host = str(getattr(store, "host", ""))
    # A store that is a file, say, is for one machine.
    address = _towards(host, int(getattr(store, "port", 0))) if host else "127.0.0.1"
    if _is_loopback(address) and host and not _is_loopback(host):
        # Debian gives a machine's own name an address of the loopback. Others know it by a better one.
        return "0.0.0.0", host
    return address, address


def _towards(host: str, port: int) -> str:
    """The address that this machine has towards ``host``, or the loopback's."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        found = []
    for family, kind, protocol, _, address in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
        try:
            # Nothing is sent: this only asks for the route.
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def meet(store: Store, rank: int, timeout: timedelta) -> Tuple[Dict[str, Any], Callable[[], None]]:
    """What rank 0 says about the group: its master, its number there, and a number to know its members by.

    It says so when the function that is given back is called, which does nothing at the other ranks.
    """
    global _heard_of
    if rank == 0:
        told = {
            "master": known_master() or start_master(store),
            "peer_group": secrets.randbits(32),
            "nonce": secrets.randbits(56),
        }
        return told, lambda: store.set("pccl", json.dumps(told))
    store.wait(["pccl"], timeout)
    told = json.loads(store.get("pccl"))
    # A process may know the same master by another address.
    told["master"] = named_master() or told["master"]
    _heard_of = _heard_of or str(told["master"])
    return told, lambda: None


def part(store: Store, size: int, master: str) -> None:
    """Lets the process that runs the master, and often the store, stay until all have left."""
    try:
        gone = store.add("pccl-gone", 1)
        if master != _own_master_address:
            return
        deadline = time.monotonic() + PARTING_PATIENCE
        while gone < size and time.monotonic() < deadline:
            time.sleep(0.01)
            gone = store.add("pccl-gone", 0)
    except Exception:
        # The store may be gone before us. Then so is whoever needed this.
        return


@atexit.register
def _end_master() -> None:
    if _own_master is not None:
        _own_master.destroy()
