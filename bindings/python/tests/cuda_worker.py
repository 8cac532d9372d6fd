"""``cuda_worker.py DRIVER WHAT``: one of the tests of test_cuda.py. Prints "ok" at the end."""

from __future__ import annotations

import ctypes
import faulthandler
import sys
from typing import Any, Dict, Tuple

import numpy as np
from cluster import World
from lender import CUDA, CUDA_MANAGED, READ_ONLY, Lender

import pccl

faulthandler.enable()
DRIVER, WHAT = sys.argv[1:]


class DeviceArray:
    """What CuPy and others are to the library: an address, and what lies there."""

    fake = None

    def __init__(self, content: np.ndarray, stream: Any = None, strides: Any = None, read_only: bool = False) -> None:
        if DeviceArray.fake is None:
            DeviceArray.fake = ctypes.CDLL(DRIVER)
            DeviceArray.fake.fake_cuda_alloc.restype = ctypes.c_void_p
            DeviceArray.fake.fake_cuda_alloc.argtypes = [ctypes.c_size_t]
            for name in ("fake_cuda_write", "fake_cuda_read"):
                getattr(DeviceArray.fake, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.shape, self.dtype = content.shape, content.dtype
        self.address = DeviceArray.fake.fake_cuda_alloc(content.nbytes)
        DeviceArray.fake.fake_cuda_write(self.address, content.ctypes.data, content.nbytes)
        self._data: Tuple[int, bool] = (self.address, read_only)
        self._stream, self._strides = stream, strides

    @property
    def __cuda_array_interface__(self) -> Dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": self._data,
            "version": 3,
            "strides": self._strides,
            "stream": self._stream,
        }

    def get(self) -> np.ndarray:
        content = np.empty(self.shape, self.dtype)
        assert DeviceArray.fake is not None
        DeviceArray.fake.fake_cuda_read(content.ctypes.data, self.address, content.nbytes)
        return content


def lent(array: DeviceArray, **other: Any) -> Lender:
    return Lender(array.address, array.shape, **{"device": (CUDA, 0), "keep": array, **other})


def reduce(world: World) -> None:
    for dtype in (np.float32, np.float16, np.int64):
        content = np.arange(5000).reshape(50, 100).astype(dtype)
        arrays = [DeviceArray(content, stream=1), DeviceArray(content)]
        world.run(lambda i, communicator: communicator.all_reduce(arrays[i]))
        assert all((array.get() == content + content).all() for array in arrays)
        targets = [DeviceArray(np.zeros_like(content)), np.zeros_like(content)]
        sources = [content, DeviceArray(content)]
        world.run(lambda i, communicator: communicator.all_reduce(sources[i], targets[i], op=pccl.ReduceOp.MAX))
        assert (targets[0].get() == content).all() and (targets[1] == content).all()
    blocks = [DeviceArray(np.full(10, i, np.int32)) for i in range(2)]
    whole = [DeviceArray(np.zeros(20, np.int32)) for _ in range(2)]
    order = world.run(lambda i, communicator: communicator.rank)
    world.run(lambda i, communicator: communicator.all_gather(blocks[i], whole[i]))
    for gathered in whole:
        assert [gathered.get()[10 * rank] for rank in order] == [0, 1]


def share(world: World) -> None:
    arrays = [DeviceArray(np.full(3_000_000, float(i), np.float32)) for i in range(2)]
    strategies = [pccl.SharedStateSyncStrategy.SEND_ONLY, pccl.SharedStateSyncStrategy.RECEIVE_ONLY]

    def synchronize(i: int, communicator: pccl.Communicator) -> None:
        state = pccl.SharedState.from_mapping({"weights": arrays[i]}, revision=1)
        communicator.sync_shared_state(state, strategies[i])

    world.run(synchronize)
    assert all((array.get() == 0).all() for array in arrays)


