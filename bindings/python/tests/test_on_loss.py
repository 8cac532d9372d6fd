"""The choice of what a loss does, and the parts of a result, as far as nobody need be killed for it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy
import pytest
from cluster import World, in_threads

import pccl
from pccl import _native

PARTS = [(0, 5, 3), (5, 1, 2), (6, 94, 3)]


def test_a_part_is_a_plain_value() -> None:
    part = pccl.ResultPart(first=5, count=1, world_size=2)
    assert part == pccl.ResultPart(5, 1, 2) and len({part, pccl.ResultPart(5, 1, 2)}) == 1
    assert pickle.loads(pickle.dumps(part)) == part
    with pytest.raises(AttributeError):
        part.first = 6  # type: ignore[misc]
    assert pccl.ReduceInfo(3, 0, 0).parts == ()


@pytest.mark.parametrize("on_loss", list(pccl.OnLoss), ids=lambda on_loss: on_loss.name)
@pytest.mark.parametrize("count", [1, 1000, 300_000])
def test_without_a_loss_there_are_no_parts(trio: World, count: int, on_loss: pccl.OnLoss) -> None:
    def reduce(index: int, communicator: pccl.Communicator) -> None:
        tensor = numpy.full(count, 2.0**index)
        info = communicator.all_reduce(tensor, on_loss=on_loss)
        assert (info.world_size, info.parts) == (3, ()) and (tensor == 7).all()
        handle = communicator.all_reduce_async(tensor, op=pccl.ReduceOp.AVG, on_loss=on_loss)
        info = handle.wait()
        assert (info.world_size, info.parts) == (3, ()) and (tensor == 7).all()
        assert handle.wait() is info

    trio.run(reduce)


@pytest.mark.parametrize("on_loss", [None, *pccl.OnLoss])
def test_several_tensors_have_one_policy(trio: World, on_loss: Any) -> None:
    def reduce(index: int, communicator: pccl.Communicator) -> None:
        tensors = [numpy.full(1000, i + 2.0**index) for i in range(8)]
        operands = [pccl.ReduceOperand(tensor) for tensor in tensors]
        info = communicator.all_reduce_multiple_with_retry(operands, 3, on_loss=on_loss)
        assert (info.world_size, info.parts) == (3, ())
        assert [set(tensor.tolist()) for tensor in tensors] == [{3 * i + 7.0} for i in range(8)]

    trio.run(reduce)


def test_peers_may_want_different_things(trio: World) -> None:
    tensors = [numpy.ones(1000) for _ in range(3)]
    infos = trio.run(lambda i, communicator: communicator.all_reduce(tensors[i], on_loss=pccl.OnLoss(i)))
    assert [(info.world_size, info.parts) for info in infos] == [(3, ())] * 3
    assert all((tensor == 3).all() for tensor in tensors)


def test_a_mismatch_is_told_in_the_same_words(new_world: Callable[[int], World]) -> None:
    def mismatched(index: int, communicator: pccl.Communicator) -> None:
        handle = communicator.all_reduce_async(numpy.ones(100 + index), on_loss=pccl.OnLoss.RESUME)
        with pytest.raises(pccl.InvalidArgumentError, match="arguments of this operation do not match"):
            handle.wait()

    new_world(2).run(mismatched)


def test_a_dropped_handle_with_a_policy_is_settled_like_any_other(pair: World) -> None:
    def drop(_: int, communicator: pccl.Communicator) -> None:
        handle = communicator.all_reduce_async(numpy.ones(4), tag=3, on_loss=pccl.OnLoss.RESUME)
        handle.__del__()
        handle._communicator = None  # type: ignore[assignment]  # what the second __del__, the real one, then sees

    with pytest.warns(ResourceWarning, match="tag 3 was never awaited"):
        pair.run(drop)
    pair.run(lambda _, communicator: communicator.update_topology())


class Telling:
    """The library, but that it tells of ``parts`` whenever it is asked, or of as many more as ``left_out`` says."""

    def __init__(self, parts: List[Tuple[int, int, int]], left_out: int = 0) -> None:
        self.library = _native.initialized_library()
        self.parts = parts
        self.left_out = left_out
        self.capacities: List[int] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        if name not in ("pcclAllReduceWithOptions", "pcclAwaitAsyncReduceParts"):
            return function

        def call(*arguments: Any) -> Any:
            *_, array, capacity, count = arguments
            code = function(*arguments)
            self.capacities.append(capacity)
            for index, part in enumerate(self.parts[:capacity]):
                array[index].first_element, array[index].element_count, array[index].world_size = part
            count[0] = len(self.parts) + self.left_out
            return code

        return call


@pytest.fixture
def tell(pair: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[Telling], None]:
    """Has all peers use a library."""

    def use(library: Telling) -> None:
        for communicator in pair.communicators:
            monkeypatch.setattr(communicator, "_library", library)

    return use


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asynchronous"])
def test_parts_are_those_that_the_library_tells_of(
    pair: World, tell: Callable[[Telling], None], is_async: bool
) -> None:
    tell(Telling(PARTS))

    def reduce(_: int, communicator: pccl.Communicator) -> pccl.ReduceInfo:
        tensor = numpy.ones(100)
        if is_async:
            return communicator.all_reduce_async(tensor, on_loss=pccl.OnLoss.RESUME).wait()
        return communicator.all_reduce(tensor, on_loss=pccl.OnLoss.RESUME)

    for info in pair.run(reduce):
        assert info.parts == tuple(pccl.ResultPart(*part) for part in PARTS)
        assert info.world_size == 2  # as the library says
        assert len({info, info}) == 1


@pytest.mark.parametrize(
    "count, on_loss, capacity",
    [
        (3, pccl.OnLoss.RESUME, 3),
        (1_000_000, pccl.OnLoss.RESUME, 1024),
        (1_000_000, pccl.OnLoss.RESUME_WHOLE, 0),
    ],
)
def test_there_is_room_for_as_many_parts_as_there_can_be(
    pair: World, tell: Callable[[Telling], None], count: int, on_loss: pccl.OnLoss, capacity: int
) -> None:
    library = Telling([(0, count, 2)])
    tell(library)
    tensors = [numpy.ones(count), numpy.ones(count)]
    infos = pair.run(lambda i, communicator: communicator.all_reduce(tensors[i], on_loss=on_loss))
    assert [info.parts for info in infos] == [(), ()]
    in_threads([c.all_reduce_async(t, on_loss=on_loss).wait for c, t in zip(pair.communicators, tensors)])
    assert library.capacities == [capacity] * 4


def test_more_parts_than_there_is_room_for_are_an_error_and_not_left_out(
    pair: World, tell: Callable[[Telling], None]
) -> None:
    tell(Telling([(i, 1, 2 + i % 2) for i in range(1024)], left_out=1))
    tensors = [numpy.ones(2000), numpy.ones(2000)]

    def reduce(index: int, communicator: pccl.Communicator) -> None:
        with pytest.raises(pccl.InternalError, match="1025 parts"):
            communicator.all_reduce(tensors[index], on_loss=pccl.OnLoss.RESUME)
        assert (tensors[index] == 2).all()
        handle = communicator.all_reduce_async(tensors[index], on_loss=pccl.OnLoss.RESUME)
        for _ in range(2):
            with pytest.raises(pccl.InternalError, match="1025 parts"):
                handle.wait()
        assert (tensors[index] == 4).all()

    pair.run(reduce)


WITHOUT_EXTENSION = """
import numpy, pccl
from cluster import World

