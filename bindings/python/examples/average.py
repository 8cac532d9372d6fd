"""Averages a vector among peers that come and go.

Start a master once, and then this program as often as you like, on any machines; stop and start peers while it runs:

    pccl-master                                  (or: python average.py --master 0.0.0.0:48148)
    python average.py 192.0.2.1:48148
    python average.py 192.0.2.1:48148
"""

from __future__ import annotations

import argparse
import signal
import threading
import time

import numpy

import pccl


def run_master(address: str) -> None:
    # Waiting for an event, unlike await_termination(), lets Python handle the signals.
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with pccl.MasterNode(address) as master:
        master.run()
        print(f"the master listens on {address}; Ctrl-C ends it", flush=True)
        ended.wait()


def run_peer(address: str, turns: int, interval: float) -> None:
    with pccl.Communicator(address) as communicator:
        communicator.connect(attempts=30)
        value = numpy.random.default_rng().random()
        print(f"connected; this peer contributes {value:.3f}", flush=True)
        done = 0
        while done < turns:
            # The join point comes last in a turn: a newcomer's connect() returns when the others leave
            # update_topology(), and what comes next must be the same call for both.
            vector = numpy.full(1000, value)
            try:
                info = communicator.all_reduce(vector, op=pccl.ReduceOp.AVG, tag=1)
            except pccl.RankConnectionLostError:
                print(f"a peer was lost; {communicator.world_size} left, again", flush=True)
                continue
            except pccl.TooFewPeersError:
                print("alone; waiting for another peer", flush=True)
            else:
                done += 1
                print(f"average of {info.world_size} peers: {vector[0]:.3f}", flush=True)
            time.sleep(interval)
            if communicator.are_peers_pending():
                communicator.update_topology()


def main() -> None:
    parser = argparse.ArgumentParser(description="Averages a vector among peers that come and go.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:48148", help="the master's address, host:port")
    parser.add_argument("--master", action="store_true", help="be the master, and listen on the address")
    parser.add_argument("--turns", type=int, default=1000, help="results after which this peer leaves")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two results")
    arguments = parser.parse_args()
    if arguments.master:
        run_master(arguments.address)
    else:
        run_peer(arguments.address, arguments.turns, arguments.interval)


if __name__ == "__main__":
    main()
