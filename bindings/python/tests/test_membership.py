"""Masters, joining, leaving, attributes."""

from __future__ import annotations

import threading
from typing import Any, Callable

import numpy
import pytest
from cluster import World, free_port, in_threads, join_until, start_master

import pccl


def test_the_first_peer_is_admitted_at_once() -> None:
    master, address = start_master()
    with master, pccl.Communicator(address) as communicator:
        communicator.connect()
        assert communicator.world_size == 1
        assert communicator.are_peers_pending() is False
        communicator.update_topology()
        assert communicator.world_size == 1


def test_connecting_twice_is_refused() -> None:
    master, address = start_master()
    with master, pccl.Communicator(address) as communicator:
        communicator.connect()
        with pytest.raises(pccl.InvalidUsageError, match="already"):
            communicator.connect()


def test_a_lone_peer_cannot_reduce_and_its_buffer_is_whole() -> None:
    master, address = start_master()
    with master, pccl.Communicator(address) as communicator:
        communicator.connect()
        tensor = numpy.arange(8.0)
        with pytest.raises(pccl.TooFewPeersError, match="alone"):
            communicator.all_reduce(tensor)
        with pytest.raises(pccl.TooFewPeersError):
            communicator.all_reduce_async(tensor)
        with pytest.raises(pccl.TooFewPeersError):
            communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(tensor)])
        assert tensor.tolist() == list(range(8))


def test_a_newcomer_is_pending_until_the_join_point() -> None:
    master, address = start_master()
    with master, pccl.Communicator(address) as member, pccl.Communicator(address) as newcomer:
        member.connect()
        admitted = threading.Thread(target=newcomer.connect, daemon=True)
        admitted.start()
        while not member.are_peers_pending():
            assert member.world_size == 1
        member.update_topology()
        admitted.join()
        assert (member.world_size, newcomer.world_size) == (2, 2)
        assert in_threads([member.are_peers_pending, newcomer.are_peers_pending]) == [False, False]


def test_peers_come_one_after_another_and_every_result_counts_them() -> None:
    master, address = start_master()
    communicators = [pccl.Communicator(address) for _ in range(3)]
    try:
        communicators[0].connect()
        for size in (2, 3):
            members, newcomer = communicators[: size - 1], communicators[size - 1]
            tasks: "list[Callable[[], Any]]" = [lambda c=c, s=size: join_until(c, s) for c in members]
            in_threads(tasks + [newcomer.connect])
            tensors = [numpy.ones(10, dtype=numpy.int32) for _ in range(size)]
            infos = in_threads([lambda c=c, t=t: c.all_reduce(t) for c, t in zip(communicators, tensors)])
            assert [info.world_size for info in infos] == [size] * size
            assert all((tensor == size).all() for tensor in tensors)
    finally:
        for communicator in communicators:
            communicator.destroy()
        master.destroy()


def test_groups_reduce_apart_and_attributes_tell_them_apart() -> None:
    master, address = start_master()
    groups = [0, 0, 7]
    communicators = [pccl.Communicator(address, peer_group=group) for group in groups]
    try:

        def admit(communicator: pccl.Communicator, size: int) -> None:
            communicator.connect()
            join_until(communicator, size)

        in_threads([lambda c=c, g=g: admit(c, groups.count(g)) for c, g in zip(communicators, groups)])
        assert [c.world_size for c in communicators] == [2, 2, 1]
        # The view of the other group is news that arrives, and get_attribute() does not wait for it.
        for communicator in communicators:
            while communicator.get_attribute(pccl.Attribute.GLOBAL_WORLD_SIZE) < 3:
                pass
            assert communicator.get_attribute(pccl.Attribute.NUM_DISTINCT_PEER_GROUPS) == 2
            assert communicator.get_attribute(pccl.Attribute.LARGEST_PEER_GROUP_WORLD_SIZE) == 2
        tensors = [numpy.ones(5), numpy.ones(5)]
        in_threads([lambda c=c, t=t: c.all_reduce(t) for c, t in zip(communicators[:2], tensors)])
        assert all((tensor == 2).all() for tensor in tensors)
    finally:
        for communicator in communicators:
            communicator.destroy()
        master.destroy()


def test_a_peer_that_leaves_is_missed_by_the_next_operation(new_world: Callable[[int], World]) -> None:
    world = new_world(3)
    world.communicators.pop().destroy()

    def reduce(index: int, communicator: pccl.Communicator) -> "tuple[int, float]":
        while True:
            tensor = numpy.ones(100)
            try:
                return communicator.all_reduce(tensor).world_size, float(tensor.sum())
            except pccl.RankConnectionLostError:
                assert tensor.sum() == 100

    assert world.run(reduce) == [(2, 200.0)] * 2


def test_the_topology_is_optimised_by_all_together(new_world: Callable[[int], World]) -> None:
    world = new_world(3)

    def work(index: int, communicator: pccl.Communicator) -> "list[float]":
        sums = []
        for _ in range(2):
            tensor = numpy.full(300_000, index, dtype=numpy.float32)
            operation = communicator.all_reduce_async(tensor)
            with pytest.raises(pccl.TopologyOptimizationFailedError):
                communicator.optimize_topology()
            operation.wait()
            sums.append(float(tensor[-1]))
            communicator.optimize_topology()
        assert communicator.world_size == 3
        return sums

    assert world.run(work) == [[3.0, 3.0]] * 3


def test_connecting_without_a_master_fails_and_may_be_tried_again() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pccl.Communicator(address) as communicator:
        with pytest.raises(pccl.MasterConnectionFailedError, match=address):
            communicator.connect()
        with pytest.raises(pccl.MasterConnectionFailedError):
            communicator.connect(attempts=3, interval=0.01)
        late = threading.Thread(target=lambda: communicator.connect(attempts=1000, interval=0.05), daemon=True)
        late.start()
        with pccl.MasterNode(address) as master:
            master.run()
            late.join()
            assert communicator.world_size == 1


def test_a_busy_port_is_refused() -> None:
    master, address = start_master()
    with master, pccl.MasterNode(address) as second:
        with pytest.raises(pccl.InvalidUsageError, match="in use"):
            second.run()


def test_a_master_runs_once_and_ends_when_interrupted() -> None:
    master, _ = start_master()
    with pytest.raises(pccl.InvalidUsageError):
        master.run()
    waiting = threading.Thread(target=master.await_termination, daemon=True)
    waiting.start()
    master.interrupt()
    master.interrupt()
    waiting.join()
    master.await_termination()
    master.destroy()
    master.destroy()
    with pytest.raises(pccl.InvalidUsageError, match="destroyed"):
        master.interrupt()


def test_destroying_a_master_ends_the_threads_that_await_it() -> None:
    master, _ = start_master()
    waiting = threading.Thread(target=master.await_termination, daemon=True)
    waiting.start()
    while master._lifetime.calls == 0 and waiting.is_alive():
        pass
    master.destroy()
    waiting.join()


def test_a_master_that_does_not_run_cannot_be_awaited() -> None:
    with pccl.MasterNode(f"127.0.0.1:{free_port()}") as master:
        with pytest.raises(pccl.InvalidUsageError, match="run"):
            master.interrupt()
        with pytest.raises(pccl.InvalidUsageError, match="run"):
            master.await_termination()


def test_ipv6_works() -> None:
    address = f"[::1]:{free_port()}"
    with pccl.MasterNode(address) as master:
        try:
            master.run()
        except pccl.InvalidUsageError:
            pytest.skip("this machine has no IPv6 loopback address")
        with pccl.Communicator(address) as communicator:
            communicator.connect()
            assert communicator.world_size == 1
