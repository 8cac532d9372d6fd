"""What the cases are made of: processes that are started, talked to, watched and killed.

A case waits for lines that a process writes, never for time to pass. Every wait ends at the case's deadline, which is
far away and only turns a hang into a failure.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set

SUCCESS, INVALID_ARGUMENT, INVALID_USAGE, TOO_FEW_PEERS, MASTER_CONNECTION_FAILED = 0, 3, 4, 5, 6
RANK_CONNECTION_LOST, UPDATE_TOPOLOGY_FAILED, TOPOLOGY_OPTIMIZATION_FAILED = 8, 11, 12

PROTOCOL_VERSION = 12
"""What this library says in its greeting; a test that greets by itself must say the same to be listened to."""

# What a process may open on many machines, unless somebody changed it. Ours must do with that.
USUAL_DESCRIPTORS = 1024


class Failure(Exception):
    """The case found what should not be."""


class Skip(Exception):
    """The machine lacks what the case needs; the text says what."""


def check(condition: object, text: str) -> None:
    if not condition:
        raise Failure(text)


class Line:
    """NAME key=value ..., as a worker writes it. Values are decimal numbers; masks and hashes are hexadecimal."""

    def __init__(self, text: str) -> None:
        words = text.split()
        self.text = text
        self.name = words[0] if words else ""
        self.values = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        self.read_at = time.monotonic()

    def __getattr__(self, key: str):
        try:
            value = self.values[key]
        except KeyError:
            raise AttributeError(f"no {key} in: {self.text}") from None
        if key in ("mask", "union", "common"):
            return int(value, 16)
        if key in ("hash", "at", "fences"):
            return value
        return int(value)

    def __repr__(self) -> str:
        return self.text


class Process:
    """A child whose standard output is read line by line, and whose standard error goes to a file."""

    def __init__(self, case: "Case", name: str, command: Sequence[str], env: Dict[str, str]) -> None:
        self.case = case
        self.name = name
        self.log = case.logs / f"{name}.log"
        self.lines: List[Line] = []
        self.next = 0
        self.was_killed = False
        self.changed = threading.Condition()
        self.is_at_end = False
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = (min(USUAL_DESCRIPTORS, hard), hard)
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **env},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
        self.pid = self.popen.pid
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for raw in self.popen.stdout:
            with self.changed:
                self.lines.append(Line(raw.decode(errors="replace")))
                self.changed.notify_all()
        with self.changed:
            self.is_at_end = True
            self.changed.notify_all()

    def send(self, *commands: str) -> None:
        try:
            self.popen.stdin.write("".join(command + "\n" for command in commands).encode())
            self.popen.stdin.flush()
        except BrokenPipeError:
            raise Failure(f"{self.name} is gone (status {self.popen.poll()})") from None

    def expect(self, *names: str) -> Line:
        """The next line with one of these names; those before it are passed over."""
        with self.changed:
            while True:
                while self.next < len(self.lines):
                    line = self.lines[self.next]
                    self.next += 1
                    if line.name in names:
                        return line
                if self.is_at_end:
                    raise Failure(f"{self.name} ended (status {self.popen.wait()}) instead of: {' or '.join(names)}")
                if not self.changed.wait(self.case.seconds_left()):
                    raise Failure(f"{self.name} did not come to: {' or '.join(names)}")

    def has_said(self, name: str) -> bool:
        """Whether such a line has come that nobody has taken yet."""
        with self.changed:
            return any(line.name == name for line in self.lines[self.next:])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_log(self, *texts: str) -> str:
        """Waits until the log has one of the texts."""
        while True:
            log = self.log_text()
            if any(text in log for text in texts):
                return log
            check(self.popen.poll() is None, f"{self.name} ended (status {self.popen.poll()}) before logging {texts}")
            check(self.case.seconds_left() > 0, f"{self.name} never logged {' or '.join(texts)}")
            time.sleep(0.005)

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.was_killed = True
        self.popen.kill()
        self.popen.wait()

    def wait(self) -> int:
        try:
            return self.popen.wait(self.case.seconds_left())
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end") from None

    def describe(self) -> str:
        """For the reader of a failure: its last lines, its log, and where its threads stand."""
        parts = [f"--- {self.name} (process {self.pid}), status {self.popen.poll()}"]
        parts += [line.text.rstrip() for line in self.lines[-12:]]
        parts += ["    | " + line for line in self.log_text().splitlines()[-25:]]
        if self.is_running():
            parts.append(stacks(self.pid))
        return "\n".join(parts)


def stacks(pid: int) -> str:
    if shutil.which("gdb"):
        command = ["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "set print frame-arguments none"]
        try:
            shown = subprocess.run(
                command + ["-ex", "thread apply all bt 14"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=60)
            wanted = [line for line in shown.stdout.splitlines() if line.startswith(("Thread", "#"))]
            if wanted:
                return "\n".join(wanted)
        except subprocess.TimeoutExpired:
            pass
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            lines.append(f"thread {(task / 'comm').read_text().strip()} in {(task / 'wchan').read_text()}")
        except OSError:
            continue
    return "\n".join(lines)


class Worker(Process):
    def __init__(self, case: "Case", number: int, port: int, group: int, stripes: int, host: str,
                 env: Dict[str, str], prefix: Sequence[str] = ()) -> None:
        self.number = number
        case.started += 1
        super().__init__(
            case, f"worker-{number}-{case.started}",
            [*prefix, case.tools.worker, str(number), host, str(port), str(group), str(stripes)], {**case.env, **env})

    @property
    def bit(self) -> int:
        return 1 << self.number

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


class Master(Process):
    def __init__(self, case: "Case", host: str, port: int, arguments: Sequence[str], env: Dict[str, str] = {},
                 prefix: Sequence[str] = ()) -> None:
        case.started += 1
        super().__init__(
            case, f"master-{case.started}",
            [*prefix, case.tools.master, "--listen", host, "--port", str(port), *(arguments or ["--no-journal"])],
            {**case.env, **env})
        self.host = host
        log = self.wait_for_log("listening on ")
        self.port = int(log.split("listening on ")[1].split()[0].rsplit(":", 1)[1])


class Tools:
    def __init__(self, master: str, worker: str, logs: Path, seed: int) -> None:
        self.master = master
        self.worker = worker
        self.logs = logs
        self.seed = seed


class Case:
    """One running case: its processes, its deadline and its random numbers."""

    def __init__(self, name: str, tools: Tools, limit_seconds: float) -> None:
        self.name = name
        self.tools = tools
        self.deadline = time.monotonic() + limit_seconds
        self.random = random.Random(f"{tools.seed} {name}")
        self.logs = tools.logs / name
        self.logs.mkdir(parents=True)
        self.env: Dict[str, str] = {}
        self.processes: List[Process] = []
        self.cleanups: List[Callable[[], None]] = []
        self.started = 0
        self._master: Optional[Master] = None

    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    # --- processes

    def start_master(self, host: str = "127.0.0.1", port: int = 0, arguments: Sequence[str] = ()) -> Master:
        self._master = Master(self, host, port, arguments)
        self.processes.append(self._master)
        return self._master

    @property
    def master(self) -> Master:
        return self._master or self.start_master()

    def worker(self, number: int, group: int = 0, stripes: int = 0, port: int = 0, host: str = "",
               env: Dict[str, str] = {}, prefix: Sequence[str] = ()) -> Worker:
        if not port:
            port = self.master.port
        host = host or (self._master.host if self._master else "127.0.0.1")
        worker = Worker(self, number, port, group, stripes, host, env, prefix)
        self.processes.append(worker)
        return worker

    def world(self, size: int, group: int = 0, stripes: int = 0, first: int = 0) -> List[Worker]:
        """A group of connected workers, numbered from `first` on."""
        return self.gathered([self.worker(first + i, group, stripes) for i in range(size)])

    def gathered(self, workers: List[Worker]) -> List[Worker]:
        workers[0].send("connect")
        check(workers[0].expect("connect").rc == SUCCESS, "the first peer of a group is a member at once")
        self.join(workers[:1], workers[1:])
        return workers

    def join(self, members: Iterable[Worker], newcomers: Iterable[Worker]) -> None:
        """Members and newcomers are one group when this returns. All members know its size, and nothing else is on."""
        members, newcomers = list(members), list(newcomers)
        size = len(members) + len(newcomers)
        for newcomer in newcomers:
            newcomer.send("connect", f"gather {size}")
        for member in members:
            member.send(f"gather {size}")
        for newcomer in newcomers:
            line = newcomer.expect("connect")
            check(line.rc == SUCCESS, f"{newcomer.name} could not join: {line}")
        for worker in members + newcomers:
            line = worker.expect("gather")
            check(line.rc == SUCCESS and line.size == size, f"{worker.name} should see {size} members: {line}")

    def finish(self) -> None:
        """After a case that went well: everybody leaves, nobody has crashed or seen damage."""
        for process in self.processes:
            for line in process.lines:
                check(line.name != "DAMAGE", f"{process.name}: {line}")
        workers = [p for p in self.processes if isinstance(p, Worker) and not p.was_killed]
        for worker in workers:
            if worker.is_running():
                worker.popen.stdin.close()
        for worker in workers:
            status = worker.wait()
            check(status == 0, f"{worker.name} ended with status {status}")
        for process in self.processes:
            if isinstance(process, Master) and not process.was_killed:
                if process.is_running():
                    process.signal(signal.SIGTERM)
                check(process.wait() == 0, f"{process.name} ended with status {process.popen.returncode}")

    def describe(self) -> str:
        return "\n".join(process.describe() for process in self.processes if not process.was_killed)

    def close(self) -> None:
        for cleanup in reversed(self.cleanups):
            cleanup()
        for process in self.processes:
            if process.is_running():
                process.popen.kill()
        for process in self.processes:
            process.popen.wait()


# --- reductions of a whole group


def mask_of(workers: Iterable[Worker]) -> int:
    return sum(worker.bit for worker in workers)


def check_whole(worker: Worker, line: Line) -> None:
    """What must hold after every call, whatever came of it."""
    check(line.wrong_inputs == 0, f"{worker.name}: the input is damaged: {line}")
    check(line.wrong_results == 0, f"{worker.name}: the result is wrong: {line}")
    check("fences" not in line.values or line.fences == "whole", f"{worker.name}: wrote outside the buffer: {line}")


def start_reduce(workers: Iterable[Worker], count: int, kind: str = "u64", op: str = "sum", tag: int = 1,
                 where: str = "inplace", seed: int = 0, pattern: str = "sum", retries: int = 0) -> None:
    for worker in workers:
        worker.send(f"reduce {count} {kind} {op} {tag} {where} {seed} {pattern} {retries}")


def finish_reduce(workers: Iterable[Worker], contributors: Optional[int] = None) -> List[Line]:
    """All succeed, with the same bits. `contributors`: whose, as a mask, if the pattern tells."""
    workers = list(workers)
    lines = [worker.expect("reduce") for worker in workers]
    for worker, line in zip(workers, lines):
        check(line.rc == SUCCESS, f"{worker.name}: should succeed: {line}")
        check_whole(worker, line)
        check(line.hash == lines[0].hash, f"results differ: {line} and {lines[0]}")
        if contributors is not None:
            check(line.mask == contributors, f"{worker.name}: contributions of {line.mask:x}, not {contributors:x}")
            check(line.world == bin(contributors).count("1"), f"{worker.name}: wrong world size: {line}")
    return lines


def reduce(workers: Sequence[Worker], count: int, **options) -> List[Line]:
    start_reduce(workers, count, **options)
    is_sum = options.get("op", "sum") == "sum" and options.get("pattern", "sum") == "sum"
    return finish_reduce(workers, mask_of(workers) if is_sum else None)


def _sockets(worker: Worker, state: str) -> Iterator[List[str]]:
    """The rows of /proc/net/tcp and tcp6 that are this process' own."""
    own = set()
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            own.add(os.readlink(link))
        except OSError:
            continue
    for table in ("/proc/net/tcp6", "/proc/net/tcp"):
        for row in Path(table).read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == state and f"socket:[{columns[9]}]" in own:
                yield columns


