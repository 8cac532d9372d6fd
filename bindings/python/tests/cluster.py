"""Worlds for the tests: peers as threads of this process, or as processes that can be killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pccl

WORKER = Path(__file__).with_name("worker.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_master() -> tuple:
    """A running master of this process, and its address. Another program may take the free port first: tried again."""
    for attempt in range(5):
        address = f"127.0.0.1:{free_port()}"
        master = pccl.MasterNode(address)
        try:
            master.run()
            return master, address
        except pccl.InvalidUsageError:
            master.destroy()
            if attempt == 4:
                raise
    raise AssertionError("unreachable")


def join_until(communicator: pccl.Communicator, size: int) -> None:
    """Admits whoever comes until the world has ``size`` peers. All members run it, so they vote at the same moments."""
    while communicator.world_size < size:
        if communicator.are_peers_pending():
            communicator.update_topology()
        else:
            time.sleep(0.005)


def in_threads(tasks: List[Callable[[], Any]]) -> List[Any]:
    """Runs all tasks at the same time and returns their results; raises the first error when all have ended."""
    results: List[Any] = [None] * len(tasks)
    errors: List[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = tasks[index]()
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class World:
    """``size`` connected peers in this process."""

    def __init__(self, size: int) -> None:
        self.master, self.address = start_master()
        self.communicators = [pccl.Communicator(self.address) for _ in range(size)]

        def admit(communicator: pccl.Communicator) -> None:
            communicator.connect()
            join_until(communicator, size)

        in_threads([lambda c=c: admit(c) for c in self.communicators])

    def run(self, task: Callable[[int, pccl.Communicator], Any]) -> List[Any]:
        """Runs ``task(index, communicator)`` for all peers at the same time."""
        return in_threads([lambda i=i, c=c: task(i, c) for i, c in enumerate(self.communicators)])

    def close(self) -> None:
        for communicator in self.communicators:
            communicator.destroy()
        self.master.destroy()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Worker:
    """A process that is a master or a peer, and does one command after another.

    ``script`` is the program, and ``environment`` what is added to its environment.
    """

    def __init__(
        self, kind: str, address: str, script: Path = WORKER, environment: Optional[Dict[str, str]] = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), kind, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def tell(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended by itself with status {self.process.wait()}"
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **arguments: Any) -> Dict[str, Any]:
        self.tell(do, **arguments)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


class ProcessWorld:
    """``size`` connected peers, each a process, and a master that is one too."""

    def __init__(self, size: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.workers: List[Worker] = []
        try:
            self.master = self._start("master")
            answer = self.master.hear()
            assert answer == {"ok": True}, answer
            self.peers = [self._start("peer") for _ in range(size)]
            answers = self.ask_all("join", size=size)
            assert answers == [{"ok": True}] * size, answers
        except BaseException:
            self.close()
            raise

    def _start(self, kind: str) -> Worker:
        self.workers.append(Worker(kind, self.address))
        return self.workers[-1]

    def ask_all(self, do: str, **arguments: Any) -> List[Dict[str, Any]]:
        for peer in self.peers:
            peer.tell(do, **arguments)
        return [peer.hear() for peer in self.peers]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> "ProcessWorld":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
