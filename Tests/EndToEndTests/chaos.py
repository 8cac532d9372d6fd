"""`pccl chaos`: it ends well where the library keeps its promises, tells what it was not told, and leaves nobody behind.

As root the peers are in namespaces, and links have faults, too.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import List

from harness import Case, Process, check


def _start(case: Case, *arguments: str) -> Process:
    case.started += 1
    tool = str(Path(case.tools.master).with_name("pccl"))
    process = Process(case, f"chaos-{case.started}", [tool, "chaos", *arguments], case.env)
    case.processes.append(process)
    return process


def _children(process: Process) -> List[int]:
    """Those with a peer's arguments; the master is another child."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(process.pid) and b"chaos-peer" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _expect(process: Process, text: str) -> str:
    """The first line with that text."""
    with process.changed:
        while True:
            for line in process.lines:
                if text in line.text:
                    return line.text
            check(not process.is_at_end, f"{process.name} ended without: {text}")
            check(process.changed.wait(process.case.seconds_left()), f"{process.name} did not come to: {text}")


def _figures(process: Process, word: str) -> dict:
    """Of its last line."""
    line = _expect(process, f"chaos: {word} faults=")
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


def chaos_finds_no_broken_promise(case: Case) -> None:
    # Stalls are measured and not judged: the machine that tests has other work.
    run = _start(case, "--faults", "20", "--seed", "5", "--tolerant")
    figures = _figures(run, "ok")
    check(run.wait() == 0, f"status {run.popen.returncode}")
    check(figures["faults"] >= 20 and figures["seed"] == 5, f"not what was asked for: {figures}")
    kinds = ["kill", "stop", "leave", "join", "master"] + (["cut", "oneway", "delay"] if os.geteuid() == 0 else [])
    check(sum(figures.get(kind, 0) for kind in kinds) == figures["faults"], f"kinds do not add up: {figures}")
    # Each operation was reduced by two at least. Whether a fault hits one is luck in so short a run; a long one that
    # has hit none fails by itself.
    check(figures["compared"] >= figures["operations"] > figures["faults"], f"nothing was compared: {figures}")


chaos_finds_no_broken_promise.limit_seconds = 120


def chaos_tells_of_a_death_that_it_did_not_cause(case: Case) -> None:
    run = _start(case, "--time", "50", "--seed", "6", "--kinds", "delay,stop", "--verbose")
    _expect(run, "peers reduce")
    victims = _children(run)
    check(len(victims) == 4, f"four peers, not {victims}")
    os.kill(case.random.choice(victims), signal.SIGKILL)
    _expect(run, "chaos: FAILED crash: peer ")
    check(_figures(run, "FAILED")["unexpected"] == 1, "it does not count it")
    check(run.wait() == 1, f"status {run.popen.returncode}")
    check(not any(Path(f"/proc/{pid}").exists() for pid in victims), f"left behind: {victims}")


def chaos_that_is_interrupted_leaves_nobody_behind(case: Case) -> None:
    run = _start(case, "--time", "50", "--loopback", "--kinds", "stop,join", "--verbose")
    _expect(run, "peers reduce")
    children = _children(run)
    run.signal(signal.SIGTERM)
    check(run.wait() != 0, "an interrupted run is no success")
    check(not any(Path(f"/proc/{pid}").exists() for pid in children), f"left behind: {children}")
