"""All-gather, reduce-scatter, broadcast and barrier, among threads of this process and among processes that die."""

from __future__ import annotations

import threading
from typing import Any

import numpy
import pytest
from cluster import ProcessWorld, World

import pccl


def test_ranks_are_places(trio: World) -> None:
    assert sorted(trio.run(lambda i, c: c.rank)) == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64", "float64"])
def test_blocks_are_gathered_in_the_order_of_ranks(trio: World, dtype: str) -> None:
    def gather(index: int, communicator: pccl.Communicator) -> Any:
        block = numpy.full((2, 5), communicator.rank + 1, dtype)
        everything = numpy.zeros((3, 2, 5), dtype)
        info = communicator.all_gather(block, everything, tag=4)
        assert info.world_size == 3
        assert (block == communicator.rank + 1).all()
        return everything

    for everything in trio.run(gather):
        assert [set(numpy.unique(block)) for block in everything] == [{1}, {2}, {3}]


def test_gather_and_scatter_in_place(trio: World) -> None:
    def both(index: int, communicator: pccl.Communicator) -> Any:
        rank = communicator.rank
        everything = numpy.full(300_000, -1.0, numpy.float32)
        mine = everything[rank * 100_000 : (rank + 1) * 100_000]
        mine[:] = rank
        communicator.all_gather(mine, everything)
        assert (everything.reshape(3, -1) == [[0], [1], [2]]).all()
        communicator.reduce_scatter(everything, mine, pccl.ReduceOp.SUM)
        assert (mine == 3 * rank).all()
        return rank

    assert sorted(trio.run(both)) == [0, 1, 2]


def test_scattered_sums_with_a_codec_are_near_the_true_ones(trio: World) -> None:
    generator = numpy.random.default_rng(1)
    inputs = [generator.normal(size=3 * 1000).astype(numpy.float32) for _ in range(3)]
    true = sum(inputs).reshape(3, -1)  # type: ignore[union-attr]

    def scatter(index: int, communicator: pccl.Communicator) -> Any:
        result = numpy.zeros(1000, numpy.float32)
        info = communicator.reduce_scatter(
            inputs[index], result, tag=2, codec=pccl.Codec(pccl.CodecFormat.MIN_MAX_8), error_feedback=True
        )
        assert info.tx_bytes < 2 * 1000 * 1.1
        return communicator.rank, result

    for rank, result in trio.run(scatter):
        assert 0 < numpy.abs(result - true[rank]).max() < 0.1


@pytest.mark.parametrize("count", [1, 7, 200_000])
@pytest.mark.parametrize("root", [0, 2])
def test_the_root_has_what_all_get(trio: World, count: int, root: int) -> None:
    def send(index: int, communicator: pccl.Communicator) -> Any:
        buffer = numpy.arange(count, dtype=numpy.int32) * (communicator.rank + 1)
        communicator.broadcast(buffer, root, tag=9)
        return buffer

    for buffer in trio.run(send):
        assert (buffer == numpy.arange(count) * (root + 1)).all()


def test_nobody_passes_a_barrier_before_the_last_has_come(trio: World) -> None:
    come = threading.Event()

    def meet(index: int, communicator: pccl.Communicator) -> None:
        if index == 2:
            # The others have come, for they are in flight.
            communicator.all_reduce(numpy.ones(1), tag=3)
            come.set()
            communicator.barrier(tag=8)
        else:
            handle = communicator.all_reduce_async(numpy.ones(1), tag=3)
            communicator.barrier(tag=8)
            assert come.is_set()
            handle.wait()

    trio.run(meet)


