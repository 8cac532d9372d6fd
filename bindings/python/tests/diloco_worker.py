"""One process of a test of DiLoCo: ``diloco_worker.py peer ADDRESS``. It is spoken with as worker.py is."""

from __future__ import annotations

import faulthandler
import json
import sys
import threading
import time
from typing import Any, Dict, List, Optional

from diloco_peers import new_arrays, train
from worker import say

import pccl
from pccl.diloco import DiLoCo, RoundInfo


class Peer:
    """The commands of a peer."""

    def __init__(self, address: str) -> None:
        self.communicator = pccl.Communicator(address)
        self.arrays = new_arrays(0)
        self.diloco: Optional[DiLoCo] = None
        self.index = self.steps = 0
        self.rounds: List[RoundInfo] = []

    def begin(self, index: int, shape: Optional[List[int]] = None, **options: Any) -> Dict[str, Any]:
        """``shape``: of the tensor that is there besides."""
        self.index = index
        self.arrays = new_arrays(index)
        if shape is not None:
            self.arrays["large"] = self.arrays["first"].repeat(shape[0] // 7 + 1)[: shape[0]]
        self.diloco = DiLoCo(self.arrays, None, self.communicator, **options)
        self.diloco.on_round = self.rounds.append
        self.diloco.begin()
        return self.state()

    def state(self) -> Dict[str, Any]:
        assert self.diloco is not None
        return {
            "ok": True,
            "hash": self.diloco.parameters_hash(),
            "round": self.diloco.round,
            "world_size": self.communicator.world_size,
        }

    def await_pending(self) -> Dict[str, Any]:
        """All members do this at once, between two steps."""
        while not self.communicator.are_peers_pending():
            time.sleep(0.005)
        return {"ok": True}

    def train(self, steps: int, until_world_size: int = 0, tells: bool = False) -> Dict[str, Any]:
        """So many inner steps, and then on until a round of so many peers, and gives what all hold after each round.

        ``tells``: says so when the thread is inside of the last one.
        """
        assert self.diloco is not None
        hashes = []
        done = 0
        while done < steps or (until_world_size and (not hashes or hashes[-1]["world_size"] != until_world_size)):
            done += 1
            self.steps += 1
            train(self.arrays, self.index, self.steps)
            self.rounds.clear()
            if tells and done == steps:
                threading.Thread(target=self._tell_when_inside, daemon=True).start()
            self.diloco.step()
            if self.rounds:
                last = self.rounds[-1]
                found = {"round": last.round, "fragment": last.fragment, "world_size": last.world_size}
                hashes.append({**found, "hash": self.diloco.parameters_hash()})
        return {"ok": True, "rounds": hashes}

    def train_until_back(self) -> Dict[str, Any]:
        """Inner steps of a peer that is out of the run, until it is in again; it is at the end of a round then."""
        assert self.diloco is not None
        revision = self.diloco.shared_state.revision
        while self.diloco.shared_state.revision == revision:
            self.steps += 1
            train(self.arrays, self.index, self.steps)
            self.diloco.step()
        return self.state()

    def _tell_when_inside(self) -> None:
        assert self.diloco is not None
        while not self.diloco._lifetime.calls:
            time.sleep(0.0005)
        say(inside=True)

    def end(self) -> Dict[str, Any]:
        assert self.diloco is not None
        self.diloco.end()
        return self.state()


def main() -> None:
    _, address = sys.argv[1:]
    # Outlives no test run that was killed: ends with its parent's end of the pipe, or else here.
    faulthandler.dump_traceback_later(240, exit=True)
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
