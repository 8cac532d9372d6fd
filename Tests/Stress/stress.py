#!/usr/bin/env python3
"""Peers that train and are killed, through the Python package, in the manner of the stress tests of PCCL 1.0.

    Tests/Stress/stress.py [--seconds 1800] [--peers 4] [--seed N] [--prefix dist]

A master, and peers that come and go: every few seconds one is killed with SIGKILL, leaves, or is added. Each peer goes
through the same steps again and again: it admits newcomers, synchronises the shared state, launches several
reductions in place under their own tags, some of them as 8-bit codes, awaits them, repeats what a loss interrupted,
changes the state by what came out, and counts the revision up. After each step the members compare what they hold.

Any exception that the documentation does not allow there, a difference between members, or two minutes in which no peer
finishes a step, ends the run with status 1.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List

TENSORS = 6
COUNT = 60_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--prefix", default=str(Path(__file__).resolve().parents[2] / "dist"))
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--name", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer, options.name)
    return Director(options).run()


# ---------------------------------------------------------------------------------------------------------------------
# One peer


def peer(address: str, name: int) -> int:
    import numpy

    import pccl

    source = numpy.random.default_rng(name)
    weights = {f"layer {i}": source.standard_normal(COUNT).astype(numpy.float32) for i in range(TENSORS)}
    state = pccl.SharedState.from_mapping(weights)
    state.tensors.append(pccl.TensorInfo("own", numpy.array([name]), allow_content_inequality=True))
    codes = pccl.QuantizationOptions(pccl.DataType.UINT8, pccl.QuantizationAlgorithm.MIN_MAX)

    leaving: List[int] = []
    signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))

    def say(*words: Any) -> None:
        print(*words, flush=True)

    def checksum() -> int:
        return zlib.crc32(b"".join(weights[key].tobytes() for key in sorted(weights)))

    def same(communicator: pccl.Communicator, value: int) -> bool:
        """Whether all members have it. A member that is lost meanwhile asks again."""
        while True:
            try:
                pair = numpy.array([value, -value], dtype=numpy.int64)
                communicator.all_reduce(pair, op=pccl.ReduceOp.MAX, tag=1000)
                return bool(pair[0] == value and pair[1] == -value)
            except pccl.RankConnectionLostError:
                continue

    def reduce(communicator: pccl.Communicator) -> bool:
        """All layers, several at once. False when this peer is left alone."""
        gradients = {key: (source.standard_normal(COUNT) * 0.01).astype(numpy.float32) for key in weights}
        left = list(weights)
        source.shuffle(left)
        while left:
            flying = []
            for key in left:
                index = int(key.split()[1])
                quantization = codes if index % 2 else None
                try:
                    handle = communicator.all_reduce_async(
                        gradients[key], op=pccl.ReduceOp.AVG, tag=index, quantization=quantization
                    )
                except pccl.TooFewPeersError:
                    break
                flying.append((key, handle))
            alone = len(flying) < len(left)
            left = []
            for key, handle in flying:
                try:
                    info = handle.wait()
                    assert info.world_size >= 2 and numpy.isfinite(gradients[key]).all()
                except (pccl.RankConnectionLostError, pccl.TooFewPeersError):
                    left.append(key)
            if alone and (not left or communicator.world_size < 2):
                return False
        for key, gradient in gradients.items():
            weights[key] -= gradient
        return True

    steps = 0
    with pccl.Communicator(address) as communicator:
        communicator.connect(attempts=60, interval=0.5)
        has_just_joined = True
        while not leaving:
            if not has_just_joined and communicator.are_peers_pending():
                communicator.update_topology()
            has_just_joined = False
            if communicator.world_size < 2:
                time.sleep(0.02)
                continue
            before = checksum()
            try:
                info = communicator.sync_shared_state(state)
            except pccl.NoSharedStateAvailableError:
                # All are gone that had it, and this peer's own may be half of something.
                say("nothing", state.revision)
                state.revision = 0
                for key in weights:
                    weights[key][:] = 0
                continue
            after = checksum()
            assert info.rx_bytes > 0 or before == after, "the state changed, and nothing was received"
            assert int(state.tensors[-1].data[0]) == name, "what is this peer's own was written"
            try:
                if not same(communicator, after):
                    say("DIFFERENT", state.revision)
                    return 1
                if reduce(communicator):
                    steps += 1
                    say("step", state.revision, communicator.world_size, info.rx_bytes)
            except pccl.TooFewPeersError:
                pass
            state.revision += 1
        say("left", steps)
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# The director


class Director:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.folder = tempfile.mkdtemp(prefix="pccl-stress-")
        self.peers: List[Dict[str, Any]] = []
        self.names = 0
        self.counts = {"killed": 0, "left": 0, "added": 0, "steps": 0, "nothing": 0, "received": 0}
        self.failures: List[str] = []

    def run(self) -> int:
        prefix = Path(self.options.prefix)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        print(f"stress: seed {self.seed}, {self.options.seconds:.0f} s, logs in {self.folder}", flush=True)
        master = subprocess.Popen([str(prefix / "bin" / "pccl-master"), "--listen", "127.0.0.1", "--port", str(port)])
        try:
            for _ in range(self.options.peers):
                self.add()
            self.direct()
        finally:
            for one in self.peers:
                one["process"].kill()
            master.kill()
            master.wait()
        counts = ", ".join(f"{value} {key}" for key, value in self.counts.items())
        print(f"stress: {'FAILED' if self.failures else 'ok'}: {counts}", flush=True)
        for failure in self.failures:
            print(f"stress: {failure}", flush=True)
        return 1 if self.failures else 0

    def direct(self) -> None:
        end = time.monotonic() + self.options.seconds
        last_step = time.monotonic()
        next_event = time.monotonic() + 2
        while time.monotonic() < end and not self.failures:
            time.sleep(0.05)
            if self.collect():
                last_step = time.monotonic()
            if time.monotonic() - last_step > 120:
                self.failures.append("no peer has finished a step for two minutes")
            if time.monotonic() >= next_event:
                next_event = time.monotonic() + self.random.uniform(0.3, 4)
                self.happen()

    def happen(self) -> None:
        kind = self.random.random()
        if len(self.peers) > self.options.peers + 1 or (kind < 0.6 and len(self.peers) > 2):
            one = self.random.choice(self.peers)
            leaves = self.random.random() < 0.3
            self.counts["left" if leaves else "killed"] += 1
            one["ends"] = True
            one["process"].send_signal(signal.SIGTERM if leaves else signal.SIGKILL)
        else:
            self.counts["added"] += 1
            self.add()

    def add(self) -> None:
        self.names += 1
        log = Path(self.folder) / f"peer-{self.names}.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, __file__, "--peer", self.address, "--name", str(self.names)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, PYTHONFAULTHANDLER="1"),
            )
        self.peers.append({"process": process, "log": open(log, "rb"), "rest": "", "path": log, "name": self.names, "ends": False})

    def collect(self) -> bool:
        """Reads what peers said. True if one of them has finished a step."""
        moved = False
        for one in list(self.peers):
            *lines, one["rest"] = (one["rest"] + one["log"].read().decode(errors="replace")).split("\n")
            for line in lines:
                words = line.split()
                if words[:1] == ["step"]:
                    moved = True
                    self.counts["steps"] += 1
                    self.counts["received"] += int(words[3])
                elif words[:1] == ["nothing"]:
                    moved = True
                    self.counts["nothing"] += 1
                elif words[:1] == ["DIFFERENT"]:
                    self.failures.append(f"members hold different states: peer {one['name']}, {line}")
            status = one["process"].poll()
            if status is None:
                continue
            one["log"].close()
            self.peers.remove(one)
            if status not in (0, -signal.SIGKILL, -signal.SIGTERM) or not one["ends"]:
                tail = one["path"].read_text(errors="replace").splitlines()[-12:]
                self.failures.append(f"peer {one['name']} ended with {status}: " + " | ".join(tail))
        return moved


if __name__ == "__main__":
    sys.exit(main())
