"""All-reduce among three threads, against NumPy."""

from __future__ import annotations

import array
from typing import Any, Callable, List

import numpy
import pytest
from cluster import World

import pccl

try:
    import ml_dtypes

    BFLOAT16: Any = numpy.dtype(ml_dtypes.bfloat16)
except ImportError:
    BFLOAT16 = None

INTEGERS = ["uint8", "int8", "int16", "uint16", "uint32", "int32", "uint64", "int64"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]


def dtype_named(name: str) -> Any:
    if name != "bfloat16":
        return numpy.dtype(name)
    if BFLOAT16 is None:
        pytest.skip("bfloat16 of NumPy arrays needs the package ml_dtypes")
    return BFLOAT16


def contributions(dtype: Any, count: int, peers: int) -> List[numpy.ndarray]:
    """Different data of each peer. Integers are of the full range, so that sums wrap.

    Floats are small multiples of 1/4, whose sums and products are exact in every type and in every order.
    """
    random = numpy.random.default_rng(count)
    if dtype.name in INTEGERS:
        limits = numpy.iinfo(dtype)
        return [random.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True) for _ in range(peers)]
    return [(random.integers(-4, 5, count) / 4).astype(dtype) for _ in range(peers)]


def expected(inputs: List[numpy.ndarray], op: pccl.ReduceOp) -> numpy.ndarray:
    dtype = inputs[0].dtype
    stacked = numpy.stack(inputs)
    if op is pccl.ReduceOp.MAX:
        return stacked.max(axis=0)
    if op is pccl.ReduceOp.MIN:
        return stacked.min(axis=0)
    if dtype.name in INTEGERS:
        if op is pccl.ReduceOp.SUM:
            return stacked.sum(axis=0, dtype=dtype)
        if op is pccl.ReduceOp.PROD:
            return stacked.prod(axis=0, dtype=dtype)
        sums = stacked.astype(object).sum(axis=0)  # of Python's integers, which do not wrap
        return numpy.array([abs(s) // len(inputs) * (1 if s >= 0 else -1) for s in sums], dtype=dtype)
    wide = stacked.astype(numpy.float64 if dtype == numpy.float64 else numpy.float32)
    if op is pccl.ReduceOp.PROD:
        return wide.prod(axis=0).astype(dtype)
    total = wide.sum(axis=0)
    if op is pccl.ReduceOp.AVG:
        total = total / total.dtype.type(len(inputs))
    return total.astype(dtype)


@pytest.mark.parametrize("op", list(pccl.ReduceOp), ids=lambda op: op.name)
@pytest.mark.parametrize("name", INTEGERS + FLOATS)
def test_every_type_and_operation_gives_what_numpy_gives(trio: World, name: str, op: pccl.ReduceOp) -> None:
    inputs = contributions(dtype_named(name), 1003, 3)
    copies = [tensor.copy() for tensor in inputs]
    results = [numpy.zeros_like(tensor) for tensor in inputs]
    infos = trio.run(lambda i, communicator: communicator.all_reduce(inputs[i], results[i], op))
    wanted = expected(inputs, op).tobytes()
    # Compared as bits: -0 and +0 are equal, but peers must agree on them too.
    assert len({result.tobytes() for result in results}) == 1
    if name in INTEGERS:
        assert results[0].tobytes() == wanted
    else:
        assert numpy.array_equal(results[0], expected(inputs, op))
    assert [tensor.tobytes() for tensor in inputs] == [copy.tobytes() for copy in copies]
    assert [info.world_size for info in infos] == [3, 3, 3]
    assert all(info.tx_bytes > 0 and info.rx_bytes > 0 for info in infos)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 255, 4096, 100_003, 1_500_000])
def test_every_size_works(trio: World, count: int, in_place: bool) -> None:
    inputs = contributions(numpy.dtype("float32"), count, 3)
    wanted = expected(inputs, pccl.ReduceOp.SUM)
    results = inputs if in_place else [numpy.full_like(tensor, numpy.nan) for tensor in inputs]
    trio.run(lambda i, communicator: communicator.all_reduce(inputs[i], None if in_place else results[i]))
    assert all(numpy.array_equal(result, wanted) for result in results)


