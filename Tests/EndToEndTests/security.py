"""Who is let in: what peers and masters show each other, refusals that both sides can read, keys that are replaced, and
strangers that know the token."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Dict, Optional

from harness import (MASTER_CONNECTION_FAILED, PROTOCOL_VERSION, SUCCESS, Case, check, check_steps, mask_of,
                     peer_port, progress, reduce, rubbish, settle, start_loop, stop_loop)

KEYS = Path(__file__).resolve().parents[1] / "Data" / "keys"
TOKEN = "the token of the end-to-end tests"


def shows(keys: Optional[str] = None, token: Optional[str] = None) -> Dict[str, str]:
    """The environment of somebody who shows these; an empty variable is one that is not set."""
    return {"PCCL_KEYS": str(KEYS / keys) if keys else "", "PCCL_TOKEN": token or ""}


def strangers_are_refused(case: Case) -> None:
    """A member is in the run all the time, and notices nothing; then somebody who shows the right things joins."""
    for at_master, good, refused in (
        (shows("master"), shows("peer"), (
            (shows(), "asks for a certificate", "it came without keys"),
            (shows("expired"), "it refused our certificate: it has expired", "(expired) was refused: certificate has expired"),
            (shows("revoked"), "it refused our certificate: it was revoked", "(revoked) was refused: certificate revoked"),
            (shows("foreign"), "it refused our certificate: it is of another authority", "(foreign) was refused"),
            (shows("master"), "it refused our certificate: it is for another role", "(master) was refused"),
            (shows("peer", TOKEN), "it asks for no join token", "asks for a join token"),
        )),
        (shows(None, TOKEN), shows(None, TOKEN), (
            (shows(), "asks for a join token", "it came without a join token"),
            (shows(None, TOKEN + "!"), "it refused our join token", "its join token is another"),
            (shows("peer"), "it does not speak TLS", "it speaks TLS"),
        )),
        (shows("master", TOKEN), shows("peer", TOKEN), (
            (shows("peer"), "asks for a join token", "it came without a join token"),
            (shows("peer", TOKEN + "!"), "it refused our join token", "its join token is another"),
        )),
    ):
        case.env = {"PCCL_LOG_LEVEL": "INFO", **at_master}
        master = case.start_master()
        member = case.worker(0, env=good)
        member.send("connect")
        check(member.expect("connect").rc == SUCCESS, f"who shows the right things: {member.log_text()}")
        for i, (shown, to_stranger, to_master) in enumerate(refused):
            stranger = case.worker(9, env=shown)
            stranger.send("connect")
            check(stranger.expect("connect").rc == MASTER_CONNECTION_FAILED, f"{shown} got in")
            check(to_stranger in stranger.log_text(), f"{shown} was not told '{to_stranger}':\n{stranger.log_text()}")
            log = master.wait_for_log(to_master)
            check("a connection from 127.0.0.1 ended: " in log, f"the master does not say who was refused:\n{log}")
        other = case.worker(1, env=good)
        case.join([member], [other])
        reduce([member, other], 100_000)


def peers_refuse_each_other(case: Case) -> None:
    """The master has not heard yet who was revoked, the members have: the newcomer is turned away, and they go on."""
    folder = case.logs / "keys"
    shutil.copytree(KEYS / "master", folder)
    (folder / "revoked.pem").unlink()
    case.env.update(PCCL_KEYS=str(folder), PCCL_TIMEOUT="2", PCCL_LOG_LEVEL="INFO")
    case.start_master()
    case.env.update(shows("peer"))
    members = case.world(2)
    start_loop(members, "pending")
    progress(members)
    newcomer = case.worker(2, env=shows("revoked"))
    newcomer.send("connect")
    check(newcomer.expect("connect").rc == MASTER_CONNECTION_FAILED, "no member takes it, and it got in")
    check("it was revoked" in newcomer.log_text(), f"it was not told why:\n{newcomer.log_text()}")
    progress(members)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "the newcomer cost a member")


def keys_are_replaced(case: Case) -> None:
    """Certificates are replaced under a run that goes on: who is there stays, and who comes shows the new ones."""
    folder = case.logs / "keys"
    shutil.copytree(KEYS / "both", folder)
    case.env.update(PCCL_KEYS=str(folder), PCCL_LOG_LEVEL="INFO")
    members = case.world(2)
    start_loop(members, "pending")
    progress(members)
    # The authority revokes nobody new here, but all files are other files, and one of them is another certificate.
    for name in ("ca.pem", "revoked.pem", "key.pem", "certificate.pem"):
        shutil.copy(KEYS / "unnamed" / name, folder / (name + ".new"))
        os.replace(folder / (name + ".new"), folder / name)
    newcomer = case.worker(2)
    newcomer.send("connect")
    start_loop([newcomer], "pending")
    check(newcomer.expect("connect").rc == SUCCESS, f"a newcomer with the new keys: {newcomer.log_text()}")
    members.append(newcomer)
    settle(members, mask_of(members))
    revoked = case.worker(3, env=shows("revoked"))
    revoked.send("connect")
    check(revoked.expect("connect").rc == MASTER_CONNECTION_FAILED, "who was revoked got in")
    check("it was revoked" in revoked.log_text(), revoked.log_text())
    progress(members)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "new keys cost a member")


def open_with_token(connection: socket.socket, token: str = TOKEN) -> None:
    """What a dialler says and checks where a token is asked for: docs/protocol.md says the same."""
    opening = bytes(16) + os.urandom(32)
    preamble = b"\x7fpccl-sw" + struct.pack("<HB", PROTOCOL_VERSION, 3) + b"\r\n\r\n\0"
    connection.sendall(preamble + opening)
    theirs = _read(connection, 64)
    check(theirs[:16] == preamble, f"no token was asked for: {theirs[:16]!r}")

    def proof(prover: int) -> bytes:
        message = b"pccl join token" + bytes([prover]) + opening + theirs[16:] + bytes(32)
        return hmac.new(token.encode(), message, hashlib.sha256).digest()

    connection.sendall(proof(1))
    check(_read(connection, 33) == b"\1" + proof(2), "the other side knows another token")


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        check(part, f"the connection was closed after {len(data)} of {count} bytes")
        data += part
    return data


def garbage_from_who_knows_the_token(case: Case) -> None:
    """A peer that lies, a connection that says nothing once it is open, and one that says again what it has overheard."""
    case.env.update(shows(None, TOKEN))
    members = case.world(3)
    start_loop(members, "pending")
    progress(members)
    for port in [case.master.port] + [peer_port(member) for member in members]:
        silent = []
        for garbage in rubbish(case):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as liar:
                open_with_token(liar)
                try:
                    liar.sendall(garbage)
                except OSError:
                    pass  # It was turned away before the end.
            silent.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            open_with_token(silent[-1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as overheard:
            said = b"\x7fpccl-sw" + struct.pack("<HB", PROTOCOL_VERSION, 3) + b"\r\n\r\n\0" + bytes(48)
            overheard.sendall(said + hmac.new(TOKEN.encode(), said, hashlib.sha256).digest())
            _read(overheard, 64)
            check(_read(overheard, 1) == b"\0", "a proof of something else was taken")
        progress(members)
        for connection in silent:
            connection.close()
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "garbage cost a member")
