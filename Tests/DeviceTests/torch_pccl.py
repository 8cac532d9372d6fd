"""All-reduce of CUDA tensors by pccl, between two processes on one device, through Python: a row for each size, with and
without a codec; what comes out is looked at.

    torch_pccl.py [MEBIBYTES]     of the largest
"""

import socket
import statistics
import sys
import time

import pccl
import torch
import torch.multiprocessing as mp

_TURNS = 7
_LEAST = 4096


def _member(index: int, address: str, most: int) -> None:
    with pccl.Communicator(address) as communicator:
        communicator.connect()
        while communicator.world_size < 2:
            if communicator.are_peers_pending():
                communicator.update_topology()
        if index == 0:
            print("| bytes | codec | ms |\n|---|---|---|")
        size = _LEAST
        while size <= most:
            for name in ("none", "min-max8"):
                codec = None if name == "none" else pccl.Codec.parse(name)
                took = []
                for turn in range(_TURNS + 1):
                    tensor = torch.full((size // 4,), float(index + 1), device="cuda")
                    torch.cuda.synchronize()
                    start = time.monotonic()
                    communicator.all_reduce(tensor, op=pccl.ReduceOp.SUM, codec=codec)
                    took.append(time.monotonic() - start)
                    assert bool((tensor == 3).all())
                if index == 0:
                    print(f"| {size} | {name} | {statistics.median(took[1:]) * 1e3:.3f} |", flush=True)
            size *= 8


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    print(f"pccl {pccl.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    with pccl.MasterNode(address) as master:
        master.run()
        mp.spawn(_member, args=(address, (int(sys.argv[1]) if len(sys.argv) > 1 else 256) << 20), nprocs=2)