def peer_port(worker: Worker) -> int:
    """Where it listens for other peers."""
    for columns in _sockets(worker, "0A"):
        return int(columns[1].rsplit(":", 1)[1], 16)
    raise AssertionError(f"{worker.name} listens nowhere")


def listening_descriptor(worker: Worker) -> int:
    """Of the socket at which other peers dial it."""
    listening = {f"socket:[{columns[9]}]" for columns in _sockets(worker, "0A")}
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            if os.readlink(link) in listening:
                return int(link.name)
        except OSError:
            continue
    raise AssertionError(f"{worker.name} listens nowhere")


def connected_to(worker: Worker) -> Set[str]:
    """The IPv4 addresses that it has connections to."""
    remotes = (columns[2].rsplit(":", 1)[0] for columns in _sockets(worker, "01"))
    return {socket.inet_ntoa(bytes.fromhex(remote)[::-1]) for remote in remotes if len(remote) == 8}


# --- what strangers say


def rubbish(case: Case) -> List[bytes]:
    """What strangers may say after a connection was made."""
    magic = b"\x7fpccl-sw"
    control, stripe = (magic + struct.pack("<HB5x", PROTOCOL_VERSION, role) for role in (1, 2))
    noise = case.random.randbytes
    return [
        b"",
        b"\x7f",
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        noise(3),
        noise(70000),
        magic + struct.pack("<HB5x", PROTOCOL_VERSION + 1, 1),
        magic + struct.pack("<HB5x", PROTOCOL_VERSION, 9),
        control[:9],
        control,
        stripe,
        control + b"\xff" * 8,
        control + b"\0" * 64,
        control + struct.pack("<I", 0x7FFFFFFF) + noise(100),
        control + struct.pack("<I", 1) + b"\0",
        control + struct.pack("<I", 100) + noise(100) + struct.pack("<I", 30) + noise(30),
        stripe + b"\xff" * 64,
        stripe + b"\0" * 64,
        stripe + noise(41),
        stripe + noise(70000),
    ]


