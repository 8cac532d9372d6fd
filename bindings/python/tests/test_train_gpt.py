"""The example that trains a GPT: two peers of it, with a text of our own; and its way to read R's files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, List

import pytest
from cluster import start_master

pytest.importorskip("torch", reason="torch is not installed")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_gpt  # noqa: E402 (it imports torch)


def test_novels_are_read_from_a_data_base_of_r(tmp_path: Path) -> None:
    def vector(lines: List[bytes]) -> bytes:
        header = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8"
        strings = b"".join(struct.pack(">II", 0x40009, len(line)) + line for line in lines)
        content = zlib.compress(header + struct.pack(">II", 16, len(lines)) + strings)
        return struct.pack(">I", len(content)) + content

    path = tmp_path / "Rdata.rdb"
    path.write_bytes(vector([b"It is a truth", b"", b"universally"]) + vector([b"acknowledged"]))
    assert train_gpt.read_novels(path) == b"It is a truth\n\nuniversally\nacknowledged"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "every-step"],
        ["--mode", "streaming", "--codec", "e3m0"],
    ],
    ids=lambda arguments: str(arguments[1]),
)
def test_two_peers_end_with_the_same_parameters(tmp_path: Path, arguments: List[str]) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"all work and no play makes a dull example. " * 500)
    master, address = start_master()
    command = [sys.executable, str(EXAMPLES / "train_gpt.py"), "peer", "--master", address, "--founders", "2"]
    command += [*arguments, "--text", str(text), "--steps", "30", "--sync-every", "10"]
    logs = [tmp_path / f"{seed}.jsonl" for seed in (1, 2)]
    peers = [
        subprocess.Popen([*command, "--seed", log.stem, "--log", str(log)], stdout=subprocess.DEVNULL) for log in logs
    ]
    try:
        assert [peer.wait() for peer in peers] == [0, 0]
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
        master.destroy()
    ends: List[Dict[str, Any]] = [json.loads(log.read_text().splitlines()[-1]) for log in logs]
    assert {end["event"] for end in ends} == {"end"}
    assert ends[0]["hash"] == ends[1]["hash"] and ends[0]["loss"] == ends[1]["loss"]
    first = json.loads(logs[0].read_text().splitlines()[0])
    assert ends[0]["loss"] < first["loss"] and ends[0]["sent"] > 0
