"""One process of a test: ``worker.py master|peer ADDRESS``. Commands come as JSON lines, and so do the answers."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from typing import Any, Dict, Optional

import numpy
from cluster import join_until

import pccl


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def outcome(array: numpy.ndarray, info: pccl.ReduceInfo) -> Dict[str, Any]:
    """What a success gave; the array must hold one value only."""
    return {"ok": True, "world_size": info.world_size, "values": numpy.unique(array).tolist()}


class Peer:
    """The commands of a peer."""

    def __init__(self, address: str) -> None:
        self.communicator = pccl.Communicator(address)
        self.handle: Optional[pccl.AsyncReduceHandle] = None
        self.array = numpy.zeros(1, dtype=numpy.float32)

    def join(self, size: int) -> Dict[str, Any]:
        self.communicator.connect(attempts=100, interval=0.1)
        join_until(self.communicator, size)
        return {"ok": True}

    def connect(self) -> Dict[str, Any]:
        self.communicator.connect()
        return {"ok": True}

    def rejoin(self, size: int) -> Dict[str, Any]:
        join_until(self.communicator, size)
        return {"ok": True}

    def await_pending(self) -> Dict[str, Any]:
        while not self.communicator.are_peers_pending():
            time.sleep(0.005)
        return {"ok": True}

    def world_size(self) -> Dict[str, Any]:
        return {"ok": True, "world_size": self.communicator.world_size}

    def update_topology(self) -> Dict[str, Any]:
        self.communicator.update_topology()
        return {"ok": True}

    def reduce(self, value: float, count: int) -> Dict[str, Any]:
        self.array = numpy.full(count, value, dtype=numpy.float32)
        return outcome(self.array, self.communicator.all_reduce(self.array))

    def launch(self, value: float, count: int) -> Dict[str, Any]:
        self.array = numpy.full(count, value, dtype=numpy.float32)
        self.handle = self.communicator.all_reduce_async(self.array)
        return {"ok": True}

    def wait(self) -> Dict[str, Any]:
        assert self.handle is not None
        return outcome(self.array, self.handle.wait())

    def values(self) -> Dict[str, Any]:
        return {"ok": True, "values": numpy.unique(self.array).tolist()}

    def reduce_many(self, value: float, count: int, tensors: int) -> Dict[str, Any]:
        arrays = [numpy.full(count, value * (i + 1), dtype=numpy.float32) for i in range(tensors)]
        info = self.communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(a) for a in arrays], 4)
        return {"ok": True, "world_size": info.world_size, "values": [numpy.unique(a).tolist() for a in arrays]}

    def loop(self, value: float, count: int, until_size: int, successes: int) -> Dict[str, Any]:
        """Reduces for ever, until ``successes`` results in a row of operations were made by ``until_size`` peers.

        All survivors see the same outcome of every operation, so all of them end after the same one.
        """
        done = lost = total = 0
        while done < successes:
            array = numpy.full(count, value, dtype=numpy.float32)
            try:
                result = outcome(array, self.communicator.all_reduce(array))
            except pccl.RankConnectionLostError:
                lost += 1
                if not (array == value).all():
                    return {"ok": False, "error": "the input was not whole after a loss"}
                continue
            total += 1
            done += result["world_size"] == until_size
            say(progress=total, **result)
        return {"ok": True, "finished": True, "losses": lost, "total": total}


def main() -> None:
    kind, address = sys.argv[1:]
    # Outlives no test run that was killed: ends with its parent's end of the pipe, or else here.
    faulthandler.dump_traceback_later(240, exit=True)
    if kind == "master":
        with pccl.MasterNode(address) as master:
            master.run()
            say(ok=True)
            sys.stdin.read()
        return
    peer = Peer(address)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, command.pop("do"))(**command)
        except pccl.PCCLError as error:
            answer = {"ok": False, "error": type(error).__name__, "text": str(error)}
        say(**answer)
    peer.communicator.destroy()


if __name__ == "__main__":
    main()