# --- connections under the hands of their process


def with_descriptor(worker: Worker, descriptor: int, action: Callable[[ctypes.CDLL, int], None]) -> None:
    """Does something to a connection of another process, under its hands."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd_getfd = 438
    process = os.pidfd_open(worker.pid)
    try:
        copy = libc.syscall(pidfd_getfd, process, descriptor, 0)
        if copy < 0:
            raise Skip(f"the kernel gives no descriptor of another process: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(process)
    try:
        action(libc, copy)
    finally:
        os.close(copy)


def stall(libc: ctypes.CDLL, descriptor: int) -> None:
    """The kernel drops whatever arrives for it from now on: a filter of one instruction, "keep 0 bytes"."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    drop_all = struct.pack("HBBI", 6, 0, 0, 0)
    program = Program(1, drop_all)
    so_attach_filter = 26
    if libc.setsockopt(descriptor, socket.SOL_SOCKET, so_attach_filter, ctypes.byref(program),
                       ctypes.sizeof(program)) != 0:
        raise Skip(f"no filter can be attached to a connection: {os.strerror(ctypes.get_errno())}")


def unstall(libc: ctypes.CDLL, descriptor: int) -> None:
    """It hears again."""
    so_detach_filter, unused = 27, ctypes.c_int(0)
    libc.setsockopt(descriptor, socket.SOL_SOCKET, so_detach_filter, ctypes.byref(unused), ctypes.sizeof(unused))


