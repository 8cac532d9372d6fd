"""Members that are killed, hang or leave: the same verdict for all survivors, whole inputs, and a retry that works."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from pathlib import Path
from typing import Callable, List

from harness import (INVALID_ARGUMENT, INVALID_USAGE, MASTER_CONNECTION_FAILED, RANK_CONNECTION_LOST, SUCCESS,
                     TOO_FEW_PEERS, Case, Skip, Worker, check, check_steps, check_whole, finish_reduce, mask_of,
                     progress, reduce, settle, stall, start_loop, start_reduce, stop_loop, with_descriptor)

_ABSENT = -1.0
"""A moment: the victim is killed before it calls, and the others wait for it."""


def _seconds_of(members: List[Worker], count: int, **options) -> float:
    """How long an undisturbed reduction takes, from the last caller to the last result."""
    start_reduce(members, count, **options)
    for member in members:
        member.expect("calling")
    started = time.monotonic()
    finish_reduce(members, mask_of(members))
    return time.monotonic() - started


def _kill(case: Case, members: List[Worker], victims: List[Worker], moment: float, count: int, duration: float,
          **options) -> bool:
    """Kills the victims at a moment of a reduction, as a fraction of its duration, and checks all that is promised to
    the others. They know the loss on return. Whether the kill struck the operation."""
    survivors = [member for member in members if member not in victims]
    everybody, rest = mask_of(members), mask_of(survivors)
    what = f"kill of {[v.number for v in victims]} at {moment:.2f}"
    callers = survivors if moment == _ABSENT else members
    start_reduce(callers, count, retries=4, **options)
    for caller in callers:
        caller.expect("calling")
    # The moment itself is not what is tested: whatever it hits, the promises hold.
    time.sleep(max(moment, 0) * duration)
    for victim in victims:
        victim.signal(signal.SIGKILL)
    for victim in victims:
        victim.kill()
    stories = []
    for survivor in survivors:
        story = []
        while not story or story[-1].name == "lost":
            story.append(survivor.expect("lost", "reduce"))
        stories.append(story)
    for survivor, story in zip(survivors, stories):
        verdicts = [line.rc for line in story]
        check(verdicts == [line.rc for line in stories[0]], f"{what}: survivors disagree: {stories}")
        for line in story:
            check_whole(survivor, line)
            if line.rc in (RANK_CONNECTION_LOST, TOO_FEW_PEERS):
                check(line.size < len(members), f"{what}: the attributes are old after a loss: {line}")
        last = story[-1]
        if len(survivors) == 1 and last.rc == TOO_FEW_PEERS:
            check(last.size == 1, f"{what}: alone: {last}")
            continue
        check(last.rc == SUCCESS, f"{what}: should succeed in the end: {story}")
        check(last.hash == stories[0][-1].hash, f"{what}: results differ: {stories}")
        check(last.world == bin(last.mask).count("1"), f"{what}: wrong world size: {last}")
        if len(victims) == 1 or len(story) == 1:
            allowed = (rest,) if len(story) > 1 or moment == _ABSENT else (everybody, rest)
            check(last.mask in allowed, f"{what}: contributions of {last.mask:x}, not of {rest:x}: {last}")
        else:
            check(last.mask & rest == rest and last.mask & ~everybody == 0, f"{what}: strange contributions: {last}")
    hit = stories[0][-1].mask != everybody
    # One call more: after it everybody knows of the loss, also if the operation had been done before the kill.
    start_reduce(survivors, 3, tag=99, retries=4)
    lines = [survivor.expect("reduce") for survivor in survivors]
    for survivor, line in zip(survivors, lines):
        check(line.rc == (TOO_FEW_PEERS if len(survivors) == 1 else SUCCESS), f"{what}: after it: {line}")
        check(line.losses == lines[0].losses, f"{what}: after it survivors disagree: {lines}")
        check(line.size == len(survivors), f"{what}: after it the size is wrong: {line}")
        check(line.rc != SUCCESS or line.mask == rest, f"{what}: after it: {line}")
        check_whole(survivor, line)
    return hit


def _kill_again_and_again(case: Case, size: int, count: int, times: int, where: str, victims: int = 1,
                          **options) -> None:
    members = case.world(size)
    duration = min(_seconds_of(members, count, where=where) for _ in range(3))
    hits = 0
    for trial in range(times):
        # The ends of an operation are where the hard cases are.
        moment = (_ABSENT, 0.0, case.random.uniform(0, 0.2), case.random.uniform(0.2, 0.8),
                  case.random.uniform(0.8, 1.1))[trial % 5]
        chosen = case.random.sample(members, victims)
        hits += _kill(case, members, chosen, moment, count, duration, where=where, seed=trial, **options)
        members = [member for member in members if member not in chosen]
        newcomers = [case.worker(victim.number) for victim in chosen]
        case.join(members, newcomers)
        members += newcomers
    check(hits > 0, "no kill struck an operation: the case tests nothing")
    reduce(members, 1001)


def kill_in_place_of_3(case: Case) -> None:
    _kill_again_and_again(case, 3, 2 << 20, 20, "inplace")


def kill_in_place_of_4(case: Case) -> None:
    _kill_again_and_again(case, 4, 2 << 20, 20, "inplace")


def kill_apart_of_4(case: Case) -> None:
    _kill_again_and_again(case, 4, 2 << 20, 5, "apart")


def kill_of_2(case: Case) -> None:
    _kill_again_and_again(case, 2, 2 << 20, 10, "inplace")


def kill_two_of_4(case: Case) -> None:
    _kill_again_and_again(case, 4, 2 << 20, 5, "inplace", victims=2)


def kill_at_64_mebibytes(case: Case) -> None:
    _kill_again_and_again(case, 3, 8 << 20, 5, "inplace")


def kill_in_a_ring(case: Case) -> None:
    case.env["PCCL_ALGORITHM"] = "ring"
    _kill_again_and_again(case, 4, 2 << 20, 5, "inplace")


def loss_before_all_have_called(case: Case) -> None:
    """A survivor that had not called yet: nothing can have been final, so nobody sees an error."""
    members = case.world(3)
    for trial in range(4):
        first, late, victim = members
        start_reduce([first], 100003, seed=trial)
        first.expect("calling")
        victim.kill()
        while True:
            late.send("attributes")
            if late.expect("attributes").size == 2:
                break
            check(case.seconds_left() > 0, "the loss was never noticed")
            time.sleep(0.005)
        start_reduce([late], 100003, seed=trial)
        finish_reduce([first, late], mask_of([first, late]))
        newcomer = case.worker(victim.number)
        case.join([first, late], [newcomer])
        members = [late, newcomer, first]


def multiple_with_retry_under_kills(case: Case) -> None:
    """Success only when all is reduced, and a loner's unfinished tensors are whole."""
    members = case.world(4)
    tensors, in_flight = 48, 12

    def start(callers: List[Worker], trial: int, count: int = tensors) -> None:
        for caller in callers:
            caller.send(f"multi 200000 {count} {in_flight} {('inplace', 'apart')[trial // 2 % 2]} {trial + 1}")
        for caller in callers:
            caller.expect("calling")

    start(members, 0)
    started = time.monotonic()
    for member in members:
        check(member.expect("multi").rc == SUCCESS, "nobody was killed yet")
    duration = time.monotonic() - started
    for trial in range(8):
        victim = case.random.choice(members)
        survivors = [member for member in members if member is not victim]
        everybody, rest = mask_of(members), mask_of(survivors)
        # A victim that calls for half of the tensors leaves the others in the midst of theirs, however fast the machine
        # is; the moment of the other trials is left to chance.
        stops_half_way = trial % 2 == 0
        if stops_half_way:
            start([victim], trial, tensors // 2)
            start(survivors, trial)
            check(victim.expect("multi").rc == SUCCESS, "half of the tensors")
        else:
            start(members, trial)
            time.sleep(case.random.uniform(0, duration))
        victim.kill()
        lines = [survivor.expect("multi") for survivor in survivors]
        for survivor, line in zip(survivors, lines):
            check(line.rc == SUCCESS and line.reduced == tensors, f"{survivor.name}: not all is reduced: {line}")
            check(line.fences == "whole" and line.wrong_inputs == 0, f"{survivor.name}: {line}")
            check(line.hash == lines[0].hash, f"results differ: {lines}")
            check(line.common & rest == rest and line.union & ~everybody == 0, f"{survivor.name}: whose? {line}")
            if stops_half_way:
                check(line.union == everybody and line.common == rest, f"{survivor.name}: half of each? {line}")
        start_reduce(survivors, 3, retries=4)
        finish_reduce(survivors, rest)
        newcomer = case.worker(victim.number)
        case.join(survivors, [newcomer])
        members = survivors + [newcomer]


def multiple_with_retry_left_alone(case: Case) -> None:
    for trial in range(4):
        where = ("inplace", "apart")[trial % 2]
        survivor, victim = case.world(2, group=trial)
        for member in (survivor, victim):
            member.send(f"multi 400000 48 12 {where} {trial}")
        for member in (survivor, victim):
            member.expect("calling")
        time.sleep(case.random.uniform(0, 0.1))
        victim.kill()
        line = survivor.expect("multi")
        check(line.rc in (SUCCESS, TOO_FEW_PEERS), f"{line}")
        check(line.rc != SUCCESS or line.reduced == 48, f"success, and not all is reduced: {line}")
        check(line.broken == 0 and line.fences == "whole" and line.wrong_inputs == 0, f"a tensor is damaged: {line}")


def graceful_leave(case: Case) -> None:
    members = case.world(4)
    start_loop(members, "pending")
    progress(members)
    for _ in range(2):
        leaver = members.pop()
        leaver.send("leave")
        check(leaver.expect("destroy").rc == SUCCESS, "a destroy always succeeds")
        settle(members, mask_of(members))
        progress(members)
    stop_loop(members)
    check_steps([p for p in case.processes if isinstance(p, Worker)], may_lose=True)


def leave_with_operations_in_flight(case: Case) -> None:
    members = case.world(3)
    for trial in range(4):
        leaver, stayers = members[0], members[1:]
        tags = range(3)
        for member in members:
            member.send(*(f"launch 1000003 u64 sum {tag} inplace {trial} sum" for tag in tags))
        for member in members:
            for _ in tags:
                check(member.expect("launch").rc == SUCCESS, "a launch failed")
        leaver.send("destroy")
        for stayer in stayers:
            stayer.send(*(f"await {tag}" for tag in tags))
        check(leaver.expect("destroy").rc == SUCCESS, "a destroy always succeeds")
        for _ in tags:
            lines = [stayer.expect("await") for stayer in stayers]
            for stayer, line in zip(stayers, lines):
                check_whole(stayer, line)
                check(line.rc in (SUCCESS, RANK_CONNECTION_LOST), f"{line}")
                check((line.rc, line.hash) == (lines[0].rc, lines[0].hash), f"the stayers disagree: {lines}")
        start_reduce(stayers, 1003, retries=2)
        finish_reduce(stayers, mask_of(stayers))
        case.join(stayers, [leaver])
        members = stayers + [leaver]


def hung_peer(case: Case) -> None:
    """Stopped for longer than the dead time: lost to the others; it learns so when it wakes, and may come again."""
    case.env["PCCL_TIMEOUT"] = "1"
    members = case.world(3)
    for count in (3, 1 << 20):
        victim, others = members[0], members[1:]
        victim.signal(signal.SIGSTOP)
        start_reduce(others, count, retries=2)
        for other in others:
            check(other.expect("lost", "reduce").rc == RANK_CONNECTION_LOST, "the hung peer should be lost")
        finish_reduce(others, mask_of(others))
        # Its call is made while it does not know yet.
        start_reduce([victim], count)
        victim.signal(signal.SIGCONT)
        line = victim.expect("reduce")
        check(line.rc == MASTER_CONNECTION_FAILED, f"the peer that was declared lost should learn it: {line}")
        check_whole(victim, line)
        case.join(others, [victim])
        members = others + [victim]
        reduce(members, 1003)


def hung_in_an_operation(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "1"
    members = case.world(3)
    victim, others = members[0], members[1:]
    count = 4 << 20
    start_reduce(members, count, retries=2)
    for member in members:
        member.expect("calling")
    victim.signal(signal.SIGSTOP)
    stories = []
    for other in others:
        story = [other.expect("lost", "reduce")]
        while story[-1].name == "lost":
            story.append(other.expect("lost", "reduce"))
        for line in story:
            check_whole(other, line)
        check(story[-1].rc == SUCCESS, f"{story}")
        stories.append([line.rc for line in story])
    check(stories[0] == stories[1], f"the survivors disagree: {stories}")
    victim.signal(signal.SIGCONT)
    line = victim.expect("reduce")
    check(line.rc in (SUCCESS, MASTER_CONNECTION_FAILED), f"{line}")
    check_whole(victim, line)
    check(len(stories[0]) > 1 or line.rc == SUCCESS, "the others have a result with one who has none")
    start_reduce(others, 1003, retries=2)
    finish_reduce(others, mask_of(others))


def forked_child_holds_nothing(case: Case) -> None:
    """Calls in a forked child fail at once; the parent is not disturbed by it, and its death is seen though the child lives."""
    members = case.world(3)
    reduce(members, 1000)
    for _ in range(2):
        members[2].send("fork")
        line = members[2].expect("child")
        case.cleanups.append(lambda pid=line.pid: os.kill(pid, signal.SIGKILL))
        check(line.pending != SUCCESS and line.update != SUCCESS, f"calls in a child should fail: {line}")
        check(line.destroy == SUCCESS, f"a destroy always succeeds: {line}")
        reduce(members, 100_000)
    start_reduce(members[:2], 1000)
    began = time.monotonic()
    members[2].kill()
    for member in members[:2]:
        line = member.expect("reduce")
        # It is begun again if one of the two had not entered it when the death was seen.
        check(line.rc in (RANK_CONNECTION_LOST, SUCCESS) and line.size == 2, f"{member.name}: {line}")
        check_whole(member, line)
    check(time.monotonic() - began < 4, "the death was seen only after the dead time")


def groups_are_apart(case: Case) -> None:
    red = case.world(3, group=1)
    blue = case.world(2, group=0xFFFFFFFF, first=8)

    def attributes(worker: Worker, **expected) -> None:
        """World counts of other groups arrive by themselves."""
        while True:
            worker.send("attributes")
            line = worker.expect("attributes")
            if all(getattr(line, key) == value for key, value in expected.items()):
                return
            check(case.seconds_left() > 0, f"{worker.name}: {line}, expected {expected}")
            time.sleep(0.005)

    for worker in red:
        attributes(worker, size=3, groups=2, largest=3)
        attributes(worker, **{"global": 5})
    for worker in blue:
        attributes(worker, size=2, groups=2, largest=3)
    start_loop(blue, "pending")
    progress(blue)
    for trial in range(3):
        duration = _seconds_of(red, 1 << 20)
        victim = case.random.choice(red)
        _kill(case, red, [victim], case.random.uniform(0, 1), 1 << 20, duration)
        red = [worker for worker in red if worker is not victim]
        progress(blue)
        newcomer = case.worker(victim.number, group=1)
        case.join(red, [newcomer])
        red.append(newcomer)
    progress(blue)
    stop_loop(blue)
    check(check_steps(blue, may_lose=False) == 0, "a loss in one group was seen in the other")
    attributes(blue[0], size=2, groups=2, largest=3)


def _descriptors_of_links(workers: List[Worker]) -> List[tuple]:
    """(worker, descriptor) of every connection between two of the workers."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            columns = row.split()
            local, remote = (int(columns[i].rsplit(":", 1)[1], 16) for i in (1, 2))
            sockets[f"socket:[{columns[9]}]"] = (local, remote, columns[3])
    held = []
    for worker in workers:
        for link in Path(f"/proc/{worker.pid}/fd").iterdir():
            try:
                held.append((worker, int(link.name), *sockets[os.readlink(link)]))
            except (OSError, KeyError):
                continue
    listening = {local for _, _, local, _, state in held if state == "0A"}
    return [(worker, descriptor) for worker, descriptor, local, remote, state in held
            if state == "01" and (local in listening or remote in listening)]


def _reset(libc: ctypes.CDLL, descriptor: int) -> None:
    # To connect a TCP socket to no family at all is to disconnect it, and the other side hears a reset.
    libc.connect(descriptor, bytes(16), 16)


def _close(libc: ctypes.CDLL, descriptor: int) -> None:
    libc.shutdown(descriptor, socket.SHUT_RDWR)


def _connections_broken(case: Case, stripes: int, action: Callable[[ctypes.CDLL, int], None]) -> None:
    if not hasattr(os, "pidfd_open"):
        raise Skip("needs Python 3.9 and Linux 5.6")
    members = case.world(3, stripes=stripes)
    start_loop(members, "none", count=40000, pause_microseconds=200)
    progress(members)
    for _ in range(12):
        links = _descriptors_of_links(members)
        if links:
            worker, descriptor = case.random.choice(links)
            with_descriptor(worker, descriptor, action)
        progress(members, steps=4)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "a broken connection was seen by the caller")
    for member in members:
        member.send("attributes")
        check(member.expect("attributes").size == 3, "a broken connection cost a member")


def connection_reset(case: Case) -> None:
    _connections_broken(case, 1, _reset)


def connection_closed(case: Case) -> None:
    _connections_broken(case, 1, _close)


def one_of_four_stripes_reset(case: Case) -> None:
    _connections_broken(case, 4, _reset)


def stripes_stalled(case: Case) -> None:
    """A connection that swallows everything costs neither a call nor a member, also if it is the only one."""
    for stripes in (4, 1):
        members = case.world(2, group=stripes, stripes=stripes)
        start_loop(members, "none", count=40000, pause_microseconds=200)
        progress(members)
        for _ in range(3):
            worker, descriptor = case.random.choice(_descriptors_of_links(members))
            with_descriptor(worker, descriptor, stall)
            progress(members, steps=40)
        stop_loop(members)
        check(check_steps(members, may_lose=False) == 0, "a stalled connection was seen by the caller")


def mismatch(case: Case) -> None:
    """All are told, both descriptors are in the log, and the group goes on."""
    members = case.world(3)
    good = dict(count=1000, kind="u64", op="sum")
    for tag, bad in enumerate((dict(good, count=1001), dict(good, kind="f64"), dict(good, op="max"),
                               dict(good, count=2000003))):
        for odd in members:
            for member in members:
                start_reduce([member], tag=tag, **(bad if member is odd else good))
            for member in members:
                line = member.expect("reduce")
                check(line.rc == INVALID_ARGUMENT, f"{member.name}: {bad}: {line}")
                check_whole(member, line)
        reduce(members, 1000, tag=tag)
    for member in members:
        log = member.log_text()
        for word in ("1000", "1001", "2000003"):
            check(word in log, f"{member.name}: the log does not name both descriptors: no {word}")


def different_calls(case: Case) -> None:
    """One at a join point, others in a collective: all are told, and may go on."""
    case.env["PCCL_TIMEOUT"] = "2"
    members = case.world(3)
    for call in ("update", "pending"):
        members[0].send(call)
        start_reduce(members[1:], 1000)
        check(members[0].expect(call).rc == INVALID_USAGE, f"{call} against a collective")
        for member in members[1:]:
            line = member.expect("reduce")
            check(line.rc == INVALID_USAGE, f"a collective against {call}: {line}")
            check_whole(member, line)
        reduce(members, 1000)
    members[0].send("update")
    for member in members[1:]:
        member.send("pending")
    check(members[0].expect("update").rc == INVALID_USAGE, "update against pending")
    for member in members[1:]:
        check(member.expect("pending").rc == INVALID_USAGE, "pending against update")
    for member in members:
        member.send("update")
    for member in members:
        check(member.expect("update").rc == SUCCESS, "the group should go on")
    reduce(members, 1000)


def late_member_is_no_failure(case: Case) -> None:
    """The others wait for a member that is merely late, for longer than every time-out."""
    case.env["PCCL_TIMEOUT"] = "0.5"
    members = case.world(3)
    start_reduce(members[1:], 300000)
    for member in members[1:]:
        member.expect("calling")
    time.sleep(2)
    start_reduce(members[:1], 300000)
    finish_reduce(members, mask_of(members))
