"""``cuda_worker.py DRIVER WHAT``: one of the tests of test_cuda.py. Prints "ok" at the end."""

from __future__ import annotations

import ctypes
import faulthandler
import sys
import tempfile
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


    def put(self, content: np.ndarray) -> None:
        assert DeviceArray.fake is not None
        DeviceArray.fake.fake_cuda_write(self.address, np.ascontiguousarray(content).ctypes.data, content.nbytes)


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


def save(world: World) -> None:
    content = np.arange(30, dtype=np.float32).reshape(5, 6)
    arrays = [DeviceArray(content), lent(DeviceArray(content))]
    with tempfile.TemporaryDirectory() as folder:
        pccl.SharedState.from_mapping({"a": arrays[0], "b": arrays[1]}, revision=4).save(folder).wait()
        arrays[0].put(0 * content)
        state = pccl.SharedState.from_mapping({"a": arrays[0], "b": np.zeros_like(content)}, revision=1)
        state.load(folder)
    assert state.revision == 4 and (arrays[0].get() == content).all() and (state.tensors[1].data == content).all()


START = {"a": np.linspace(-1, 1, 3000, dtype=np.float32).reshape(30, 100), "b": np.linspace(0, 3, 77).astype(np.float16)}


def train(on_device: Tuple[bool, bool], **options: Any) -> Any:
    """What two peers have at the end, of which one or both have a device."""

    def task(i: int, communicator: pccl.Communicator) -> Any:
        make = DeviceArray if on_device[i] else np.copy
        model = {name: make(content) for name, content in START.items()}
        diloco = pccl.diloco.DiLoCo(model, None, communicator, sync_every=2, **options)
        diloco.begin()
        for step in range(8):
            for name, array in model.items():
                values = array.get() if on_device[i] else array
                values = values + (values.dtype.type(0.01) * (i + 1) * step).astype(values.dtype)
                array.put(values) if on_device[i] else np.copyto(array, values)
            diloco.step()
        diloco.end()
        outer = diloco.outer_parameters()
        assert outer["a"].shape == (30, 100) and outer["a"].dtype == np.float32
        final = {name: array.get() if on_device[i] else array for name, array in model.items()}
        assert all((outer[name].astype(START[name].dtype) == final[name]).all() for name in START)
        check_state(diloco, model, communicator, on_device[i])
        return diloco.parameters_hash(), final

    with World(2) as world:
        return world.run(task)


def check_state(diloco: pccl.diloco.DiLoCo, model: Dict[str, Any], communicator: pccl.Communicator, on_device: bool) -> None:
    hash_before, state = diloco.parameters_hash(), diloco.state_dict()
    shared = {tensor.name: tensor.data for tensor in diloco.shared_state.tensors}
    assert all(hasattr(shared[f"outer/{name}"], "__cuda_array_interface__") == on_device for name in model)
    changed = {name: value + (name == "outer/a") for name, value in state["tensors"].items()}
    with tempfile.TemporaryDirectory() as folder:
        diloco.save(folder).wait()
        diloco.load_state_dict({"revision": state["revision"], "tensors": changed})
        assert diloco.parameters_hash() != hash_before
        assert (diloco.outer_parameters()["a"].reshape(-1) == changed["outer/a"]).all()
        diloco.load(folder)
    assert diloco.parameters_hash() == hash_before


def diloco(world: World) -> None:
    modes: Tuple[Dict[str, Any], ...] = (
        {"mode": "synchronous"},
        {"mode": "synchronous", "codec": "e3m0", "error_feedback": True, "momentum_limit": 0.01},
        {"mode": "delayed", "staleness_penalty": 0.5},
        {"mode": "streaming", "fragments": 2, "overlap": 1},
    )
    for options in modes:
        right = train((False, False), **options)
        for on_device in ((True, False), (True, True)):
            found = train(on_device, **options)
            for wanted, got in zip(right, found):
                assert wanted[0] == got[0], options
                assert all((wanted[1][name] == got[1][name]).all() for name in START), options
    refuse_diloco(world)


def refuse_diloco(world: World) -> None:
    mixed = {"a": DeviceArray(START["a"]), "b": START["b"].copy()}
    try:
        pccl.diloco.DiLoCo(mixed, None, world.communicators[0])
    except pccl.InvalidArgumentError as reason:
        print(reason)
    else:
        raise AssertionError("it was taken")
    try:
        pccl.diloco.DiLoCo({"a": DeviceArray(START["a"])}, None, world.communicators[0], offload=True)
    except TypeError as reason:
        print(reason)
    else:
        raise AssertionError("it was taken")
    # Alone: its device fails before the outer step.
    with World(1) as alone:
        array = DeviceArray(START["a"])
        trained = pccl.diloco.DiLoCo({"a": array}, None, alone.communicators[0], sync_every=1, minimum_peers=1)
        trained.begin()
        array.put(START["a"] + 1)
        assert DeviceArray.fake is not None
        DeviceArray.fake.fake_cuda_fail(b"cuLaunchKernel", 1, 1)
        for wanted in (pccl.InternalError, pccl.InvalidUsageError):
            try:
                trained.step()
            except wanted as reason:
                print(reason)
            else:
                raise AssertionError("it was stepped")
        trained.end()
        assert (array.get() == START["a"] + 1).all()
        # A stream that it names is waited for, in each call.
        array._stream = 4711
        try:
            pccl.diloco.DiLoCo({"a": array}, None, alone.communicators[0])
        except ValueError as reason:
            print(reason)
        else:
            raise AssertionError("nobody has waited")


def status(world: World) -> None:
    world.run(lambda i, communicator: communicator.all_reduce(np.ones(10, np.float32)))
    with open("/proc/self/maps") as maps:
        assert DRIVER not in maps.read()
    status = pccl.cuda_status()
    assert status.is_ready and status.device_count == 1 and status.driver_version == (12, 4) and status.reason == ""
    with open("/proc/self/maps") as maps:
        assert DRIVER in maps.read()


TASKS = {
    "reduce": reduce,
    "share": share,
    "borrow": borrow,
    "prefer": prefer,
    "refuse": refuse,
    "save": save,
    "diloco": diloco,
    "status": status,
}

with World(2) as world:
    TASKS[WHAT](world)
print("ok")