# --- loops


def start_loop(workers: Iterable[Worker], mode: str, count: int = 5000, kind: str = "u64", where: str = "inplace",
               pause_microseconds: int = 500) -> None:
    for worker in workers:
        worker.send(f"loop {count} {kind} {where} {mode} {pause_microseconds}")


def progress(workers: Iterable[Worker], steps: int = 3) -> None:
    """Waits until each has done that many steps more."""
    for worker in workers:
        for _ in range(steps):
            while True:
                line = worker.expect("step", "loop")
                check(line.name == "step", f"{worker.name}: the loop ended: {line}")
                if line.rc == SUCCESS:
                    break


def settle(workers: Iterable[Worker], mask: int) -> None:
    """Waits until the steps of each have exactly these contributors."""
    for worker in workers:
        while True:
            line = worker.expect("step", "loop")
            check(line.name == "step", f"{worker.name}: the loop ended: {line}")
            if line.rc == SUCCESS and line.mask == mask:
                break


def stop_loop(workers: Sequence[Worker]) -> List[Line]:
    workers[0].send("stop")
    lines = [worker.expect("loop") for worker in workers]
    for worker, line in zip(workers, lines):
        check(line.rc == SUCCESS, f"{worker.name}: the loop ended badly: {line}")
        check(line.n == lines[0].n, f"stopped at different steps: {line} and {lines[0]}")
    return lines


def check_steps(workers: Iterable[Worker], may_lose: bool) -> int:
    """Every call of every step: the same verdict and the same bits at all who lived to see it. Returns the losses."""
    seen: Dict[tuple, tuple] = {}
    losses = set()
    for worker in workers:
        for line in worker.lines:
            if line.name != "step":
                continue
            if "size" not in line.values:
                continue  # Killed while writing it.
            check_whole(worker, line)
            key = (line.n, line.attempt)
            if line.rc == SUCCESS:
                check(line.mask & worker.bit, f"{worker.name}: its own contribution lacks: {line}")
                check(line.world == bin(line.mask).count("1"), f"{worker.name}: wrong world size: {line}")
            elif line.rc == RANK_CONNECTION_LOST:
                check(may_lose, f"{worker.name}: saw a loss where nobody was lost: {line}")
                losses.add(key)
            else:
                check(line.rc == TOO_FEW_PEERS, f"{worker.name}: unexpected result: {line}")
            verdict = (line.rc, line.mask, line.hash, line.world)
            first, other = seen.setdefault(key, (verdict, worker))
            check(first == verdict, f"{worker.name} and {other.name} disagree at step {key}: {verdict}, {first}")
    return len(losses)
