"""Asynchronous operations, many tags, and what becomes of dropped handles."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from typing import Callable, List

import numpy
import pytest
from cluster import World, in_threads

import pccl


def test_many_tags_launched_and_awaited_in_any_order(trio: World) -> None:
    tags = 64

    def reduce(index: int, communicator: pccl.Communicator) -> List[numpy.ndarray]:
        tensors = [numpy.full(1000 + tag, tag + index, dtype=numpy.int64) for tag in range(tags)]
        order = list(range(tags))
        random.Random(index).shuffle(order)
        handles = {tag: communicator.all_reduce_async(tensors[tag], tag=tag) for tag in order}
        random.Random(index + 100).shuffle(order)
        for tag in order:
            assert handles[tag].tag == tag
            assert handles[tag].wait().world_size == 3
        return tensors

    for tensors in trio.run(reduce):
        assert [set(tensor.tolist()) for tensor in tensors] == [{3 * tag + 3} for tag in range(tags)]


def test_a_tag_can_be_used_again_once_awaited(pair: World) -> None:
    def reduce(index: int, communicator: pccl.Communicator) -> None:
        for turn in range(20):
            tensor = numpy.full(10, turn, dtype=numpy.int32)
            communicator.all_reduce_async(tensor, tag=2**64 - 1).wait()
            assert (tensor == 2 * turn).all()

    pair.run(reduce)


def test_a_tag_in_flight_cannot_be_used_again(pair: World) -> None:
    tensors = [numpy.ones(4), numpy.ones(4)]
    first = pair.communicators[0].all_reduce_async(tensors[0], tag=5)
    with pytest.raises(pccl.InvalidArgumentError, match="tag 5"):
        pair.communicators[0].all_reduce_async(numpy.ones(4), tag=5)
    second = pair.communicators[1].all_reduce_async(tensors[1], tag=5)
    in_threads([first.wait, second.wait])
    assert all((tensor == 2).all() for tensor in tensors)


def test_waiting_again_or_from_several_threads_gives_the_same_outcome(pair: World) -> None:
    tensors = [numpy.ones(1000), numpy.ones(1000)]
    handles = [c.all_reduce_async(t, tag=1) for c, t in zip(pair.communicators, tensors)]
    infos = in_threads([handles[0].wait] * 4 + [handles[1].wait])
    assert len(set(infos[:4])) == 1
    assert handles[0].wait() == infos[0]
    assert "ended" in repr(handles[0])


def test_a_join_point_refuses_operations_in_flight(pair: World) -> None:
    handles = [c.all_reduce_async(numpy.ones(4), tag=1) for c in pair.communicators]
    for communicator in pair.communicators:
        with pytest.raises(pccl.PendingAsyncOpsError, match="wait"):
            communicator.update_topology()
    in_threads([handle.wait for handle in handles])
    pair.run(lambda _, communicator: communicator.update_topology())


def test_asking_for_pending_peers_is_legal_while_operations_run(pair: World) -> None:
    handles = [c.all_reduce_async(numpy.ones(4), tag=1) for c in pair.communicators]
    assert pair.run(lambda _, communicator: communicator.are_peers_pending()) == [False, False]
    in_threads([handle.wait for handle in handles])


def test_the_handle_keeps_the_buffer_alive(pair: World) -> None:
    class Tensor(numpy.ndarray):
        """An array that can be referenced weakly."""

    tensor = numpy.ones(4).view(Tensor)
    gone = weakref.ref(tensor)
    handle = pair.communicators[0].all_reduce_async(tensor, tag=9)
    del tensor
    gc.collect()
    assert gone() is not None
    other = pair.communicators[1].all_reduce_async(numpy.ones(4), tag=9)
    in_threads([handle.wait, other.wait])
    del handle
    gc.collect()
    assert gone() is None


def test_a_bytearray_cannot_be_resized_while_it_is_lent(pair: World) -> None:
    buffers = [bytearray(b"\1" * 8), bytearray(b"\2" * 8)]
    handles = [c.all_reduce_async(b, tag=9) for c, b in zip(pair.communicators, buffers)]
    with pytest.raises(BufferError):
        buffers[0].append(0)
    in_threads([handle.wait for handle in handles])
    assert buffers == [b"\3" * 8] * 2


def test_a_dropped_handle_warns_and_its_tag_and_join_points_still_work(pair: World) -> None:
    def drop(index: int, communicator: pccl.Communicator) -> None:
        handle = communicator.all_reduce_async(numpy.ones(4), tag=3)
        handle.__del__()
        handle._communicator = None  # type: ignore[assignment]  # what the second __del__, the real one, then sees

    with pytest.warns(ResourceWarning, match="tag 3 was never awaited"):
        pair.run(drop)
    assert [len(communicator._abandoned) for communicator in pair.communicators] == [1, 1]
    pair.run(lambda _, communicator: communicator.all_reduce(numpy.ones(4), tag=3))
    assert [len(communicator._abandoned) for communicator in pair.communicators] == [0, 0]
    with pytest.warns(ResourceWarning):
        pair.run(drop)
    pair.run(lambda _, communicator: communicator.update_topology())


def test_an_operation_of_a_destroyed_communicator_says_so(new_world: Callable[[int], World]) -> None:
    world = new_world(2)
    handle = world.communicators[0].all_reduce_async(numpy.ones(4))
    world.communicators[0].destroy()
    with pytest.raises(pccl.InvalidUsageError, match="destroyed"):
        handle.wait()


def test_a_communicator_cannot_be_destroyed_under_a_thread_that_is_inside_a_call(
    new_world: Callable[[int], World],
) -> None:
    first, second = new_world(2).communicators
    waiting = threading.Thread(target=first.all_reduce_async(numpy.ones(4)).wait, daemon=True)
    waiting.start()
    while first._lifetime.calls == 0:
        pass
    with pytest.raises(pccl.InvalidUsageError, match="inside calls"):
        first.destroy()
    with pytest.raises(ZeroDivisionError), first:
        raise ZeroDivisionError("is not hidden by the refusal to destroy")
    second.all_reduce(numpy.ones(4))
    waiting.join()
    first.destroy()


@pytest.mark.parametrize("max_in_flight", [1, 4, 100])
def test_several_tensors_at_once(trio: World, max_in_flight: int) -> None:
    def reduce(index: int, communicator: pccl.Communicator) -> None:
        tensors = [numpy.full(100 * (i + 1), i + index, dtype=numpy.float32) for i in range(20)]
        results = [numpy.empty_like(tensor) for tensor in tensors]
        operands = [pccl.ReduceOperand(t, r, pccl.ReduceOp.AVG) for t, r in zip(tensors, results)]
        info = communicator.all_reduce_multiple_with_retry(operands, max_in_flight)
        assert info.world_size == 3 and info.tx_bytes > 0
        assert [set(result.tolist()) for result in results] == [{i + 1.0} for i in range(20)]
        assert [set(tensor.tolist()) for tensor in tensors] == [{float(i + index)} for i in range(20)]

    trio.run(reduce)