@pytest.mark.parametrize("op", [pccl.ReduceOp.MAX, pccl.ReduceOp.MIN], ids=lambda op: op.name)
def test_a_nan_of_any_peer_wins(trio: World, op: pccl.ReduceOp) -> None:
    inputs = [numpy.array([1.0, 2.0, 3.0, 4.0], dtype=numpy.float32) for _ in range(3)]
    for index, tensor in enumerate(inputs):
        tensor[index] = numpy.nan
    trio.run(lambda i, communicator: communicator.all_reduce(inputs[i], op=op))
    assert all(numpy.isnan(tensor[:3]).all() and tensor[3] == 4 for tensor in inputs)


def test_send_as_recv_is_in_place(trio: World) -> None:
    tensors = [numpy.ones(10) for _ in range(3)]
    trio.run(lambda i, communicator: communicator.all_reduce(tensors[i], tensors[i]))
    assert all((tensor == 3).all() for tensor in tensors)


def test_buffers_that_overlap_in_part_are_refused(trio: World) -> None:
    memory = numpy.ones(12)
    with pytest.raises(pccl.InvalidArgumentError, match="overlap"):
        trio.communicators[0].all_reduce(memory[:8], memory[4:])
    assert (memory == 1).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: numpy.ones((3, 4, 5), dtype=numpy.float64),
        lambda: numpy.ones((9, 20))[3:6],
        lambda: array.array("d", [1.0] * 60),
        lambda: memoryview(array.array("d", [1.0] * 60)),
    ],
    ids=["shaped", "slice", "array.array", "memoryview"],
)
def test_shapes_and_containers_do_not_matter(trio: World, make: Callable[[], Any]) -> None:
    tensors = [make() for _ in range(3)]
    trio.run(lambda i, communicator: communicator.all_reduce(tensors[i]))
    assert all((numpy.asarray(tensor) == 3).all() for tensor in tensors)


def test_the_results_of_real_data_are_the_same_bits_everywhere_and_every_time(trio: World) -> None:
    inputs = [numpy.random.default_rng(i).standard_normal(50_000).astype(numpy.float32) for i in range(3)]

    def reduce(index: int, communicator: pccl.Communicator) -> bytes:
        result = numpy.empty_like(inputs[index])
        communicator.all_reduce(inputs[index], result)
        return result.tobytes()

    runs = trio.run(reduce) + trio.run(reduce) + trio.run(reduce)
    assert len(set(runs)) == 1
    assert numpy.allclose(numpy.frombuffer(runs[0], numpy.float32), sum(inputs), rtol=1e-5, atol=1e-5)


def test_the_interpreter_is_free_while_a_call_blocks(pair: World) -> None:
    # The second peer only calls after Python code has run while the first was inside its call: were the lock held
    # there, this would hang.
    import threading

    entering = threading.Event()
    tensors = [numpy.ones(4), numpy.ones(4)]

    def first() -> None:
        entering.set()
        pair.communicators[0].all_reduce(tensors[0])

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    entering.wait()
    pair.communicators[1].all_reduce(tensors[1])
    thread.join()
    assert all((tensor == 2).all() for tensor in tensors)


def test_a_mismatch_is_an_error_on_all_peers(new_world: Callable[[int], World]) -> None:
    world = new_world(2)

    def mismatched(index: int, communicator: pccl.Communicator) -> None:
        tensor = numpy.ones(100 + index)
        # What it may be, and what it was.
        with pytest.raises(pccl.InvalidArgumentError, match="same count.* It says: .*100.*101|101.*100"):
            communicator.all_reduce(tensor)
        assert (tensor == 1).all()

    world.run(mismatched)
    tensors = [numpy.ones(4), numpy.ones(4)]
    world.run(lambda i, communicator: communicator.all_reduce(tensors[i]))
    assert all((tensor == 2).all() for tensor in tensors)
