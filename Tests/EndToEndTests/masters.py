"""Masters that are killed, stopped, started twice, or are none at all."""

from __future__ import annotations

import http.server
import signal
import socket
import struct
import subprocess
import threading
import time

from harness import (INVALID_USAGE, MASTER_CONNECTION_FAILED, PROTOCOL_VERSION, RANK_CONNECTION_LOST, SUCCESS,
                     UPDATE_TOPOLOGY_FAILED, Case, check, check_steps, check_whole, mask_of, progress, reduce, settle,
                     start_loop, start_reduce, stop_loop)


def _membership_calls_fail(case: Case, members) -> None:
    for member in members:
        member.send("pending")
    for member in members:
        line = member.expect("pending")
        check(line.rc == INVALID_USAGE, f"{member.name}: pending without a master: {line}")
    for member in members:
        member.send("update")
    for member in members:
        line = member.expect("update")
        check(line.rc == UPDATE_TOPOLOGY_FAILED, f"{member.name}: a join point without a master: {line}")


def master_killed(case: Case) -> None:
    """Once nobody waits for it any more: collectives go on, membership calls fail with their codes, newcomers are told."""
    case.env["PCCL_TIMEOUT"] = "1"
    case.env["PCCL_MASTER_GRACE"] = "0"
    members = case.world(3)
    start_loop(members, "none")
    progress(members)
    case.master.kill()
    for member in members:
        member.wait_for_log("master is lost")
    progress(members, steps=50)
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "the master's death was seen by collectives")
    _membership_calls_fail(case, members)
    start_loop(members, "none")
    progress(members)
    stop_loop(members)
    newcomer = case.worker(5, port=case.master.port)
    newcomer.send("connect")
    check(newcomer.expect("connect").rc == MASTER_CONNECTION_FAILED, "a newcomer without a master")


