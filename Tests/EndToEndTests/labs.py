"""The WAN laboratory with real namespaces: packets go through, connections are stalled and reset, nothing is left behind.

These cases need root and TUN devices. Where these are missing they are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import List

from harness import Case, Failure, Process, Skip, check

HERE = Path(__file__).resolve().parent
NAMESPACES = Path("/run/netns")
LABS = Path("/run/pccl-lab")


def _tool(case: Case) -> str:
    return str(Path(case.tools.master).with_name("pccl"))


def _need_labs(case: Case) -> None:
    if os.geteuid() != 0:
        raise Skip("a lab needs root")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        raise Skip(f"a lab needs TUN devices: {error}") from None
    if not Path(_tool(case)).exists():
        raise Skip(f"there is no {_tool(case)}")


def _lab(case: Case, *arguments: str) -> Process:
    case.started += 1
    process = Process(case, f"lab-{case.started}", [_tool(case), "wanlab", *arguments], case.env)
    case.processes.append(process)
    return process


def _file(case: Case, description: dict) -> str:
    path = case.logs / "lab.json"
    path.write_text(json.dumps(description))
    return str(path)


def _remains(lab: int) -> List[str]:
    found = [str(path) for path in NAMESPACES.glob(f"pccl-lab-{lab}-*")]
    return found + [str(path) for path in LABS.glob(str(lab))]


def _succeeds(process: Process) -> None:
    check(process.wait() == 0, f"{process.name} ended with status {process.popen.returncode}")
    check(_remains(process.pid) == [], f"left behind: {_remains(process.pid)}")


def lab_measures_what_its_description_says(case: Case) -> None:
    _need_labs(case)
    # Losses so many that none at all, or twice as many, would be noticed.
    figures = {"path:*": {"delay_ms": 7, "loss_percent": 10}}
    described = _lab(case, "check", _file(case, {"nodes": 2, "links": figures}), "--probes", "400", "--seconds", "1")
    _succeeds(described)
    text = "".join(line.text for line in described.lines)
    check("round trip 14.0 ms" in text and "check: ok" in text, f"it says: {text}")


def lab_gives_each_node_its_place_and_counts_the_worst_status(case: Case) -> None:
    _need_labs(case)
    script = 'echo "$PCCL_LAB_NODE of $PCCL_LAB_NODES at $PCCL_LAB_ADDRESS, {node} of {nodes}"; exit {node}'
    lab = _lab(case, "lan", "--nodes", "3", "--", "sh", "-c", script)
    check(lab.wait() == 2, f"the worst status is 2, not {lab.popen.returncode}")
    check(_remains(lab.pid) == [], f"left behind: {_remains(lab.pid)}")
    said = sorted(line.text.strip() for line in lab.lines)
    check(said == [f"[{i}] {i} of 3 at 10.77.0.{i + 1}, {i} of 3" for i in range(3)], f"they say: {said}")


def lab_carries_two_peers(case: Case) -> None:
    """The example of the documentation, over 20 ms, with the master that the lab starts."""
    _need_labs(case)
    prefix = Path(case.tools.master).resolve().parent.parent
    peer = str(case.logs / "peer")
    compiled = subprocess.run(
        [os.environ.get("CC", "cc"), "-std=c99", str(HERE.parent.parent / "docs/examples/peer.c"), f"-I{prefix}/include",
         f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib", "-lpccl", "-o", peer], capture_output=True, text=True)
    check(compiled.returncode == 0, compiled.stderr)
    lab = _lab(case, "europe", "--", peer, "{master}", "10", "{node}")
    _succeeds(lab)
    for node in range(2):
        averages = [line for line in lab.lines if line.text.strip().startswith(f"[{node}]")]
        right = [line for line in averages if line.text.strip().endswith("2 peers, average 0.5")]
        check(len(right) == 10, f"node {node} has {len(right)} right averages of 10: {averages}")


def lab_stalls_and_resets_single_connections(case: Case) -> None:
    _need_labs(case)
    lab = _lab(case, "europe", "--until", "0", "--show", "0", "--", sys.executable, str(HERE / "lab_node.py"))
    _succeeds(lab)
    check([line.name for line in lab.lines] == ["stalled", "resumed", "reset", "done"], f"it says: {lab.lines}")


def lab_ends_with_all_its_programs_when_asked(case: Case) -> None:
    _need_labs(case)
    script = "trap '' TERM; echo up; sleep 1000"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        lab = _lab(case, "lan", "--", "sh", "-c", script)
        for _ in range(2):
            lab.expect("[0]", "[1]")
        lab.signal(number)
        check(lab.wait() == status, f"the status is {lab.popen.returncode}, not {status}")
        check(_remains(lab.pid) == [], f"left behind: {_remains(lab.pid)}")


def killed_lab_is_cleaned_up_after(case: Case) -> None:
    _need_labs(case)
    # A process that survives its parents: of another process group, and started by the one that dies with the lab.
    script = "setsid sleep 1000 & echo $!; wait"
    lab = _lab(case, "lan", "--", "sh", "-c", script)
    survivors = []
    for _ in range(2):
        survivors.append(int(lab.expect("[0]", "[1]").text.split()[1]))
    lab.kill()
    check(len(_remains(lab.pid)) == 3, f"two namespaces and a folder should remain: {_remains(lab.pid)}")

    cleaner = _lab(case, "clean")
    check(cleaner.wait() == 0, f"clean ended with status {cleaner.popen.returncode}")
    check(_remains(lab.pid) == [], f"left behind: {_remains(lab.pid)}")
    for pid in survivors:
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            check(case.seconds_left() > 0, f"process {pid} of the lab still runs")

    # Another lab's start does the same, and leaves a lab alone that runs.
    dead = _lab(case, "lan")
    _names(dead)
    running = _lab(case, "lan")
    _names(running)
    dead.kill()
    _succeeds(_lab(case, "lan", "--", "true"))
    check(_remains(dead.pid) == [], f"left behind: {_remains(dead.pid)}")
    check(len(_remains(running.pid)) == 3, f"a running lab has lost something: {_remains(running.pid)}")
    running.signal(signal.SIGTERM)
    _succeeds(running)


def _names(lab: Process) -> None:
    for node in range(2):
        lab.expect(f"pccl-lab-{lab.pid}-{node}")


def lab_without_root_says_what_it_needs(case: Case) -> None:
    if os.geteuid() != 0:
        command = [_tool(case)]
    elif shutil.which("setpriv"):
        command = ["setpriv", "--reuid=65534", "--clear-groups", _tool(case)]
        if subprocess.run(command + ["--help"], capture_output=True).returncode != 0:
            raise Skip("another user cannot run the tool where it lies")
    else:
        raise Skip("there is no setpriv to become somebody else")
    told = subprocess.run(command + ["wanlab", "lan", "--", "true"], capture_output=True, text=True)
    check(told.returncode != 0, "it should fail")
    if "needs root" not in told.stderr:
        raise Failure(f"it says: {told.stderr}")
