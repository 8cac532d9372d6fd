"""Peers that come: under load, many at once, and some that die on the way."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from typing import Sequence

from harness import (INVALID_USAGE, MASTER_CONNECTION_FAILED, PROTOCOL_VERSION, SUCCESS, TOPOLOGY_OPTIMIZATION_FAILED,
                     UPDATE_TOPOLOGY_FAILED, Case, Skip, Worker, check, check_steps, check_whole, connected_to,
                     listening_descriptor, mask_of, progress, reduce, settle, stall, start_loop, stop_loop,
                     unstall, with_descriptor)

_CONTROL_PREAMBLE = b"\x7fpccl-sw" + struct.pack("<HB5x", PROTOCOL_VERSION, 1)


def _newcomers_into(case: Case, mode: str) -> None:
    members = case.world(2)
    start_loop(members, mode)
    progress(members)
    for wave in (1, 3, 4):
        newcomers = [case.worker(len(members) + i) for i in range(wave)]
        for newcomer in newcomers:
            newcomer.send("connect")
            start_loop([newcomer], mode)
        for newcomer in newcomers:
            line = newcomer.expect("connect")
            check(line.rc == SUCCESS, f"{newcomer.name}: {line}")
        members += newcomers
        settle(members, mask_of(members))
    progress(members)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "nobody was lost")


def join_under_load_asking_first(case: Case) -> None:
    _newcomers_into(case, "pending")


def join_under_load_at_every_step(case: Case) -> None:
    _newcomers_into(case, "update")


def join_and_die_under_load(case: Case) -> None:
    """Members come and are killed while others come: the bits of every step are the same for all who see it."""
    members = case.world(3)
    start_loop(members, "pending", count=100000, pause_microseconds=0)
    for _ in range(6):
        victim = case.random.choice(members)
        newcomer = case.worker(victim.number + (16 if victim.number < 16 else -16))
        newcomer.send("connect")
        start_loop([newcomer], "pending", count=100000, pause_microseconds=0)
        time.sleep(case.random.uniform(0, 0.05))
        victim.kill()
        line = newcomer.expect("connect")
        check(line.rc == SUCCESS, f"{newcomer.name}: {line}")
        members = [member for member in members if member is not victim] + [newcomer]
        settle(members, mask_of(members))
    stop_loop(members)
    check_steps([p for p in case.processes if isinstance(p, Worker)], may_lose=True)


def newcomer_killed_while_joining(case: Case) -> None:
    members = case.world(3)
    start_loop(members, "pending")
    progress(members)
    for trial in range(12):
        newcomer = case.worker(8 + trial)
        newcomer.send("connect")
        newcomer.expect("connecting")
        time.sleep(case.random.uniform(0, 0.02))
        newcomer.kill()
        progress(members)
    settle(members, mask_of(members))
    stop_loop(members)
    check_steps(members, may_lose=True)
    reduce(members, 1003)


def newcomer_killed_while_waiting(case: Case) -> None:
    """It waits for a join point that never comes in its life; the members never notice."""
    members = case.world(2)
    newcomer = case.worker(5)
    newcomer.send("connect")
    newcomer.expect("connecting")
    while True:
        for member in members:
            member.send("pending")
        answers = [member.expect("pending") for member in members]
        check(answers[0].pending == answers[1].pending, f"different answers: {answers}")
        if answers[0].pending:
            break
        check(case.seconds_left() > 0, "the newcomer never came to wait")
    newcomer.kill()
    for member in members:
        member.send("update")
    for member in members:
        line = member.expect("update")
        check(line.rc == SUCCESS and line.size == 2, f"{line}")
    reduce(members, 1003)


def members_that_only_connect(case: Case) -> None:
    """A process that greets the master and dies leaves nothing behind."""
    members = case.world(2)
    start_loop(members, "update")
    progress(members)
    for trial in range(60):
        stranger = socket.create_connection(("127.0.0.1", case.master.port))
        if trial % 3:
            stranger.sendall(_CONTROL_PREAMBLE[:5 if trial % 3 == 1 else 16])
        if trial % 2:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()
    progress(members)
    newcomer = case.worker(2)
    newcomer.send("connect")
    start_loop([newcomer], "update")
    check(newcomer.expect("connect").rc == SUCCESS, "a newcomer after the strangers")
    members.append(newcomer)
    settle(members, mask_of(members))
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "nobody was lost")


def leave_and_come_again(case: Case) -> None:
    """The same process, a new communicator each time."""
    members = case.world(3)
    for _ in range(5):
        leaver = members.pop(0)
        leaver.send("destroy")
        check(leaver.expect("destroy").rc == SUCCESS, "a destroy always succeeds")
        # Not by a joint call: who has heard of the leave already would not make it.
        for member in members:
            while True:
                member.send("attributes")
                if member.expect("attributes").size == 2:
                    break
                check(case.seconds_left() > 0, f"{member.name} does not hear that one has left")
        case.join(members, [leaver])
        members.append(leaver)
        reduce(members, 1003)


def peers_are_dialled_where_they_say(case: Case) -> None:
    """One after the other; all of 127.0.0.0/8 is this host."""
    first = case.worker(0, env={"PCCL_ADVERTISE": "127.0.0.4:1,127.0.0.3"})
    second = case.worker(1, env={"PCCL_INTERFACE": "^lo"})
    first.send("connect")
    check(first.expect("connect").rc == SUCCESS, "the first peer")
    case.join([first], [second])
    reduce([first, second], 1000)
    check("127.0.0.3" in connected_to(second), f"it is connected to {connected_to(second)}")
    # The newcomer dials both, each where it can be reached.
    third = case.worker(2, env={"PCCL_ADVERTISE": "nowhere"})
    case.join([first, second], [third])
    reduce([first, second, third], 1000)
    check("127.0.0.3" in connected_to(third), f"it is connected to {connected_to(third)}")
    check("nowhere is neither ADDRESS" in third.log_text(), "what cannot be read is said")


def _see(members: Sequence[Worker], size: int) -> None:
    """Waits until each of them knows that the group has this size, without a joint call."""
    for member in members:
        while True:
            member.send("attributes")
            if member.expect("attributes").size == size:
                break
            check(member.case.seconds_left() > 0, f"{member.name} never saw {size} members")
            time.sleep(0.005)


def member_killed_during_membership_calls(case: Case) -> None:
    """Those who wait for it in whatever joint call finish the call without it."""
    members = case.world(3)
    for call in ("update", "pending", "optimise"):
        victim, others = members[0], members[1:]
        for other in others:
            other.send(call)
        for other in others:
            other.expect("calling")
        victim.kill()
        for other in others:
            line = other.expect(call)
            check(line.rc == SUCCESS, f"{other.name}: {call} while a member is killed: {line}")
        _see(others, 2)
        reduce(others, 1003)
        newcomer = case.worker(victim.number)
        case.join(others, [newcomer])
        members = others + [newcomer]
    reduce(members, 1003)


def evicted_while_it_waits(case: Case) -> None:
    """A member that hangs inside a call is told by that call when it wakes, with the call's own code, and may come
    again on the same communicator."""
    case.env["PCCL_TIMEOUT"] = "1"
    members = case.world(3)
    victim, others = members[0], members[1:]
    for call, answer, code in (
            ("update", "update", UPDATE_TOPOLOGY_FAILED), ("pending", "pending", INVALID_USAGE),
            ("optimise", "optimise", TOPOLOGY_OPTIMIZATION_FAILED),
            ("launch 1003 u64 sum 1 inplace 1 sum", "launch", SUCCESS),
            ("multi 1000 4 2 inplace 1", "multi", MASTER_CONNECTION_FAILED)):
        victim.send(call)
        if answer == "launch":
            check(victim.expect("launch").rc == SUCCESS, "a launch failed")
            victim.send("await 1")
        else:
            victim.expect("calling")
        victim.signal(signal.SIGSTOP)
        _see(others, 2)
        victim.signal(signal.SIGCONT)
        if answer == "launch":
            line = victim.expect("await")
            check(line.rc == MASTER_CONNECTION_FAILED, f"an operation of an evicted peer: {line}")
            check_whole(victim, line)
        else:
            line = victim.expect(answer)
            check(line.rc == code, f"{call} of an evicted peer: {line}")
        if answer == "multi":
            check(line.untouched == 4 and line.fences == "whole", f"the tensors should be whole: {line}")
        reduce(others, 1003)
        case.join(others, [victim])
        reduce(members, 1003)


def newcomer_that_nobody_reaches(case: Case) -> None:
    """Members and newcomer cannot dial each other: it is told, and they go on. It may try again, and gets in once it
    can be reached."""
    if not hasattr(os, "pidfd_open"):
        raise Skip("needs Python 3.9 and Linux 5.6")
    case.env["PCCL_TIMEOUT"] = "1"
    members, newcomer = case.world(2), case.worker(2)
    # It listens from now on, and is deaf before anybody knows of it.
    newcomer.send("create")
    check(newcomer.expect("create").rc == SUCCESS, "a communicator")
    for worker in members + [newcomer]:
        with_descriptor(worker, listening_descriptor(worker), stall)
    for _ in range(2):
        newcomer.send("connect")
        are_pending = 0
        while not are_pending:
            for member in members:
                member.send("pending")
            are_pending = [member.expect("pending").pending for member in members][0]
            check(case.seconds_left() > 0, "the newcomer never came to wait")
        for member in members:
            member.send("update")
        for member in members:
            line = member.expect("update")
            check(line.rc == SUCCESS and line.size == 2, f"{member.name} is harmed: {line}")
        line = newcomer.expect("connect")
        check(line.rc == MASTER_CONNECTION_FAILED, f"a newcomer that nobody reaches: {line}")
        check("turned away" in newcomer.log_text(), f"the log should say why: {newcomer.log_text()}")
        reduce(members, 1003)
    for worker in members + [newcomer]:
        with_descriptor(worker, listening_descriptor(worker), unstall)
    case.join(members, [newcomer])
    reduce(members + [newcomer], 1003)
