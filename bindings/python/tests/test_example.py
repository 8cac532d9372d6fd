"""The example, as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import List

from cluster import free_port

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "average.py"


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, str(EXAMPLE), *arguments], stdout=subprocess.PIPE, text=True)


def test_two_peers_print_the_same_averages() -> None:
    address = f"127.0.0.1:{free_port()}"
    started: List["subprocess.Popen[str]"] = []
    try:
        master = start("--master", address)
        started.append(master)
        assert master.stdout is not None and "listens" in master.stdout.readline()
        peers = [start(address, "--turns", "3", "--interval", "0.01") for _ in range(2)]
        started += peers
        averages = []
        for peer in peers:
            output, _ = peer.communicate()
            assert peer.returncode == 0
            averages.append([line for line in output.splitlines() if line.startswith("average of 2 peers")])
        assert len(averages[0]) == 3 and averages[0] == averages[1]
        master.send_signal(signal.SIGTERM)
        assert master.wait() == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
