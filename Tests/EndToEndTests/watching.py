"""A master that is watched over HTTP: it says what is so, and nobody who asks, or does worse, is felt by the run."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from harness import (RANK_CONNECTION_LOST, SUCCESS, Case, Failure, Master, check, check_steps, finish_reduce, mask_of,
                     peer_port, progress, settle, start_loop, start_reduce, stop_loop)


def _watched(case: Case, *arguments: str, port: int = 0) -> Tuple[Master, int]:
    master = case.start_master(port=port, arguments=[*(arguments or ["--no-journal"]), "--http", "0"])
    return master, int(master.log_text().split("status at http://127.0.0.1:")[1].split("/")[0])


def _get(case: Case, port: int, path: str) -> Tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(case.seconds_left(), 1))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _status(case: Case, port: int) -> dict:
    status, text = _get(case, port, "/api/status")
    check(status == 200, f"/api/status: {status} {text}")
    return json.loads(text)


def _samples(case: Case, port: int) -> Dict[str, float]:
    status, text = _get(case, port, "/metrics")
    check(status == 200, f"/metrics: {status} {text}")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in lines:
        check(re.fullmatch(r'[a-z_]+(\{([a-z_]+="[^"]*",?)+\})? [-+.e0-9]+', line), f"no sample: {line}")
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def _until(case: Case, port: int, what: str, holds: Callable[[dict], object]) -> dict:
    """The first status of which it holds: the master has to hear of it first."""
    while True:
        seen = _status(case, port)
        if holds(seen):
            return seen
        check(case.seconds_left() > 0, f"the status never said {what}: {json.dumps(seen)}")
        time.sleep(0.02)


def _states(status: dict, group: int = 0) -> List[str]:
    found = [g for g in status["groups"] if g["group"] == group]
    return [peer["state"] for g in found for peer in g["members"] + g["newcomers"]]


def status_follows_a_run(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "2"
    master, port = _watched(case)
    check(_get(case, port, "/healthz") == (200, "ok\n"), "a master that nobody has come to is healthy")
    check(_status(case, port)["groups"] == [], "nobody is there yet")

    members = case.world(3)
    seen = _until(case, port, "three members", lambda s: _states(s) == ["attached"] * 3)
    group = seen["groups"][0]
    check([m["rank"] for m in group["members"]] == [0, 1, 2], f"ranks: {group}")
    check(all(m["address"].startswith("127.0.0.1:") for m in group["members"]), f"addresses: {group}")
    before = _samples(case, port)
    check(before['pccl_peers{group="0",state="attached"}'] == 3 and before["pccl_joins_total"] == 3, f"{before}")
    check(before['pccl_epoch{group="0"}'] == group["epoch"], f"epoch: {before}, {group}")

    # Two of three have called, and wait.
    start_reduce(members[:2], 1000, tag=7)
    late = _until(case, port, "an operation that waits", lambda s: s["groups"][0]["late_operations"])
    ids = {m["peer"] for m in late["groups"][0]["members"]}
    operation = late["groups"][0]["late_operations"][0]
    called, missed = set(operation["called_by"]), set(operation["waits_for"])
    # One of the two may not have said so yet.
    check(operation["tag"] == "7" and len(missed) == 1 and called and called <= ids - missed, f"{operation}")
    check(late["now"] - 30 < operation["since"] < late["now"], f"since when: {late}")
    start_reduce(members[2:], 1000, tag=7)
    for member in members:
        check(member.expect("reduce").rc == SUCCESS, "the late one came")
    _until(case, port, "that it has gone on", lambda s: not s["groups"][0]["late_operations"])

    # One is killed while the others wait for it.
    start_reduce(members[:2], 1000, tag=8)
    _until(case, port, "two that wait", lambda s: [len(o["called_by"]) for o in s["groups"][0]["late_operations"]] == [2])
    members[2].kill()
    for member in members[:2]:
        check(member.expect("reduce").rc in (SUCCESS, RANK_CONNECTION_LOST), "the survivors go on")
    seen = _until(case, port, "two members", lambda s: _states(s) == ["attached"] * 2)
    check([h["event"] for h in seen["history"]][-1] == "lost", f"history: {seen['history']}")
    check(seen["history"][-1]["cause"] == "disconnected", f"history: {seen['history']}")
    after = _samples(case, port)
    check(after['pccl_losses_total{cause="disconnected"}'] == 1, f"losses: {after}")
    check(after['pccl_flushes_total{cause="loss"}'] == 1, f"flushes: {after}")
    check(after['pccl_epoch{group="0"}'] > before['pccl_epoch{group="0"}'], f"epochs: {before}, {after}")
    outcomes = [value for name, value in after.items() if name.startswith("pccl_verdicts_total")]
    check(sum(outcomes) == 2, f"verdicts: {after}")
    ids = [m["peer"] for m in seen["groups"][0]["members"]]

    # One waits to be admitted, and is; one leaves.
    newcomer = case.worker(4)
    newcomer.send("connect")
    _until(case, port, "a newcomer", lambda s: "newcomer" in _states(s))
    members[0].send("update")
    members[0].expect("calling")
    seen = _until(case, port, "who is waited for", lambda s: s["groups"][0]["calls"])
    call = seen["groups"][0]["calls"][0]
    check(call["call"] == "update_topology" and call["called_by"] == [ids[0]] and call["waits_for"] == [ids[1]],
          f"{call}")
    members[1].send("update")
    for member in members[:2]:
        check(member.expect("update").rc == SUCCESS, "the newcomer is admitted")
    check(newcomer.expect("connect").rc == SUCCESS, "it is admitted")
    _until(case, port, "three members again", lambda s: _states(s) == ["attached"] * 3)
    newcomer.send("destroy")
    newcomer.expect("destroy")
    _until(case, port, "that it left", lambda s: s["counts"]["departures"]["left"] == 1)
    check(_samples(case, port)["pccl_leaves_total"] == 1, "who leaves is no loss")


def _stuck(case: Case, port: int, what: str, holds: Callable[[dict], bool]) -> dict:
    """The first thing that is said to be stuck of which it holds."""
    seen = _until(case, port, what, lambda s: any(holds(item) for item in s["stuck"]))
    return next(item for item in seen["stuck"] if holds(item))


def who_is_stuck_is_named(case: Case) -> None:
    """A peer that stands still before its call, and one in the midst of an operation, are named within a third of the dead
    time, by the master and in the logs of those who wait; and in the error, when it comes to one. What the flight recorders
    of all of them have written then shows who was late."""
    third = 4 / 3
    dumps = case.logs / "dumps"
    dumps.mkdir()
    case.env["PCCL_RECORDER_DIR"] = str(dumps)
    case.env["PCCL_RECORDER_SIGNAL"] = "USR2"
    case.env["PCCL_TIMEOUT"] = "4"
    _, port = _watched(case)
    address = f"127.0.0.1:{port}"
    members = case.world(3)
    victim, others = members[2], members[:2]
    # Who comes first is the first peer.
    shown = {m["address"]: m["peer"] for m in _status(case, port)["groups"][0]["members"]}
    ids = [shown[f"127.0.0.1:{peer_port(member)}"] for member in members]
    check(_tool(case, "status", "--stuck", "--master", address) == (0, "nothing is stuck\n", ""), "nothing is stuck")

    def named_in_logs(*texts: str) -> None:
        for other in others:
            log = other.wait_for_log(*texts)
            line = next(line for line in log.splitlines() if any(text in line for text in texts))
            waited = float(line.split("has waited ")[1].split(" s")[0])
            # Of what it takes until a line is written on a busy machine, a part.
            check(waited <= third + 1, f"{other.name} named it after {waited} s: {line}")

    # Before its call.
    victim.signal(signal.SIGSTOP)
    start_reduce(others, 1000, tag=7)
    item = _stuck(case, port, "who has not called", lambda i: i["what"] == "operation")
    check(item["tag"] == "7" and item["peers"] == ids[2:] and set(item["waiting"]) <= set(ids[:2]), f"{item}")
    culprit = item["waits_for"][0]
    check(culprit["reason"] == "has_not_called" and culprit["last_byte"], f"{item}")
    named_in_logs(f"for peer {ids[2]}: it has not called")
    _stuck(case, port, "that the master does not hear it", lambda i: (i["what"], i["peers"]) == ("silent", ids[2:]))
    status, out, err = _tool(case, "status", "--stuck", "--master", address)
    check(status == 2 and f"for peer {ids[2]}: it has not called; its last byte came" in out and not err,
          f"{status} {out}{err}")
    check(f"peer {ids[2]} at 127.0.0.1" in out, f"the master has not heard it either: {out}")
    status, out, _ = _tool(case, "status", "--stuck", "--json", "--master", address)
    check(status == 2 and any(i.get("tag") == "7" for i in json.loads(out)), f"{status} {out}")
    samples = _samples(case, port)
    check(samples['pccl_stuck_operations{group="0"}'] == 1 and samples['pccl_silent_peers{group="0"}'] == 1,
          f"{samples}")
    victim.signal(signal.SIGCONT)
    start_reduce([victim], 1000, tag=7)
    finish_reduce(members)
    _until(case, port, "that it goes on", lambda s: not s["stuck"])

    # In the midst of one. It may stand still before it has called, or when all is over: then there is another.
    def midst() -> bool:
        start_reduce(members, 6 << 20, tag=8)
        for member in members:
            member.expect("calling")
        time.sleep(case.random.random() * 0.02)
        victim.signal(signal.SIGSTOP)
        seen = _until(case, port, "that it waits, or not", lambda s: any(i["peers"] == ids[2:] for i in s["stuck"]))
        while not any(i["what"] == "operation" for i in seen["stuck"]):
            if all(other.has_said("reduce") for other in others):
                return False
            seen = _status(case, port)
            check(case.seconds_left() > 0, f"nobody says that it is stuck: {seen}")
        item = next(i for i in seen["stuck"] if i["what"] == "operation")
        check(item["tag"] == "8" and item["peers"] == ids[2:], f"{item}")
        if item["waits_for"][0]["reason"] == "has_not_called":
            return False
        check(item["called"] == 3, f"{item}")
        return True

    while not midst():
        victim.signal(signal.SIGCONT)
        finish_reduce(members)
    named_in_logs(f"for peer {ids[2]}: it has called", f"for peer {ids[2]}: it does not say")
    victim.signal(signal.SIGCONT)
    finish_reduce(members)

    # Until it is lost. Whoever fails, or is lost, writes what it has recorded.
    check(not list(dumps.iterdir()), "nothing is written as long as all goes well")
    victim.signal(signal.SIGSTOP)
    start_reduce(others, 1000, tag=9)
    for other in others:
        check(other.expect("reduce").rc == RANK_CONNECTION_LOST, "the survivors are told of the loss")
        other.wait_for_log("Before that: tag 9, all-reduce(sum, 1000 ")
    victim.signal(signal.SIGCONT)
    files = _dumps(case, dumps, 3)
    check([int(file.name.split("-")[1]) for file in files] == sorted(ids), f"one of each: {files}")
    others[0].signal(signal.SIGUSR2)
    files = _dumps(case, dumps, 4)
    shown = next(file for file in files if int(file.name.split("-")[1]) == ids[1])
    status, out, err = _tool(case, "trace", "show", str(shown))
    check(status == 0 and f"peer {ids[1]} of group 0" in out and "tag 9" in out and not err, f"{status} {err}")
    _shows_who_was_late(case, files, ids)


def _dumps(case: Case, folder: Path, count: int) -> List[Path]:
    """In the order of peers."""
    while True:
        files = sorted(folder.glob("pccl-*.trace"), key=lambda file: [int(n) for n in file.stem.split("-")[1:]])
        if len(files) >= count:
            return files
        check(case.seconds_left() > 0, f"there are only {files}")
        time.sleep(0.02)


def _shows_who_was_late(case: Case, files: List[Path], ids: List[int]) -> None:
    trace = case.logs / "trace.json"
    status, out, err = _tool(case, "trace", "merge", *map(str, files), "--out", str(trace))
    check(status == 0 and out.count("the same clock") == 2 and not err, f"{status} {out}{err}")
    events = json.loads(trace.read_text())["traceEvents"]
    check({event["pid"] for event in events} == set(ids), "a process for each peer")
    name = f"waits for peer {ids[2]} to call"
    waits = [event for event in events if event["ph"] == "X" and event["name"] == name and event["dur"] > 0.9e6]
    check({event["pid"] for event in waits} == set(ids[:2]), f"both have waited for a second and more: {waits}")
    arrows = [{event["id"] for event in events if event["ph"] == phase} for phase in "sf"]
    check(arrows[0] == arrows[1] and len(arrows[0]) > 20, f"arrows between peers: {[len(a) for a in arrows]}")

    # Damaged, it is refused, and named.
    damaged = case.logs / "damaged.trace"
    damaged.write_bytes(files[0].read_bytes()[:-100])
    status, out, err = _tool(case, "trace", "merge", str(damaged), str(files[1]), "--out", str(trace))
    check(status == 1 and "damaged.trace" in err and "it is damaged" in err, f"{status} {out}{err}")
    status, out, err = _tool(case, "trace", "show", str(Path(__file__)))
    check(status == 1 and "it is no dump of a flight recorder" in err, f"{status} {out}{err}")


def a_restarted_master_says_who_is_away(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "15"
    journal = str(case.logs / "master.journal")
    master, port = _watched(case, "--journal", journal)
    members = case.world(2)
    check(_status(case, port)["journal"]["bytes"] > 0, "a journal has bytes")
    check(_samples(case, port)["pccl_journal_appends_total"] > 0, "records were written")
    members[1].signal(signal.SIGSTOP)
    master.kill()
    _, port = _watched(case, "--journal", journal, port=master.port)
    seen = _until(case, port, "who is back", lambda s: _states(s) == ["attached", "away"])
    group = seen["groups"][0]
    check(group["phase"] == "recovering" and group["phase_waits_for"] == [group["members"][1]["peer"]], f"{group}")
    status, text = _get(case, port, "/healthz")
    check(status == 200 and "to attach again" in text, f"healthz: {status} {text}")
    members[1].signal(signal.SIGCONT)
    _until(case, port, "both", lambda s: _states(s) == ["attached"] * 2 and s["groups"][0]["phase"] == "settled")
    check(_get(case, port, "/healthz") == (200, "ok\n"), "nothing is to be said any more")
    check(_samples(case, port)["pccl_attachments_total"] == 2, "both have attached again")


def rubbish_at_the_http_port(case: Case) -> None:
    """Ten megabytes of head, a thousand connections, a byte now and then, and noise: the run does not feel it, and who
    asks properly is answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    case.cleanups.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    master, port = _watched(case)
    members = case.world(3)
    start_loop(members, "pending")
    progress(members)

    def stranger() -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", port), timeout=10)
        case.cleanups.append(opened.close)
        return opened

    def still_answers(after: str) -> None:
        progress(members)
        check(_get(case, port, "/healthz") == (200, "ok\n"), f"after {after} nobody is answered")

    for rubbish in [b"", b"\0", b"\r\n\r\n", b"\x16\x03\x01\x02", b"\x7fpccl-sw" + bytes(7), b"GET", b"GET /\r\n",
                    b"GET / HTTP/1.1\nA: b\n\n", b"GET /" + b"a" * 100000, case.random.randbytes(70000)]:
        with stranger() as one:
            try:
                one.sendall(rubbish)
            except OSError:
                pass  # It was turned away before the end.
    still_answers("noise")

    endless = stranger()
    try:
        endless.sendall(b"GET / HTTP/1.1\r\nField: ")
        for _ in range(10):
            endless.sendall(b"v" * (1 << 20))
    except OSError:
        pass
    still_answers("ten megabytes of a field")

    slow = [stranger() for _ in range(100)]
    for round in range(5):
        for one in slow:
            try:
                one.sendall(b"GET / HTTP/1.1\r\n"[round:round + 1])
            except OSError:
                pass  # Pushed out by a later one.
        still_answers("a byte now and then")
    crowd = []
    for _ in range(1000):
        crowd.append(stranger())
        if len(crowd) % 100 == 0:
            still_answers(f"{len(crowd)} connections that say nothing")
    # Who asks and never reads.
    for one in crowd[-60:]:
        try:
            one.sendall(b"GET /api/status HTTP/1.1\r\n\r\n")
        except OSError:
            pass
    still_answers("answers that nobody reads")

    newcomer = case.worker(3)
    newcomer.send("connect")
    start_loop([newcomer], "pending")
    check(newcomer.expect("connect").rc == SUCCESS, "a newcomer after the rubbish")
    members.append(newcomer)
    settle(members, mask_of(members))
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "rubbish cost a member")
    held = len(os.listdir(f"/proc/{master.pid}/fd"))
    check(held < 200, f"the master holds {held} descriptors")


