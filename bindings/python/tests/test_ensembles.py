"""Nodes whose processes are members all together or not at all."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest
from cluster import in_threads, start_master

import pccl

WORKER = Path(__file__).with_name("ensemble_worker.py")


class Rank:
    """A process of a node, and what it has said."""

    def __init__(self, address: str, rank: int, ensemble: int, path: Path, program: List[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), address, str(rank), str(ensemble), str(path), *program],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: "queue.Queue[str]" = queue.Queue()
        self.worlds: List[int] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put("")

    def wait_for_world(self, size: int) -> None:
        """Until the last step was made by so many."""
        while not self.worlds or self.worlds[-1] != size:
            line = self.lines.get(timeout=60)
            assert line.startswith("step"), line
            self.worlds.append(int(line.split()[-1]))

    def last_line(self) -> str:
        line = ""
        for said in iter(lambda: self.lines.get(timeout=60), ""):
            line = said
        return line


@pytest.fixture(params=[[], ["diloco"]], ids=["collectives", "diloco"])
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Dict[str, Tuple[Rank, Rank]]]:
    """Nodes by name, started where they are first asked for."""
    master, address = start_master()

    class Nodes(Dict[str, Tuple[Rank, Rank]]):
        def __missing__(self, name: str) -> Tuple[Rank, Rank]:
            path = tmp_path / name
            self[name] = tuple(Rank(address, rank, ord(name[0]), path, request.param) for rank in range(2))
            return self[name]

    started = Nodes()
    yield started
    for ranks in started.values():
        for rank in ranks:
            rank.end()
    master.destroy()


def test_a_node_comes_and_goes_as_one(nodes: Dict[str, Tuple[Rank, Rank]]) -> None:
    """Both groups admit it between the same two steps, else its processes would wait for each other for ever."""
    in_threads([lambda rank=rank: rank.wait_for_world(1) for rank in nodes["A"]])
    in_threads([lambda rank=rank: rank.wait_for_world(2) for rank in nodes["A"] + nodes["B"]])
    in_threads([lambda rank=rank: rank.wait_for_world(3) for rank in nodes["A"] + nodes["B"] + nodes["C"]])
    for name in "AB":
        first, second = (rank.worlds for rank in nodes[name])
        assert [first.index(size) for size in set(first)] == [second.index(size) for size in set(first)]
    # One process of a node is killed: the other is told, and no group counts on it.
    nodes["B"][1].process.kill()
    in_threads([lambda rank=rank: rank.wait_for_world(2) for rank in nodes["A"] + nodes["C"]])
    assert nodes["B"][0].last_line().startswith("ended")
    # A node that is started again is another node.
    in_threads([lambda rank=rank: rank.wait_for_world(3) for rank in nodes["A"] + nodes["C"] + nodes["D"]])


def test_who_does_not_go_with_the_others_is_told_why() -> None:
    master, address = start_master()
    with pccl.Communicator(address, ensemble=(1, 1)) as first, pccl.Communicator(address) as plain:
        first.connect()
        with pytest.raises(pccl.MasterConnectionFailedError):
            plain.connect()
        assert first.world_size == 1
    master.destroy()


@pytest.mark.parametrize("ensemble", [(1, 0), (1, 1025), (-1, 2), (2**64, 2)])
def test_ensembles_that_cannot_be_are_refused(ensemble: Tuple[int, int]) -> None:
    with pytest.raises((ValueError, pccl.InvalidArgumentError)):
        pccl.Communicator("127.0.0.1:1", ensemble=ensemble)
