"""Addresses as people write them, turned into the C struct."""

from __future__ import annotations

import socket
from typing import Any, Tuple, Union

from ._native import ffi

__all__ = ["Address", "describe_address", "resolve_address", "split_address"]

Address = Union[str, Tuple[str, int]]
"""``"host:port"``, ``"[IPv6 address]:port"`` or ``(host, port)``; the host is a name or a numeric address."""


def split_address(address: Address) -> Tuple[str, int]:
    """Host and port of ``address``. Raises TypeError for what is no address, ValueError for one that is malformed."""
    if isinstance(address, str):
        host, colon, digits = address.rpartition(":")
        if not colon or not host or not digits:
            raise ValueError(f'address {address!r} is not of the form "host:port" or "[IPv6 address]:port"')
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f'address {address!r}: write an IPv6 address in brackets, as in "[::1]:48148"')
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"address {address!r}: port {digits!r} is not a number")
        port = int(digits)
    elif isinstance(address, tuple) and len(address) == 2:
        host, port = address
        if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"address {address!r}: expected a tuple (host: str, port: int)")
    else:
        raise TypeError(f'address {address!r}: expected "host:port", "[IPv6 address]:port" or (host, port)')
    if not host:
        raise ValueError(f"address {address!r}: the host is empty")
    if not 1 <= port <= 65535:
        raise ValueError(f"address {address!r}: the port must be from 1 to 65535")
    return host, port


def describe_address(host: str, port: int) -> str:
    """The text form of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve_address(address: Address) -> Any:
    """The ``ccoip_socket_address_t`` of ``address``; a name is looked up, and its IPv4 address preferred.

    Raises what :func:`split_address` raises, and OSError when the name is not known.
    """
    host, port = split_address(address)
    if "%" in host:
        raise ValueError(f"address {address!r}: an IPv6 address with a scope cannot be used; give a global one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as reason:
        raise OSError(f"cannot find the address of host {host!r}: {reason}") from reason
    numeric = {family: sockaddr[0] for family, _, _, _, sockaddr in reversed(found)}
    native = ffi.new("ccoip_socket_address_t *")
    native.port = port
    # A master listens on IPv4 unless told otherwise, while "localhost" is often ::1 first.
    if socket.AF_INET in numeric:
        native.inet.protocol = ffi.cast("ccoip_inet_protocol_t", 0)
        native.inet.ipv4.data = list(socket.inet_pton(socket.AF_INET, str(numeric[socket.AF_INET])))
    elif socket.AF_INET6 in numeric:
        native.inet.protocol = ffi.cast("ccoip_inet_protocol_t", 1)
        native.inet.ipv6.data = list(socket.inet_pton(socket.AF_INET6, str(numeric[socket.AF_INET6])))
    else:
        raise OSError(f"host {host!r} has neither an IPv4 nor an IPv6 address")
    return native
