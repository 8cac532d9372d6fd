"""All-reduce of CUDA tensors by torch with gloo, between two processes on one device: a row for each size.

    torch_gloo.py [MEBIBYTES]     of the largest
"""

import os
import socket
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_TURNS = 7
_LEAST = 4096


def _member(rank: int, port: int, most: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    if rank == 0:
        print("| bytes | ms |\n|---|---|")
    size = _LEAST
    while size <= most:
        tensor = torch.ones(size // 4, device="cuda")
        took = []
        for turn in range(_TURNS + 1):
            torch.cuda.synchronize()
            start = time.monotonic()
            dist.all_reduce(tensor)
            torch.cuda.synchronize()
            if turn > 0:
                took.append(time.monotonic() - start)
        if rank == 0:
            print(f"| {size} | {statistics.median(took) * 1e3:.3f} |", flush=True)
        size *= 8
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    mp.spawn(_member, args=(free_port, (int(sys.argv[1]) if len(sys.argv) > 1 else 256) << 20), nprocs=2)
