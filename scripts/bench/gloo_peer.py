"""One peer of gloo, as PyTorch has it, for `pccl bench --vs gloo`, which starts it:

    gloo_peer.py SOCKET RANK

It does what a peer of our own does (Sources/pccl/Bench/Peer), so that both are measured alike: the same numbers, the same
turns, the same moments at which a clock is read. The lines that pass over the socket are explained in ControlLine.swift.
"""

import datetime
import os
import resource
import select
import socket
import sys
import threading
import time

PERIOD = 1021
LARGEST_VALUE = 10
# For processes that are all there, and have to find each other at a store.
STORE_PATIENCE = datetime.timedelta(seconds=30)
FLOATS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def status_bytes(key):
    with open("/proc/self/status") as lines:
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def forget_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # The peak counts from the start of the process then.


def processor_nanoseconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


class Parent:
    """The connection to `pccl bench`. When it ends this process ends too, also in the middle of a reduction."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        poll.poll()
        os._exit(2)

    def say(self, word, **values):
        text = values.pop("text", None)
        words = [word] + [f"{key}={value}" for key, value in values.items()]
        if text is not None:
            words.append("text=" + " ".join(str(text).split()))
        self.socket.sendall((" ".join(words) + "\n").encode())

    def next(self):
        """The word and the values of the next line; no word when there is none."""
        word, *pairs = (self.lines.readline().split() or [""])
        return word, dict(pair.split("=", 1) for pair in pairs)


class Peer:
    def __init__(self, torch, dist, rank, begin):
        self.torch, self.dist, self.rank = torch, dist, rank
        self.peers = int(begin["peers"])
        self.tags = int(begin["tags"])
        self.kind = begin["type"]
        self.op = begin["op"]
        self.type = getattr(torch, self.kind)
        self.operation = {
            "sum": dist.ReduceOp.SUM, "prod": dist.ReduceOp.PRODUCT, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN,
        }[self.op]
        contributions = [[self.value(index, rank) for index in range(PERIOD)] for rank in range(self.peers)]
        self.own = torch.tensor(contributions[rank], dtype=torch.int64)
        everyone = torch.tensor(contributions, dtype=torch.int64)
        self.magnitude = everyone.abs().sum(0)
        self.result = {"sum": everyone.sum(0), "prod": everyone.prod(0), "max": everyone.max(0)[0],
                       "min": everyone.min(0)[0]}[self.op]

    def value(self, index, rank):
        mixed = (index * 7 + rank * 13 + index // 11) % (LARGEST_VALUE + 1)
        if self.op == "prod":
            return 2 if mixed == 0 else 1
        return mixed if self.kind == "uint8" else mixed - 5

    def repeated(self, block, count):
        return block.to(self.type).repeat(-(-count // PERIOD))[:count].contiguous()

    def reduce(self, tensors):
        if len(tensors) == 1:
            self.dist.all_reduce(tensors[0], self.operation)
            return
        for work in [self.dist.all_reduce(tensor, self.operation, async_op=True) for tensor in tensors]:
            work.wait()

    def wrong_elements(self, tensor, calls):
        growth = 1
        if self.op == "sum":
            growth = self.peers ** (calls - 1)
        if self.kind not in FLOATS:
            growth = (growth + 2**63) % 2**64 - 2**63  # Wraps around as the elements do.
            return int((tensor != self.repeated(self.result * growth, tensor.numel())).sum())
        wanted = self.result.double() * float(growth)
        if self.torch.equal(tensor, self.repeated(wanted, tensor.numel())):
            return 0
        # It may have rounded each partial sum.
        allowed = self.magnitude.double() * (float(growth) * FLOATS[self.kind] * (self.peers + calls))
        wrong = 0
        for start in range(0, tensor.numel(), PERIOD):
            part = tensor[start:start + PERIOD].double()
            off = (part - wanted.to(self.type).double()[:part.numel()]).abs()
            wrong += int((~(off <= allowed[:part.numel()])).sum())
        return wrong

    def turn(self, turn, bytes_before):
        size, warm_ups, calls, per_fill, pause = (
            int(turn[k]) for k in ("bytes", "warmups", "calls", "callsperfill", "pause"))
        count = size // self.torch.empty(0, dtype=self.type).element_size()
        tensors = [self.repeated(self.own, count) for _ in range(self.tags)]
        little = [self.repeated(self.own, 8)]
        forget_peak()
        times, processor, wrong = [], 0, 0
        for is_timed, left in ((False, warm_ups), (True, calls)):
            while left > 0:
                batch = min(per_fill, left) if per_fill else left
                left -= batch
                for tensor in tensors:
                    self.fill(tensor)
                little[0].fill_(1)
                self.reduce(little)
                batch_times = []
                before = processor_nanoseconds()
                for _ in range(batch):
                    if is_timed and pause:
                        pause_before = processor_nanoseconds()
                        time.sleep(pause / 1000)
                        before += processor_nanoseconds() - pause_before
                    start = time.monotonic_ns()
                    self.reduce(tensors)
                    batch_times.append(time.monotonic_ns() - start)
                used = processor_nanoseconds() - before
                if is_timed:
                    peak = status_bytes("VmHWM:")  # Comparing takes memory of its own, which is not gloo's.
                    times += batch_times
                    processor += used
                    wrong += sum(self.wrong_elements(tensor, batch) for tensor in tensors)
        extra = max(0, peak - size * self.tags - bytes_before)
        return {"cpu": processor, "extra": extra, "wrong": wrong, "times": ",".join(map(str, times))}

    def fill(self, tensor):
        """In blocks, for the peak of memory is measured."""
        block = self.repeated(self.own, min(tensor.numel(), PERIOD * 64))
        for start in range(0, tensor.numel(), block.numel()):
            part = tensor[start:start + block.numel()]
            part.copy_(block[:part.numel()])


def main():
    path, rank = sys.argv[1], int(sys.argv[2])
    parent = Parent(path)
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        reason = f"{sys.executable}: {error}; pip install torch, or name another Python with --python"
        parent.say("hello", rank=rank, text=reason)
        parent.next()
        return
    parent.say("hello", rank=rank)
    word, begin = parent.next()
    if word != "begin":
        return
    try:
        if not hasattr(torch, begin["type"]):
            raise TypeError(f"PyTorch {torch.__version__} has no such type")
        torch.set_num_threads(1)
        bytes_before = status_bytes("VmRSS:")
        peers = int(begin["peers"])
        if "storehost" in begin:
            store = dist.TCPStore(
                begin["storehost"], int(begin["storeport"]), peers, begin["serves"] == "1", STORE_PATIENCE)
        else:
            store = dist.FileStore(begin["folder"] + "/gloo." + begin["peers"], peers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=peers)
        peer = Peer(torch, dist, rank, begin)
        peer.reduce([peer.repeated(peer.own, 8)])  # Some types it refuses only now.
    except Exception as error:
        parent.say("cannot", text=f"gloo with {begin['type']} {begin['op']}: {error}")
        parent.next()
        return
    parent.say("ready", text=f"gloo of PyTorch {torch.__version__}, one thread, in place")
    try:
        while True:
            word, turn = parent.next()
            if word != "turn":
                break
            parent.say("done", **peer.turn(turn, bytes_before))
        dist.destroy_process_group()
    except Exception as error:
        parent.say("failed", text=error)
        raise


main()