def borrow(world: World) -> None:
    content = np.arange(6000, dtype=np.float32).reshape(2, 3000)
    for other in ({}, {"version": (1, 0)}, {"device": (CUDA_MANAGED, 0)}, {"strides": (3000, 1)}):
        lenders = [lent(DeviceArray(content), **other) for _ in range(2)]
        world.run(lambda i, communicator: communicator.all_reduce(lenders[i]))
        for lender in lenders:
            assert (lender.keep.get() == 2 * content).all()
            # The legacy default stream, on which the library copies.
            assert [call["stream"] for call in lender.calls] == [1] and lender.is_settled
    # From a device to the host and back, with an offset.
    half = [lent(DeviceArray(content), byte_offset=12000) for _ in range(2)]
    for lender in half:
        lender.shape = (3000,)
    targets = [np.zeros(3000, np.float32), lent(DeviceArray(content[1]))]
    handles = [c.all_reduce_async(half[i], targets[i]) for i, c in enumerate(world.communicators)]
    assert not any(lender.deleted for lender in half)
    world.run(lambda i, _: handles[i].wait())
    assert all(lender.given == 1 and lender.is_settled for lender in [*half, targets[1]])
    assert (targets[0] == 2 * content[1]).all() and (targets[1].keep.get() == targets[0]).all()
    assert all((lender.keep.get() == content).all() for lender in half)
    share_borrowed(world)
    fail_borrowed(world)


def share_borrowed(world: World) -> None:
    lenders = [lent(DeviceArray(np.full(3_000_000, float(i), np.float32))) for i in range(2)]
    strategies = [pccl.SharedStateSyncStrategy.SEND_ONLY, pccl.SharedStateSyncStrategy.RECEIVE_ONLY]

    def synchronize(i: int, communicator: pccl.Communicator) -> None:
        state = pccl.SharedState.from_mapping({"weights": lenders[i]}, revision=1)
        communicator.sync_shared_state(state, strategies[i])

    world.run(synchronize)
    assert all((lender.keep.get() == 0).all() and lender.is_settled for lender in lenders)
    assert all(call["stream"] == 1 for lender in lenders for call in lender.calls)


def fail_borrowed(world: World) -> None:
    communicator, content = world.communicators[0], np.zeros((4, 4), np.float32)
    for other in ({"strides": (1, 4)}, {"version": (1, 0), "flags": READ_ONLY}, {"element": (6, 8, 1)}):
        lender = lent(DeviceArray(content), **other)
        try:
            communicator.all_reduce_async(lender)
        except (TypeError, ValueError) as reason:
            print(reason)
            assert lender.given == 1 and lender.is_settled
        else:
            raise AssertionError("it was taken")
    # The copy of the input fails: nothing was launched.
    assert DeviceArray.fake is not None
    DeviceArray.fake.fake_cuda_fail(b"cuMemcpyDtoHAsync_v2", 1, 1)
    lender = lent(DeviceArray(content))
    try:
        communicator.all_reduce(lender)
    except pccl.InternalError as reason:
        print(reason)
        assert lender.given == 1 and lender.is_settled
    else:
        raise AssertionError("it was copied")


def prefer(world: World) -> None:
    class Both(DeviceArray):
        def __dlpack_device__(self) -> Any:
            raise AssertionError("asked")

        __dlpack__ = __dlpack_device__

    arrays = [Both(np.ones(4, np.float32)) for _ in range(2)]
    world.run(lambda i, communicator: communicator.all_reduce(arrays[i]))
    assert all((array.get() == 2).all() for array in arrays)


def refuse(world: World) -> None:
    communicator = world.communicators[0]
    content = np.zeros((4, 4), np.float32)
    for wrong in (
        DeviceArray(content, strides=(4, 16)),
        DeviceArray(content, read_only=True),
        DeviceArray(content.astype(">f4")),
    ):
        try:
            communicator.all_reduce(wrong)
        except ValueError as reason:
            print(reason)
        else:
            raise AssertionError("it was taken")
    state = pccl.SharedState.from_mapping({"weights": DeviceArray(content)}, revision=1)
    try:
        state.save("/nowhere")
    except TypeError as reason:
        print(reason)
    else:
        raise AssertionError("it was saved")


def status(world: World) -> None:
    world.run(lambda i, communicator: communicator.all_reduce(np.ones(10, np.float32)))
    with open("/proc/self/maps") as maps:
        assert DRIVER not in maps.read()
    status = pccl.cuda_status()
    assert status.is_ready and status.device_count == 1 and status.driver_version == (12, 4) and status.reason == ""
    with open("/proc/self/maps") as maps:
        assert DRIVER in maps.read()


with World(2) as world:
    {"reduce": reduce, "share": share, "borrow": borrow, "prefer": prefer, "refuse": refuse, "status": status}[WHAT](world)
print("ok")
