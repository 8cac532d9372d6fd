"""Runs in both nodes of a lab. Node 1 echoes; node 0 has two connections to it and lets the lab stall and reset them."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

PORT = 7000
# Far longer than the lab's round trip of 20 ms. What is to stay away has that long to come.
PATIENCE_SECONDS = 1.0


def echo(connection: socket.socket) -> None:
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except ConnectionResetError:
        # Node 0 hears of it through the connection that is left.
        resets.release()


def serve() -> None:
    listener = socket.create_server(("", PORT))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


resets = threading.Semaphore(0)


def serve_resets() -> None:
    """Tells whoever connects that a connection was reset at this end, once one was."""
    listener = socket.create_server(("", PORT + 1))
    while True:
        connection, _ = listener.accept()
        resets.acquire()
        connection.sendall(b"reset")


def connect(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("10.77.0.2", port))
        except ConnectionRefusedError:
            continue


def tell_lab(line: str) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(os.environ["PCCL_LAB_CONTROL"])
        control.sendall(line.encode() + b"\n")
        answer = control.makefile().readline()
    if not answer.startswith("ok"):
        sys.exit(f"the lab answers {answer!r} to {line!r}")


def is_echoed(connection: socket.socket, seconds: float) -> bool:
    return bool(select.select([connection], [], [], seconds)[0]) and connection.recv(5) == b"hello"


def port_of(connection: socket.socket) -> int:
    return connection.getsockname()[1]


def main() -> None:
    if os.environ["PCCL_LAB_NODE"] == "1":
        threading.Thread(target=serve_resets, daemon=True).start()
        serve()
    one, two = connect(PORT), connect(PORT)

    tell_lab(f"stall 0 1 port={port_of(one)}")
    for connection in (one, two):
        connection.sendall(b"hello")
    if not is_echoed(two, 30):
        sys.exit("the other connection was stalled, too")
    if is_echoed(one, PATIENCE_SECONDS):
        sys.exit("a stalled connection got through")
    print("stalled", flush=True)

    tell_lab("resume 0 1")
    if not is_echoed(one, 30):
        sys.exit("the connection did not go on")
    print("resumed", flush=True)

    tell_lab(f"reset 0 1 port={port_of(one)}")
    one.settimeout(30)
    try:
        one.recv(1)
        sys.exit("a connection that was reset has ended in another way")
    except ConnectionResetError:
        pass
    if connect(PORT + 1).recv(5) != b"reset":
        sys.exit("the other end knows nothing of a reset")
    print("reset", flush=True)

    two.sendall(b"hello")
    if not is_echoed(two, 30):
        sys.exit("the other connection was reset, too")
    print("done", flush=True)


main()