def master_killed_during_membership_calls(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "1"
    case.env["PCCL_MASTER_GRACE"] = "0"
    members = case.world(3)
    for member, call in zip(members, ("update", "pending")):
        member.send(call)
        member.expect("calling")
    case.master.kill()
    check(members[0].expect("update").rc in (UPDATE_TOPOLOGY_FAILED, INVALID_USAGE), "update must end")
    check(members[1].expect("pending").rc == INVALID_USAGE, "pending must end")


def peer_killed_after_the_master(case: Case) -> None:
    """Nobody can say any more what became of the operation: an error at all survivors, and no hang."""
    case.env["PCCL_MASTER_GRACE"] = "0"
    for trial in range(3):
        case.start_master()
        members = case.world(3)
        case.master.kill()
        for member in members:
            member.wait_for_log("master is lost")
        count = (3, 1 << 20, 1 << 20)[trial]
        start_reduce(members[:2], count)
        if trial == 1:
            start_reduce(members[2:], count)
        for member in members[:2]:
            member.expect("calling")
        members[2].kill()
        for member in members[:2]:
            line = member.expect("reduce")
            check(line.rc in (SUCCESS, MASTER_CONNECTION_FAILED, RANK_CONNECTION_LOST), f"{member.name}: {line}")
            check(line.rc != SUCCESS or trial == 1, f"{member.name}: a success without a member: {line}")
            check_whole(member, line)


def master_killed_while_a_peer_connects(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "1"
    case.env["PCCL_MASTER_GRACE"] = "0"
    members = case.world(2)
    newcomer = case.worker(5)
    newcomer.send("connect")
    newcomer.expect("connecting")
    pending = 0
    while not pending:
        for member in members:
            member.send("pending")
        pending = [member.expect("pending").pending for member in members][0]
        check(case.seconds_left() > 0, "the newcomer never came to wait")
    case.master.kill()
    line = newcomer.expect("connect")
    check(line.rc == MASTER_CONNECTION_FAILED, f"{line}")
    start_loop(members, "none")
    progress(members)
    stop_loop(members)


def master_terminated(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "1"
    case.env["PCCL_MASTER_GRACE"] = "0"
    members = case.world(2)
    case.master.signal(signal.SIGTERM)
    check(case.master.wait() == 0, f"SIGTERM should end it cleanly, not with {case.master.popen.returncode}")
    _membership_calls_fail(case, members)
    start_loop(members, "none")
    progress(members)
    stop_loop(members)


def second_master_on_the_port(case: Case) -> None:
    first = case.start_master()
    second = subprocess.run(
        [case.tools.master, "--listen", "127.0.0.1", "--port", str(first.port)], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=case.seconds_left())
    check(second.returncode == 1, f"a second master should end with 1, not {second.returncode}: {second.stderr}")
    for text in (str(first.pid), "pccl-master", str(first.port)):
        check(text in second.stderr, f"it should name {text}: {second.stderr}")
    members = case.world(2)
    start_loop(members, "pending")
    progress(members)
    stop_loop(members)


def master_restarted(case: Case) -> None:
    """Who lost the master may start anew with the next one."""
    case.env["PCCL_TIMEOUT"] = "1"
    case.env["PCCL_MASTER_GRACE"] = "0"
    members = case.world(2)
    case.master.kill()
    for member in members:
        member.wait_for_log("master is lost")
        member.send("destroy")
        check(member.expect("destroy").rc == SUCCESS, "a destroy always succeeds")
    case.start_master()
    fresh = case.world(2)
    start_loop(fresh, "pending")
    progress(fresh)
    stop_loop(fresh)


def _restart_master(case: Case, *arguments: str) -> None:
    port = case.master.port
    case.master.kill()
    case.start_master(port=port, arguments=arguments)


def _is_attached(member) -> bool:
    log = member.log_text()
    return log.rfind("attached to the master again") > log.rfind("the master is lost")


def _returning(case: Case, *arguments: str) -> None:
    """Killed at any moment and started again, it loses nobody, and no call fails."""
    case.env["PCCL_LOG_LEVEL"] = "INFO"
    case.start_master(arguments=arguments)
    members = case.world(3)
    start_loop(members, "pending")
    for _ in range(6):
        progress(members, steps=case.random.randrange(1, 30))
        _restart_master(case, *arguments)
    if "--no-journal" in arguments:
        # Such a master takes whoever comes first for the first of a new run.
        while not all(_is_attached(member) for member in members):
            check(case.seconds_left() > 0, "not all have attached again")
            time.sleep(0.01)
    newcomer = case.worker(3)
    newcomer.send("connect")
    check(newcomer.expect("connect").rc == SUCCESS, "a newcomer")
    start_loop([newcomer], "pending")
    everybody = members + [newcomer]
    settle(everybody, mask_of(everybody))
    stop_loop(everybody)
    check(check_steps(everybody, may_lose=False) == 0, "the master's death was seen by a collective")


def master_returns(case: Case) -> None:
    _returning(case, "--journal", str(case.logs / "journal"))


def master_returns_without_a_journal(case: Case) -> None:
    _returning(case, "--no-journal")


def member_killed_while_the_master_is_away(case: Case) -> None:
    case.env["PCCL_TIMEOUT"] = "1"
    journal = ("--journal", str(case.logs / "journal"))
    case.start_master(arguments=journal)
    members = case.world(4)
    start_loop(members, "pending")
    progress(members)
    port = case.master.port
    case.master.kill()
    members[3].wait_for_log("master is lost")
    members[3].kill()
    case.start_master(port=port, arguments=journal)
    settle(members[:3], mask_of(members[:3]))
    stop_loop(members[:3])
    check_steps(members, may_lose=True)


def master_stopped(case: Case) -> None:
    """For longer than it may be silent: members look for it, find it again, and nobody is lost."""
    case.env["PCCL_TIMEOUT"] = "0.5"
    case.env["PCCL_LOG_LEVEL"] = "INFO"
    members = case.world(3)
    start_loop(members, "none")
    progress(members)
    case.master.signal(signal.SIGSTOP)
    for member in members:
        member.wait_for_log("the master is lost")
    progress(members, steps=20)
    case.master.signal(signal.SIGCONT)
    for member in members:
        member.wait_for_log("attached to the master again")
    stop_loop(members)
    check(check_steps(members, may_lose=False) == 0, "somebody was lost for the master's absence")
    case.join(members, [case.worker(3)])


def foreign_journal(case: Case) -> None:
    """What is not its own is refused with a reason, and left as it was."""
    path = case.logs / "thesis.tex"
    path.write_text("years of work\n")
    first = case.start_master(arguments=("--journal", str(case.logs / "journal")))
    for arguments, word in (
            (("--journal", str(path)), "is not a journal"), (("--journal", str(case.logs)), "opening the journal"),
            (("--journal", str(case.logs / "journal")), "another master"), (("--journal", ""), "needs a path"),
            (("--journal", "x", "--no-journal"), "without")):
        other = subprocess.run(
            [case.tools.master, "--listen", "127.0.0.1", "--port", "0", *arguments], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=case.seconds_left())
        check(other.returncode in (1, 64), f"{arguments}: it ended with {other.returncode}: {other.stderr}")
        check(word in other.stderr, f"{arguments}: it should say {word!r}: {other.stderr}")
    check(path.read_text() == "years of work\n", "it was overwritten")
    check(first.is_running(), "the first master should not mind")


def _no_master(case: Case, port: int, *words: str) -> None:
    """A connect to this port fails, and the log says why; then it may be tried again."""
    worker = case.worker(0, port=port, env={"PCCL_TIMEOUT": "1"})
    for _ in range(2):
        worker.send("connect")
        line = worker.expect("connect")
        check(line.rc == MASTER_CONNECTION_FAILED, f"{line}")
    log = worker.log_text()
    for word in words:
        check(word in log, f"the log should say {word!r}: {log}")


def closed_port(case: Case) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        _no_master(case, probe.getsockname()[1], "refused")


def web_server_as_master(case: Case) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    case.cleanups += [server.server_close, server.shutdown]
    _no_master(case, server.server_address[1], str(server.server_address[1]))


def _answering(case: Case, answer: bytes) -> int:
    """The port of a server that says this to everybody, and keeps the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    case.cleanups.append(listener.close)
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                kept.append(connection)
                connection.sendall(answer)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def talking_server_as_master(case: Case) -> None:
    _no_master(case, _answering(case, b"220 mail.example.org ESMTP ready\r\n"), "220 mail.ex", "protocol")


def silent_server_as_master(case: Case) -> None:
    _no_master(case, _answering(case, b""))


def master_of_another_version(case: Case) -> None:
    _no_master(case, _answering(case, b"\x7fpccl-sw" + struct.pack("<HB5x", 77, 1)), "version 77")


def peer_as_master(case: Case) -> None:
    _no_master(case, _answering(case, b"\x7fpccl-sw" + struct.pack("<HB5x", PROTOCOL_VERSION, 2)), "peer")


def master_that_talks_nonsense(case: Case) -> None:
    greeting = b"\x7fpccl-sw" + struct.pack("<HB5x", PROTOCOL_VERSION, 1)
    for nonsense in (b"\xff" * 64, b"\0" * 64, struct.pack("<I", 5) + b"hello", bytes(case.random.randbytes(4096))):
        _no_master(case, _answering(case, greeting + nonsense))


class _Impostor:
    """A server on a port of one's choice, which says the same to everybody until it is closed."""

    def __init__(self, case: Case, port: int, answer: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        case.cleanups.append(self.close)
        self.kept = []
        self.thread = threading.Thread(target=self._serve, args=(answer,), daemon=True)
        self.thread.start()

    def _serve(self, answer: bytes) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
                self.kept.append(connection)
                connection.sendall(answer)
            except OSError:
                if self.listener.fileno() < 0:
                    return

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            # Closing alone does not wake a thread that waits in accept.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.thread.join()
        for connection in self.kept:
            connection.close()


def connect_again_after_every_failure(case: Case) -> None:
    """One communicator, and one address at which there is nobody, nobody who answers, several that are no master, and a
    master that turns the peer away; with what is right in the end it becomes a member."""
    case.env["PCCL_TIMEOUT"] = "1"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        worker = case.worker(0, port=port)

        def fails(why: str, *words: str) -> None:
            said_before = len(worker.log_text())
            worker.send("connect", "attributes")
            line = worker.expect("connect")
            check(line.rc == MASTER_CONNECTION_FAILED and line.size == -1, f"{why}: {line}")
            check(worker.expect("attributes").size == -1, f"{why}: it should not be connected")
            said = worker.log_text()[said_before:]
            for word in words:
                check(word in said, f"{why}: the log should say {word!r}: {said}")

        fails("a closed port", "refused")
        # One connection that nobody accepts, and Linux answers no more of them.
        probe.listen(0)
        with socket.create_connection(("127.0.0.1", port)):
            fails("a host that does not answer", "no greeting came")
        fails("a port whose server has no time", "no greeting came")
    greeting = b"\x7fpccl-sw" + struct.pack("<HB5x", PROTOCOL_VERSION, 1)
    for why, answer, word in (
            ("silence", b"", "no greeting came"), ("another protocol", b"220 mail.example.org ready\r\n", "220 mail"),
            ("another version", b"\x7fpccl-sw" + struct.pack("<HB5x", 77, 1), "version 77"),
            ("a peer", b"\x7fpccl-sw" + struct.pack("<HB5x", PROTOCOL_VERSION, 2), "peer"),
            ("nonsense", greeting + b"\xff" * 64, str(port))):
        impostor = _Impostor(case, port, answer)
        fails(why, word)
        impostor.close()
        fails(f"nobody, after {why}", "refused")

    case.start_master(port=port)
    member = case.worker(1)
    member.send("connect")
    check(member.expect("connect").rc == SUCCESS, "the first peer of a group is a member at once")
    worker.send("connect")
    while True:
        member.send("pending")
        if member.expect("pending").pending:
            break
        check(case.seconds_left() > 0, "the newcomer never came to wait")
    worker.signal(signal.SIGSTOP)
    while True:
        member.send("pending")
        if not member.expect("pending").pending:
            break
        check(case.seconds_left() > 0, "the newcomer that hangs was never given up")
        time.sleep(0.01)
    worker.signal(signal.SIGCONT)
    line = worker.expect("connect")
    check(line.rc == MASTER_CONNECTION_FAILED, f"turned away while it waited: {line}")
    check("nothing was heard from it" in worker.log_text(), f"the log should say why: {worker.log_text()}")
    case.join([member], [worker])
    reduce([member, worker], 1003)
