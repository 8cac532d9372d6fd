"""Lets the example peers of the bindings average with each other, as processes, with a real master.

    drive.py MASTER-PROGRAM NAME=EXAMPLE...       EXAMPLE is called with master, steps and value

For each: two of it average and share their weights; one of two is killed, and a newcomer takes over the other's
weights; wrong addresses and a master that is not there get an error that says so. Then one of each in one group.
Prints "ok NAME: CASE" or "FAILED NAME: CASE: why". Every wait ends at a deadline, which only turns a hang into a
failure.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Callable, Dict, Iterator, List

SECONDS_FOR_A_CASE = 30
STEPS = 20


class Failure(Exception):
    pass


def check(condition: object, text: str) -> None:
    if not condition:
        raise Failure(text)


class Process:
    """A child whose lines of both streams are collected. Ended with the block that it belongs to."""

    def __init__(self, command: List[str], deadline: float) -> None:
        self.deadline = deadline
        self.lines: List[str] = []
        self.errors: List[str] = []
        self.changed = threading.Condition()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.readers = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in ((self.child.stdout, self.lines), (self.child.stderr, self.errors))]
        for reader in self.readers:
            reader.start()

    def _collect(self, stream, into: List[str]) -> None:
        for line in stream:
            with self.changed:
                into.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, pattern: str, after: int = 0, of_errors: bool = False) -> "re.Match[str]":
        """The first line that has the pattern, from the line with number `after` on."""
        lines = self.errors if of_errors else self.lines
        with self.changed:
            while True:
                for line in lines[after:]:
                    match = re.search(pattern, line)
                    if match:
                        return match
                after = len(lines)
                is_at_end = not any(reader.is_alive() for reader in self.readers)
                check(not is_at_end, f"ended without a line like {pattern!r}:\n{self.tail()}")
                left = self.deadline - time.monotonic()
                check(left > 0, f"no line like {pattern!r} in time:\n{self.tail()}")
                # A reader's end is noticed at the latest with the next turn.
                self.changed.wait(min(left, 0.2))

    def status(self) -> int:
        try:
            status = self.child.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failure(f"did not end in time:\n{self.tail()}") from None
        for reader in self.readers:
            reader.join(max(0.0, self.deadline - time.monotonic()))
        return status

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def tail(self) -> str:
        return "\n".join("    | " + line for line in self.lines[-8:] + self.errors[-8:])


class Stage:
    """One case: a master, and the processes that were started in it."""

    def __init__(self, master_program: str) -> None:
        self.deadline = time.monotonic() + SECONDS_FOR_A_CASE
        self.processes: List[Process] = []
        master = self.start(master_program, "--listen", "127.0.0.1", "--port", "0", "--no-journal")
        self.master = master.wait_for(r"^pccl-master: listening on (\S+)", of_errors=True).group(1)

    def start(self, *command: str) -> Process:
        process = Process(list(command), self.deadline)
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()


def steps_of(process: Process) -> Dict[int, str]:
    """What a peer has said of each step, none of which it may say twice."""
    found: Dict[int, str] = {}
    for line in list(process.lines):
        match = re.match(r"step (\d+): (.*)", line)
        if match:
            check(int(match.group(1)) not in found, f"step {match.group(1)} twice:\n{process.tail()}")
            found[int(match.group(1))] = match.group(2)
    return found


def require_same_steps(one: Process, other: Process) -> None:
    mine, others = steps_of(one), steps_of(other)
    common = mine.keys() & others.keys()
    check(common, f"no step in common:\n{one.tail()}\n{other.tail()}")
    for step in sorted(common):
        check(mine[step] == others[step], f"step {step} is {mine[step]!r} at one, {others[step]!r} at the other")


def two_average(stage: Stage, example: str) -> None:
    peers = [stage.start(example, stage.master, str(STEPS), value) for value in ("1", "2")]
    for peer in peers:
        status = peer.status()
        check(status == 0, f"status {status}:\n{peer.tail()}")
        steps = steps_of(peer)
        check(len(steps) == STEPS, f"{len(steps)} steps instead of {STEPS}:\n{peer.tail()}")
        for said in steps.values():
            check(said.startswith("2 peers, average 1.5, weight "), f"a wrong step: {said}")
    require_same_steps(*peers)
    received = sum("received the weights of step 0" in peer.lines for peer in peers)
    check(received == 1, f"{received} of the two have received the other's weights, not one")


def one_is_killed(stage: Stage, example: str) -> None:
    survivor = stage.start(example, stage.master, "0", "1")
    victim = stage.start(example, stage.master, "0", "2")
    victim.wait_for(r"^step \d+: 2 peers, average 1\.5,")
    survivor.wait_for(r"^step \d+: 2 peers, average 1\.5,")
    victim.kill()
    seen = len(survivor.lines)
    # Less than the others' weights can be, so that it has something to receive.
    newcomer = stage.start(example, stage.master, str(STEPS), "0.25")
    survivor.wait_for(r"^step \d+: 2 peers, average 0\.625,", after=seen)
    status = newcomer.status()
    check(status == 0, f"the newcomer ended with status {status}:\n{newcomer.tail()}")
    newcomer.wait_for(r"^received the weights of step [1-9]")
    last = max(steps_of(newcomer))
    survivor.wait_for(rf"^step {last}: ")
    require_same_steps(survivor, victim)
    require_same_steps(survivor, newcomer)


def nobody_is_there(stage: Stage, example: str) -> None:
    # A port that is ours, so that nobody else can listen on it meanwhile.
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        peer = stage.start(example, address, "1", "1")
        check(peer.status() == 1, f"status {peer.status()} without a master:\n{peer.tail()}")
        peer.wait_for(rf"^average: .*{re.escape(address)}.*master cannot be reached", of_errors=True)
    peer = stage.start(example, "nonsense", "1", "1")
    check(peer.status() == 1, f"status {peer.status()} with a wrong address:\n{peer.tail()}")
    peer.wait_for(r"^average: .*nonsense.*expected host:port", of_errors=True)


def all_together(stage: Stage, examples: Dict[str, str]) -> None:
    # Whoever leaves has done its steps; the others must not end before they have seen all.
    peers = [stage.start(example, stage.master, "0", str(value)) for value, example in enumerate(examples.values())]
    average = sum(range(len(peers))) / len(peers)
    everybody = rf"^step (\d+): {len(peers)} peers, average {re.escape(f'{average:g}')}, "
    last = max(int(peer.wait_for(everybody).group(1)) for peer in peers)
    for peer in peers:
        peer.wait_for(rf"^step {last}: {len(peers)} peers")
    for peer in peers:
        peer.kill()
    for peer in peers[1:]:
        require_same_steps(peers[0], peer)


@contextlib.contextmanager
def stage_of(master_program: str) -> Iterator[Stage]:
    stage = Stage(master_program)
    try:
        yield stage
    finally:
        stage.end()


def main(arguments: List[str]) -> int:
    if len(arguments) < 2 or any("=" not in argument for argument in arguments[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    master_program = arguments[0]
    examples = dict(argument.split("=", 1) for argument in arguments[1:])
    failed = 0

    def run(name: str, case: Callable[[Stage], None]) -> None:
        nonlocal failed
        try:
            with stage_of(master_program) as stage:
                case(stage)
            print(f"ok {name}", flush=True)
        except Failure as failure:
            print(f"FAILED {name}: {failure}", flush=True)
            failed += 1

    for name, example in examples.items():
        for case in (two_average, one_is_killed, nobody_is_there):
            run(f"{name}: {case.__name__.replace('_', ' ')}", lambda stage: case(stage, example))
    if len(examples) > 1:
        run(" and ".join(examples), lambda stage: all_together(stage, examples))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
