"""One process of a test: ``worker.py master|peer ADDRESS``. Commands come as JSON lines, and so do the answers."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import sys
import time
from typing import Any, Dict, List, Optional

import numpy
from cluster import join_until

import pccl


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def outcome(array: numpy.ndarray, info: pccl.ReduceInfo) -> Dict[str, Any]:
    """What a success gave; the array must hold one value only."""
    return {"ok": True, "world_size": info.world_size, "values": numpy.unique(array).tolist()}


def described(array: numpy.ndarray, info: pccl.ReduceInfo) -> Dict[str, Any]:
    """What a success gave: its parts, the runs of equal elements (first, count, value), and a digest of all bits."""
    starts = [0, *(numpy.flatnonzero(array[1:] != array[:-1]) + 1).tolist(), array.size]
    return {
        "ok": True,
        "world_size": info.world_size,
        "parts": [[part.first, part.count, part.world_size] for part in info.parts],
        "runs": [[start, end - start, float(array[start])] for start, end in zip(starts, starts[1:])],
        "bits": hashlib.sha256(array.data).hexdigest(),
    }


class Peer:
    """The commands of a peer."""

    def __init__(self, address: str) -> None:
        self.communicator = pccl.Communicator(address)
        self.handle: Optional[pccl.AsyncReduceHandle] = None
        self.array = self.sent = self.input = numpy.zeros(1, dtype=numpy.float32)
        self.kind = ""

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

    def launch(self, value: float, count: int, on_loss: str = "ABORT") -> Dict[str, Any]:
        self.array = numpy.full(count, value, dtype=numpy.float32)
        self.handle = self.communicator.all_reduce_async(self.array, on_loss=pccl.OnLoss[on_loss])
        return {"ok": True}

    def fence(self) -> Dict[str, Any]:
        """A small reduction beside what is in flight."""
        self.communicator.all_reduce(numpy.ones(1), tag=1)
        return {"ok": True}

    def await_some(self, value: float) -> Dict[str, Any]:
        """Blocks until an element of what is in flight is no longer ``value``, the input, and gives that element."""
        while True:
            changed = self.array[::1009]
            changed = changed[changed != value]
            if changed.size:
                return {"ok": True, "value": float(changed[0])}

    def wait(self) -> Dict[str, Any]:
        assert self.handle is not None
        return outcome(self.array, self.handle.wait())

    def wait_described(self) -> Dict[str, Any]:
        assert self.handle is not None
        return described(self.array, self.handle.wait())

    def launch_joint(self, kind: str, count: int, world_size: int = 0) -> Dict[str, Any]:
        """Starts a collective of blocks of ``count``, or that of so many by its root, the peer of rank 0."""
        rank, size = self.communicator.rank, world_size or self.communicator.world_size
        self.kind = kind
        if kind == "all_gather":
            self.sent, self.array = numpy.full(count, 1.0 + rank), numpy.zeros(count * size)
            self.handle = self.communicator.all_gather_async(self.sent, self.array)
        elif kind == "reduce_scatter":
            self.sent, self.array = numpy.repeat(numpy.arange(float(size)), count), numpy.zeros(count)
            self.handle = self.communicator.reduce_scatter_async(self.sent, self.array)
        else:
            self.sent = self.array = numpy.full(count, float(rank))
            self.handle = self.communicator.broadcast_async(self.array, world_size=size)
        self.input = self.sent.copy()
        return {"ok": True}

    def wait_joint(self) -> Dict[str, Any]:
        assert self.handle is not None
        try:
            info = self.handle.wait()
        except pccl.PCCLError as error:
            whole = self.kind == "broadcast" or bool((self.sent == self.input).all())
            return {"error": type(error).__name__, "input_is_whole": whole}
        size = info.world_size
        wanted = {
            "all_gather": numpy.repeat(1.0 + numpy.arange(size), self.array.size // size),
            "reduce_scatter": numpy.full(self.array.size, float(size * self.communicator.rank)),
            "broadcast": numpy.zeros(self.array.size),
        }
        return {"ok": True, "world_size": size, "is_right": bool((self.array == wanted[self.kind]).all())}

    def barrier(self) -> Dict[str, Any]:
        return {"ok": True, "world_size": self.communicator.barrier(tag=77).world_size}

    def values(self) -> Dict[str, Any]:
        return {"ok": True, "values": numpy.unique(self.array).tolist()}

    def reduce_many(self, value: float, count: int, tensors: int, on_loss: Optional[str] = None) -> Dict[str, Any]:
        arrays = [numpy.full(count, value * (i + 1), dtype=numpy.float32) for i in range(tensors)]
        operands = [pccl.ReduceOperand(array) for array in arrays]
        policy = None if on_loss is None else pccl.OnLoss[on_loss]
        info = self.communicator.all_reduce_multiple_with_retry(operands, 4, policy)
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

    def loop_on_loss(self, value: float, count: int, on_loss: str, until_size: int) -> Dict[str, Any]:
        """Reduces until a result was made by ``until_size`` peers. No loss is told."""
        results: List[Dict[str, Any]] = []
        while not results or results[-1]["world_size"] != until_size:
            array = numpy.full(count, value, dtype=numpy.float32)
            results.append(described(array, self.communicator.all_reduce(array, on_loss=pccl.OnLoss[on_loss])))
        return {"ok": True, "results": results}

    def loop_halfway(self, value: float, count: int, on_loss: str) -> None:
        """Takes part in that for ever, and tells of each operation when the first elements of its result are there."""
        while True:
            self.launch(value, count, on_loss)
            self.await_some(value)
            say(halfway=True)
            self.wait_described()


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