def test_several_at_once_and_later(trio: World) -> None:
    def many(index: int, communicator: pccl.Communicator) -> Any:
        rank = communicator.rank
        gathered = [numpy.zeros(3 * 50, numpy.float64) for _ in range(5)]
        scattered = numpy.zeros(2, numpy.int16)
        root = numpy.full(4, rank, numpy.uint8)
        handles = [
            communicator.all_gather_async(numpy.full(50, rank * 10 + n, numpy.float64), gathered[n], tag=n)
            for n in range(5)
        ]
        handles.append(communicator.reduce_scatter_async(numpy.arange(6, dtype=numpy.int16), scattered, tag=10))
        handles.append(communicator.broadcast_async(root, root=1, tag=11))
        for handle in handles:
            assert handle.wait().world_size == 3
        assert all((gathered[n].reshape(3, 50) == [[n], [10 + n], [20 + n]]).all() for n in range(5))
        assert (scattered == 3 * numpy.arange(2 * rank, 2 * rank + 2)).all()
        assert (root == 1).all()
        return True

    assert trio.run(many) == [True] * 3


def test_different_calls_are_told_apart(pair: World) -> None:
    def differ(index: int, communicator: pccl.Communicator) -> str:
        buffer = numpy.zeros(4, numpy.float32)
        with pytest.raises(pccl.InvalidArgumentError) as caught:
            if index == 0:
                communicator.broadcast(buffer, tag=1)
            else:
                communicator.all_gather(buffer[:2], numpy.zeros(4, numpy.float32), tag=1)
        return str(caught.value)

    pair.run(differ)


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (lambda c: c.all_gather(numpy.zeros(2), numpy.zeros(5)), ValueError, "blocks of 2"),
        (lambda c: c.all_gather(numpy.zeros(2), numpy.zeros(4, numpy.float32)), TypeError, "must be the same"),
        (lambda c: c.all_gather(numpy.zeros(2), numpy.zeros(2)), pccl.InvalidArgumentError, None),
        (lambda c: c.all_gather(numpy.zeros(2), numpy.zeros(6)), pccl.RankConnectionLostError, None),
        (lambda c: c.reduce_scatter(numpy.zeros(4), numpy.zeros(3)), ValueError, "blocks of 3"),
        (lambda c: c.broadcast(numpy.zeros(4), root=2), pccl.InvalidArgumentError, None),
        (lambda c: c.broadcast(numpy.zeros(4), root=-1), ValueError, "root"),
        (lambda c: c.broadcast(numpy.zeros(4), world_size=3), pccl.RankConnectionLostError, None),
        (lambda c: c.barrier(tag=-1), ValueError, "tag"),
    ],
)
def test_what_cannot_be_is_refused_at_once(pair: World, call: Any, kind: Any, text: Any) -> None:
    def refused(index: int, communicator: pccl.Communicator) -> None:
        with pytest.raises(kind, match=text):
            call(communicator)

    pair.run(refused)


def test_a_buffer_that_overlaps_in_part_is_refused(pair: World) -> None:
    def refused(index: int, communicator: pccl.Communicator) -> None:
        everything = numpy.zeros(8)
        with pytest.raises(pccl.InvalidArgumentError):
            communicator.all_gather(everything[2:6], everything)

    pair.run(refused)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "broadcast"])
def test_a_peer_killed_meanwhile_ends_it_for_all_and_the_next_one_is_for_those_left(kind: str) -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer in survivors:
            assert peer.ask("launch_joint", kind=kind, count=400_000) == {"ok": True}
        victim.kill()
        for peer in survivors:
            answer = peer.ask("wait_joint")
            assert answer["error"] == "RankConnectionLostError", answer
            assert answer["input_is_whole"]
        # Who does not know yet that there are two only is told.
        for peer in survivors:
            answer = peer.ask("launch_joint", kind=kind, count=1000, world_size=3)
            assert answer["error"] == "RankConnectionLostError", answer
            assert peer.ask("launch_joint", kind=kind, count=1000) == {"ok": True}
        assert [peer.ask("wait_joint") for peer in survivors] == [{"ok": True, "world_size": 2, "is_right": True}] * 2


def test_a_barrier_goes_on_among_those_who_are_left() -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer in survivors:
            peer.tell("barrier")
        victim.kill()
        assert [peer.hear() for peer in survivors] == [{"ok": True, "world_size": 2}] * 2
