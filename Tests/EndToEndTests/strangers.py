"""Bad neighbours: garbage on every port, and thousands of connections that say nothing. Nobody may notice."""

from __future__ import annotations

import errno
import resource
import select
import socket
import struct
from typing import List

from harness import (SUCCESS, Case, Skip, Worker, check, check_steps, mask_of, peer_port, progress, rubbish, settle,
                     start_loop, stop_loop)


def _throw_garbage(case: Case, port: int) -> None:
    for garbage in rubbish(case):
        for with_reset in (False, True):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                try:
                    stranger.sendall(garbage)
                except OSError:
                    pass  # It was turned away before the end.
                if with_reset:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def garbage_on_every_port(case: Case) -> None:
    members = case.world(3)
    start_loop(members, "pending")
    progress(members)
    for _ in range(3):
        for port in [case.master.port] + [peer_port(member) for member in members]:
            _throw_garbage(case, port)
            progress(members)
    newcomer = case.worker(3)
    newcomer.send("connect")
    start_loop([newcomer], "pending")
    check(newcomer.expect("connect").rc == SUCCESS, "a newcomer after the garbage")
    members.append(newcomer)
    settle(members, mask_of(members))
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "garbage cost a member")


def _silent(case: Case, count: int, port: int) -> List[socket.socket]:
    """That many connections that stand, or stood until they were turned away, and say nothing."""
    opened = []
    for _ in range(count):
        stranger = socket.socket()
        stranger.setblocking(False)
        status = stranger.connect_ex(("127.0.0.1", port))
        check(status in (0, errno.EINPROGRESS), f"a stranger could not even try: {errno.errorcode.get(status, status)}")
        opened.append(stranger)
    for stranger in opened:
        poll = select.poll()
        poll.register(stranger, select.POLLOUT)
        check(poll.poll(case.seconds_left() * 1000), "a stranger was not even accepted")
    return opened


def _ten_thousand(case: Case, port: int, members: List[Worker], while_they_wait) -> None:
    total, batch = 10000, 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (hard if hard != resource.RLIM_INFINITY else 1 << 20) - 500
    if room < 2 * batch:
        raise Skip(f"only {hard} descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, total + 500) if hard != resource.RLIM_INFINITY else 1 << 14,
                                                hard))
    case.cleanups.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    strangers: List[socket.socket] = []
    case.cleanups.append(lambda: [stranger.close() for stranger in strangers])
    for i in range(total // batch):
        if len(strangers) + batch > room:
            for stranger in strangers[:batch]:
                stranger.close()
            del strangers[:batch]
        strangers += _silent(case, batch, port)
        progress(members, steps=2)
        if i == total // batch // 2:
            while_they_wait()
    progress(members)


def silent_crowd_at_the_master(case: Case) -> None:
    """A run goes on, and a newcomer gets in, while ten thousand connections to the master say nothing."""
    members = case.world(3)
    start_loop(members, "pending")
    newcomer = case.worker(3)

    def join() -> None:
        newcomer.send("connect")
        start_loop([newcomer], "pending")
        line = newcomer.expect("connect")
        check(line.rc == SUCCESS, f"a newcomer among silent strangers: {line}")
        members.append(newcomer)
        settle(members, mask_of(members))

    _ten_thousand(case, case.master.port, members, join)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "silence cost a member")


def silent_crowd_at_a_peer(case: Case) -> None:
    members = case.world(3)
    start_loop(members, "pending")
    newcomer = case.worker(3)

    def join() -> None:
        newcomer.send("connect")
        start_loop([newcomer], "pending")
        line = newcomer.expect("connect")
        check(line.rc == SUCCESS, f"a newcomer among silent strangers: {line}")
        members.append(newcomer)
        settle(members, mask_of(members))

    _ten_thousand(case, peer_port(members[0]), members, join)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "silence cost a member")