def _tool(case: Case, *arguments: str) -> Tuple[int, str, str]:
    tool = str(Path(case.tools.master).with_name("pccl"))
    try:
        done = subprocess.run([tool, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=max(case.seconds_left(), 1))
    except subprocess.TimeoutExpired:
        raise Failure(f"pccl {arguments} did not end") from None
    return done.returncode, done.stdout, done.stderr


def status_and_top_show_it(case: Case) -> None:
    master, port = _watched(case)
    case.world(2)
    address = f"127.0.0.1:{port}"
    status, out, err = _tool(case, "status", "--master", address)
    check(status == 0 and "group 0, epoch " in out and out.count(" attached ") == 2 and not err, f"{status} {out}{err}")
    status, out, err = _tool(case, "status", "--master", f"http://{address}/", "--json")
    check(status == 0 and json.loads(out)["tool"] == "pccl-master", f"{status} {out}{err}")

    # Who is asked by mistake is named.
    for wrong, text in [(f"127.0.0.1:{master.port}", "peers connect there"), ("127.0.0.1:1", "refused")]:
        status, out, err = _tool(case, "status", "--master", wrong)
        check(status == 1 and not out and text in err, f"{wrong}: {status} {out}{err}")
    status, out, err = _tool(case, "top", "--master", address)
    check(status == 1 and "not a terminal" in err, f"top in a pipe: {status} {out}{err}")

    screen, pid = _top(case, address)
    _shows(case, screen, "2 members")
    master.signal(signal.SIGSTOP)
    _shows(case, screen, "stale since")
    master.signal(signal.SIGCONT)
    _shows(case, screen, "up ")
    os.write(screen, b"\x03")
    while True:
        ended, how = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        check(case.seconds_left() > 0, "Ctrl-C does not end it")
        select.select([screen], [], [], 0.05)
    check(os.WIFEXITED(how) and os.WEXITSTATUS(how) == 0, f"Ctrl-C ended top with {how}")


def _top(case: Case, address: str) -> Tuple[int, int]:
    tool = str(Path(case.tools.master).with_name("pccl"))
    pid, screen = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.environ.pop("NO_COLOR", None)
        os.execv(tool, [tool, "top", "--master", address])
    case.cleanups.append(lambda: os.close(screen))
    return screen, pid


def _shows(case: Case, screen: int, text: str) -> None:
    """Reads on until the terminal is shown that."""
    seen = b""
    while text.encode() not in seen:
        check(case.seconds_left() > 0, f"top never showed {text}: {seen[-2000:]!r}")
        if select.select([screen], [], [], 0.1)[0]:
            try:
                seen += os.read(screen, 1 << 16)
            except OSError:
                raise Failure(f"top ended instead of showing {text}: {seen[-2000:]!r}") from None
