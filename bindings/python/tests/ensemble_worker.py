"""One process of a node of two, as in sharded training: each step both of them meet, then each reduces its shard.

Usage: ensemble_worker.py MASTER RANK ENSEMBLE SOCKET [diloco]. With diloco, it is outer steps that are reduced. Prints "step N world W" after each step, and why it ends. RANK 0
listens at SOCKET, rank 1 connects to it; a byte in each direction is a meeting, and the other's end is an error.
"""

from __future__ import annotations

import socket
import sys
import time

import numpy as np

import pccl


def meet_mate(rank: int, path: str) -> socket.socket:
    if rank == 0:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            return listener.accept()[0]
    mate = socket.socket(socket.AF_UNIX)
    while True:
        try:
            mate.connect(path)
            return mate
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)


def meet(mate: socket.socket) -> None:
    mate.sendall(b"m")
    if not mate.recv(1):
        raise OSError("the other process is gone")


def train_with_diloco(communicator: pccl.Communicator, rank: int, mate: socket.socket) -> None:
    shard = {"weights": np.full(5000, float(rank), np.float32)}
    step = 0
    with pccl.diloco.DiLoCo(shard, None, communicator, sync_every=3) as diloco:
        while True:
            meet(mate)
            shard["weights"] -= np.float32(0.01)
            for outer in diloco.step():
                step += 1
                print(f"step {step} world {outer.world_size}", flush=True)
            time.sleep(0.003)


def main() -> None:
    address, rank, ensemble, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    mate = meet_mate(rank, path)
    with pccl.Communicator(address, peer_group=rank, ensemble=(ensemble, 2)) as communicator:
        if sys.argv[5:] == ["diloco"]:
            return train_with_diloco(communicator, rank, mate)
        communicator.connect()
        step = 0
        while True:
            meet(mate)
            shard = np.full(1000, 1.0, np.float32)
            while True:
                try:
                    communicator.all_reduce(shard, op=pccl.ReduceOp.SUM)
                    break
                except pccl.RankConnectionLostError:
                    pass
                except pccl.TooFewPeersError:
                    break
            assert shard[0] in (1, communicator.world_size, communicator.world_size + 1), shard[0]
            if communicator.are_peers_pending():
                communicator.update_topology()
            step += 1
            print(f"step {step} world {communicator.world_size}", flush=True)
            time.sleep(0.01)


try:
    main()
except (pccl.PCCLError, OSError) as error:
    print(f"ended {error}", flush=True)
