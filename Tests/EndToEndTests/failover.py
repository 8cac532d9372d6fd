"""Several masters and one etcd: leaders are killed, stopped and cut off, and etcd with them, while peers work.

Each master, etcd and the peers have a network namespace of their own, which needs root and `ip`. Without them all is on
loopback, and nobody is cut off. `PCCL_TEST_FAULTS=50` makes many faults of the few, `PCCL_TIMEOUT=5` the dead time usual.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from harness import (SUCCESS, Case, Master, Process, Skip, Worker, check, check_steps, mask_of, progress, start_loop,
                     stop_loop)

MASTERS = 3
ETCD_PORT = 2379
MASTER_PORT = 48148
FAULTS = int(os.environ.get("PCCL_TEST_FAULTS", "0"))
PREFIX = "/pccl/failover"


# --- a network of their own


class _Network:
    """Everybody has two interfaces: one towards the peers and one towards etcd, so that either way can be cut. Packets that
    are cut vanish: nobody is told."""

    def __init__(self, case: Case) -> None:
        self.name = f"pccl-fo-{os.getpid()}"
        self.nodes = [f"m{i}" for i in range(MASTERS)] + ["etcd", "peers"]
        case.cleanups.append(self._remove)
        names = ["hub", *self.nodes]
        self._ip([f"netns add {self.name}-{name}" for name in names])
        commands = ["link add peers type bridge", "link add etcd type bridge"]
        for node in self.nodes:
            for way in ("peers", "etcd"):
                commands += [f"link add {node}-{way} type veth peer name {way} netns {self.name}-{node}",
                             f"link set {node}-{way} master {way} up"]
        self._ip(commands + ["link set peers up", "link set etcd up"], "hub")
        for node in self.nodes:
            self._ip(["link set lo up"] + [
                command for way in ("peers", "etcd")
                for command in (f"addr add {self.address(node, way)}/24 dev {way}", f"link set {way} up")], node)

    def _ip(self, commands: List[str], node: str = "") -> None:
        place = ["-n", f"{self.name}-{node}"] if node else []
        done = subprocess.run(["ip", *place, "-batch", "-"], input="\n".join(commands), capture_output=True, text=True)
        check(done.returncode == 0, f"ip: {done.stderr}")

    def _remove(self) -> None:
        for name in ["hub", *self.nodes]:
            subprocess.run(["ip", "netns", "del", f"{self.name}-{name}"], capture_output=True)

    def address(self, node: str, way: str = "peers") -> str:
        return f"10.{98 if way == 'peers' else 99}.0.{self.nodes.index(node) + 1}"

    def prefix(self, node: str) -> List[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}-{node}"]

    def set(self, node: str, ways: Tuple[str, ...], state: str) -> None:
        self._ip([f"link set {node}-{way} {state}" for way in ways], "hub")

    def connect(self, node: str, address: str, port: int) -> socket.socket:
        """A namespace is its thread's, a connection keeps that in which it was made."""
        made: List[object] = []

        def enter() -> None:
            with open(f"/run/netns/{self.name}-{node}") as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0x40000000) == 0:
                    made.append(socket.create_connection((address, port), timeout=30))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        check(made, f"no connection to {address}:{port}")
        return made[0]


class _Loopback:
    nodes: List[str] = []

    def address(self, _node: str, _way: str = "peers") -> str:
        return "127.0.0.1"

    def prefix(self, _node: str) -> List[str]:
        return []

    def connect(self, _node: str, address: str, port: int) -> socket.socket:
        return socket.create_connection((address, port), timeout=30)


def _network(case: Case):
    if os.geteuid() == 0 and shutil.which("ip") and shutil.which("nsenter"):
        return _Network(case)
    return _Loopback()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- what runs in it