def check(index, communicator):
    tensor = numpy.ones(1000)
    assert communicator.all_reduce(tensor).parts == ()
    assert communicator.all_reduce(tensor, on_loss=pccl.OnLoss.ABORT).parts == ()
    assert communicator.all_reduce_async(tensor).wait().parts == ()
    assert communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(tensor)]).world_size == 2
    assert (tensor == 16).all()
    for refused in (
        lambda: communicator.all_reduce(tensor, on_loss=pccl.OnLoss.RESUME),
        lambda: communicator.all_reduce_async(tensor, on_loss=pccl.OnLoss.RESUME_WHOLE),
        lambda: communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(tensor)], on_loss=pccl.OnLoss.ABORT),
        lambda: communicator.all_reduce(tensor, codec=pccl.Codec(pccl.CodecFormat.INT4)),
        lambda: communicator.all_reduce_async(tensor, error_feedback=True),
        lambda: communicator.free_error_feedback(3),
    ):
        try:
            refused()
        except NotImplementedError as error:
            wishes = "on_loss", "Codec(", "error feedback"
            assert any(wish in str(error) for wish in wishes), error
            assert "no function pccl" in str(error) and pccl.library_path() in str(error)
        else:
            raise AssertionError("it was not refused")
    assert (tensor == 16).all()

with World(2) as world:
    world.run(check)
print("checked")
"""


def test_a_library_without_the_extension_is_good_for_all_else(tmp_path: Path) -> None:
    # The library itself, in which these functions have other names.
    content = Path(pccl.library_path()).read_bytes()
    for name in _native.EXTENSION_FUNCTIONS:
        exported = b"\0" + name.encode() + b"\0"
        assert exported in content
        content = content.replace(exported, exported[:-2] + b"_\0")
    library = tmp_path / "libpccl.so"
    library.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION],
        env={**os.environ, "PCCL_LIBRARY": str(library), "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "checked" in done.stdout, done.stderr