class _Etcd:
    def __init__(self, case: Case, network, lease_seconds: int) -> None:
        self.case = case
        self.network = network
        self.port = ETCD_PORT if network.nodes else _free_port()
        peer_port = ETCD_PORT + 1 if network.nodes else _free_port()
        here = f"http://{network.address('etcd', 'etcd')}:{self.port}"
        beside = f"http://127.0.0.1:{peer_port}"
        # The shortest lease that etcd gives is one and a half of its time for an election.
        election = 100 if lease_seconds == 1 else 1000
        self.command = [
            *network.prefix("etcd"), "etcd", "--data-dir", str(case.logs / "etcd-data"), "--listen-client-urls", here,
            "--advertise-client-urls", here, "--listen-peer-urls", beside, "--initial-advertise-peer-urls", beside,
            "--initial-cluster", f"default={beside}", "--heartbeat-interval", str(election // 5), "--election-timeout",
            str(election)]
        self.start()

    def start(self) -> None:
        self.case.started += 1
        self.process = Process(self.case, f"etcd-{self.case.started}", self.command, {})
        self.case.processes.append(self.process)
        self.process.wait_for_log("ready to serve client requests")

    def kill(self) -> None:
        self.process.kill()

    def ask(self, path: str, question: dict) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("etcd", timeout=30)
        connection.sock = self.network.connect("etcd", self.network.address("etcd", "etcd"), self.port)
        connection.request("POST", path, json.dumps(question))
        return connection.getresponse()

    def history(self) -> List[Tuple[int, str, str, bytes]]:
        """All that ever happened below the prefix: (revision, PUT or DELETE, key, value), in order."""
        keys = {"key": _text(PREFIX + "/"), "range_end": _text(PREFIX + "0")}
        now = int(json.load(self.ask("/v3/kv/range", keys))["header"]["revision"])
        watch = {"create_request": {**keys, "start_revision": "1", "progress_notify": True}}
        stream, events, seen = self.ask("/v3/watch", watch), [], 0
        last = max(int(kv["mod_revision"]) for kv in json.load(self.ask("/v3/kv/range", keys))["kvs"])
        while seen < last:
            for event in json.loads(stream.readline())["result"].get("events", []):
                kv = event["kv"]
                seen = int(kv["mod_revision"])
                events.append((seen, event.get("type", "PUT"), base64.b64decode(kv["key"]).decode(),
                               base64.b64decode(kv.get("value", ""))))
        check(seen <= now, "somebody writes still")
        return events


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


class _Masters:
    """Processes come and go; each has its place, where the next one is started."""

    def __init__(self, case: Case, network, etcd: _Etcd) -> None:
        self.case = case
        self.network = network
        self.store = f"etcd://{network.address('etcd', 'etcd')}:{etcd.port}{PREFIX}"
        self.all: List[Master] = []
        self.at: List[Optional[Master]] = [None] * MASTERS
        self.ports = [MASTER_PORT if network.nodes else 0] * MASTERS
        for place in range(MASTERS):
            self.start(place)

    def start(self, place: int) -> None:
        master = Master(
            self.case, self.network.address(f"m{place}"), self.ports[place], ["--store", self.store],
            {"PCCL_LOG_LEVEL": "TRACE"}, self.network.prefix(f"m{place}"))
        self.case.processes.append(master)
        self.all.append(master)
        self.at[place] = master
        self.ports[place] = master.port

    def addresses(self) -> List[str]:
        return [f"{self.network.address(f'm{place}')}:{self.ports[place]}" for place in range(MASTERS)]

    def terms(self) -> List[Tuple[int, int]]:
        """(term, the process that says that it leads in it), in order."""
        found = []
        for index, master in enumerate(self.all):
            found += [(int(term), index) for term in re.findall(r"this master leads, in term (\d+)", master.log_text())]
        return sorted(found)

    def wait_for_term(self, after: int) -> Tuple[int, int]:
        """The first term after that one, and the place of its leader."""
        while True:
            terms = self.terms()
            if terms and terms[-1][0] > after:
                return terms[-1][0], self.at.index(self.all[terms[-1][1]])
            check(self.case.seconds_left() > 0, f"nobody leads after term {after}: {terms}")
            time.sleep(0.01)


# --- what goes wrong


def _killed(masters: _Masters, leader: int, passed: Callable[[], None]) -> None:
    masters.at[leader].kill()
    passed()
    masters.start(leader)


def _ended(masters: _Masters, leader: int, passed: Callable[[], None]) -> None:
    masters.at[leader].signal(signal.SIGTERM)
    check(masters.at[leader].wait() == 0, "a leader that is ended ends with 0")
    passed()
    masters.start(leader)


def _stopped(masters: _Masters, leader: int, passed: Callable[[], None]) -> None:
    masters.at[leader].signal(signal.SIGSTOP)
    passed()
    masters.at[leader].signal(signal.SIGCONT)


def _cut_off(*ways: str) -> Callable:
    def fault(masters: _Masters, leader: int, passed: Callable[[], None]) -> None:
        masters.network.set(f"m{leader}", ways, "down")
        passed()
        masters.network.set(f"m{leader}", ways, "up")

    return fault


def _etcd_killed(masters: _Masters, _leader: int, passed: Callable[[], None], etcd: _Etcd) -> None:
    """For longer than a lease: nobody leads, and nobody may."""
    leader = masters.at[_leader]
    said = leader.log_text().count("leads no longer")
    etcd.kill()
    while leader.log_text().count("leads no longer") == said:
        check(masters.case.seconds_left() > 0, "it leads on without etcd")
        time.sleep(0.01)
    etcd.start()
    passed()


FAULT_KINDS: Dict[str, Callable] = {
    "killed": _killed,
    "stopped": _stopped,
    "cut off from etcd": _cut_off("etcd"),
    "cut off from peers": _cut_off("peers"),
    "cut off": _cut_off("etcd", "peers"),
    "etcd killed": _etcd_killed,
    "ended": _ended,
}


# --- what must hold


def _check_history(etcd: _Etcd, terms: List[Tuple[int, int]]) -> int:
    """Every state was written by who led at that moment, as etcd saw it, and each wrote one after the other. Returns how
    many there were."""
    led: List[int] = []
    current: Optional[int] = None
    number, writes = 0, 0
    for revision, kind, key, value in etcd.history():
        if key == PREFIX + "/leader":
            check(kind == "DELETE" or current is None, f"a leader at {revision} while term {current} lasts")
            current, number = (None, 0) if kind == "DELETE" else (revision, 0)
            led += [current] if current else []
        elif key == PREFIX + "/state":
            check(kind == "PUT", f"the state is gone at {revision}")
            term, place = int.from_bytes(value[8:16], "little"), int.from_bytes(value[16:24], "little")
            check(term == current, f"term {term} wrote at {revision}, when {current} led")
            check(place == number + 1, f"term {term} wrote {place} after {number}")
            number, writes = place, writes + 1
    said = [term for term, _ in terms]
    check(len(set(said)) == len(said), f"two led in one term: {terms}")
    check(set(said) <= set(led), f"terms that etcd knows nothing of: {sorted(set(said) - set(led))}")
    return writes


def _check_acts(masters: _Masters) -> int:
    """Whatever a master did, nobody had done anything in a later term: all are on one clock. Returns how often they told."""
    acts = []
    for index, master in enumerate(masters.all):
        acts += [(int(at), int(term), index)
                 for term, at in re.findall(r"acts in term (\d+), at (\d+) ns", master.log_text())]
    acts.sort()
    latest, actors = 0, {}
    for at, term, index in acts:
        check(term >= latest, f"{masters.all[index].name} acts in term {term} at {at} ns, after an act in term {latest}")
        check(actors.setdefault(term, index) == index, f"two acted in term {term}")
        latest = term
    return len(acts)


def _longest_pause(workers: List[Worker]) -> float:
    longest = 0.0
    for worker in workers:
        steps = [line.read_at for line in worker.lines if line.name == "step"]
        longest = max([longest] + [after - before for before, after in zip(steps, steps[1:])])
    return longest


def failover(case: Case) -> None:
    """No call fails and no member is lost, whatever becomes of the leader or of etcd; collectives go on meanwhile."""
    if not shutil.which("etcd"):
        check("CI" not in os.environ, "there is no etcd; scripts/bootstrap --etcd gets it")
        raise Skip("there is no etcd; scripts/bootstrap --etcd gets it")
    dead_time = os.environ.get("PCCL_TIMEOUT", "1")
    case.env["PCCL_TIMEOUT"] = dead_time
    case.env["PCCL_LOG_LEVEL"] = "INFO"
    network = _network(case)
    etcd = _Etcd(case, network, int(float(dead_time)))
    masters = _Masters(case, network, etcd)
    case.env["PCCL_MASTERS"] = ",".join(masters.addresses())
    term, leader = masters.wait_for_term(0)

    def worker(number: int, group: int) -> Worker:
        # The first it is told of leads or does not.
        return case.worker(number, group, port=masters.ports[number % MASTERS], prefix=network.prefix("peers"),
                           host=network.address(f"m{number % MASTERS}"))

    plain = case.gathered([worker(number, 0) for number in range(2)])
    asking = case.gathered([worker(number, 1) for number in range(2, 5)])
    start_loop(plain, "none", pause_microseconds=5000)
    start_loop(asking, "pending", pause_microseconds=5000)
    progress(plain + asking)

    kinds = [kind for kind in FAULT_KINDS if network.nodes or not kind.startswith("cut")]
    made: Dict[str, int] = {kind: 0 for kind in kinds}
    takeovers: List[float] = []
    for number in range(FAULTS or len(kinds)):
        kind = kinds[number % len(kinds)] if number < len(kinds) else case.random.choice(kinds)
        made[kind] += 1
        began = time.monotonic()

        def passed() -> None:
            nonlocal term, leader
            # Whether anybody leads or not.
            for one in plain:
                one.next = len(one.lines)
            progress(plain, steps=20)
            term, leader = masters.wait_for_term(term)
            takeovers.append(time.monotonic() - began)
            # Calls that need a master come back: they were answered by this one.
            for one in asking:
                one.next = len(one.lines)
            progress(asking, steps=10)

        if FAULTS:
            print(f"   {number + 1}: {kind}", flush=True)
        # A group of its own: what its coming and going changes has to be kept, whatever happens meanwhile.
        guest = worker(6 + number, 2)
        guest.send("connect")
        guest.expect("connecting")
        extra = [etcd] if kind == "etcd killed" else []
        FAULT_KINDS[kind](masters, leader, passed, *extra)
        line = guest.expect("connect")
        check(line.rc == SUCCESS, f"a guest: {line}")
        guest.send("destroy")
        check(guest.expect("destroy").rc == SUCCESS, "a destroy always succeeds")

    newcomer = worker(5, 1)
    newcomer.send("connect")
    check(newcomer.expect("connect").rc == SUCCESS, "a newcomer")
    start_loop([newcomer], "pending", pause_microseconds=5000)
    asking.append(newcomer)
    for one in asking:
        one.next = len(one.lines)
    progress(asking)
    stop_loop(plain)
    stop_loop(asking)
    for group in (plain, asking):
        check(check_steps(group, may_lose=False) == 0, "an operation failed")
    for group, smallest in ((plain, mask_of(plain)), (asking, mask_of(asking[:3]))):
        for line in (line for one in group for line in one.lines if line.name == "step" and line.rc == SUCCESS):
            check(line.mask & smallest == smallest, f"a member was lost: {line}")
    terms = masters.terms()
    acts = _check_acts(masters)
    for one in plain + asking:
        one.send("destroy")
        check(one.expect("destroy").rc == SUCCESS, "a destroy always succeeds")
    for place in range(MASTERS):
        masters.at[place].signal(signal.SIGTERM)
        check(masters.at[place].wait() == 0, f"{masters.at[place].name} ends with 0")
    writes = _check_history(etcd, masters.terms())
    check(acts > len(terms) and writes > len(made), f"{acts} acts and {writes} states: what was checked?")
    steps = sum(line.name == "step" for one in plain + asking for line in one.lines)
    print(f"   {sum(made.values())} faults: {', '.join(f'{kind} {count}' for kind, count in made.items())}; "
          f"{len(terms)} terms, {writes} states kept, {acts} acts told, {steps} steps; taken over after "
          f"{sorted(takeovers)[len(takeovers) // 2]:.1f} s in the middle, {max(takeovers):.1f} s at most; collectives "
          f"paused for {_longest_pause(plain):.2f} s at most", flush=True)


failover.limit_seconds = 60 + 20 * FAULTS
