"""Memory that is lent by DLPack: taken as it is, refused in words, and given back once, when it is not used any more."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import ml_dtypes
import numpy
import pytest
from cluster import World, in_threads
from lender import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, IS_COPIED, READ_ONLY, Lender, OnlyDLPack, capsule_name

import pccl

TYPES = ["uint8", "int8", "int16", "uint16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]


@pytest.fixture
def communicator() -> Iterator[pccl.Communicator]:
    with pccl.Communicator("127.0.0.1:48148") as unconnected:
        yield unconnected


def ones(count: int = 4) -> numpy.ndarray:
    return numpy.ones(count, numpy.float32)


# What is taken


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 1, 5)])
def test_arrays_that_numpy_lends_are_reduced_where_they_lie(pair: World, name: str, shape: Any) -> None:
    arrays = [numpy.full(shape, value, name) for value in (3, 4)]
    results = [numpy.zeros(shape, name) for _ in arrays]
    pair.run(lambda i, c: c.all_reduce(OnlyDLPack(arrays[i]), OnlyDLPack(results[i])))
    assert all((result == 7).all() for result in results) and (arrays[0] == 3).all()
    pair.run(lambda i, c: c.all_reduce(OnlyDLPack(arrays[i])))
    assert all((array == 7).all() for array in arrays)


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
@pytest.mark.parametrize("name", [*TYPES, "bfloat16"])
def test_every_type_has_its_code(pair: World, name: str, version: Any) -> None:
    dtype = numpy.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    arrays = [numpy.full(5, value, dtype) for value in (3, 4)]
    lenders = [Lender.of(array, version=version) for array in arrays]
    pair.run(lambda i, c: c.all_reduce(lenders[i], op=pccl.ReduceOp.MAX))
    assert all((array == 4).all() for array in arrays)
    assert all(lender.given == 1 and lender.is_settled for lender in lenders)


@pytest.mark.parametrize(
    "shape, other",
    [
        ((2, 3), {"strides": (3, 1)}),
        ((2, 1, 3), {"strides": (3, 77, 1)}),
        ((1, 6), {"strides": (0, 1)}),
        ((), {"strides": ()}),
        ((2, 3), {"byte_offset": 8}),
        ((6,), {"device": (CUDA_HOST, 0)}),
        ((6,), {"has_deleter": False}),
    ],
)
def test_strides_that_are_compact_and_offsets_are_understood(pair: World, shape: Any, other: Dict[str, Any]) -> None:
    arrays = [numpy.arange(8, dtype=numpy.float32) for _ in range(2)]
    lenders = [Lender.of(array, **other) for array in arrays]
    for lender in lenders:
        lender.shape = shape
    pair.run(lambda i, c: c.all_reduce(lenders[i]))
    first, count = other.get("byte_offset", 0) // 4, int(numpy.prod(shape))
    for array in arrays:
        expected = numpy.arange(8, dtype=numpy.float32)
        expected[first : first + count] *= 2
        assert (array == expected).all()


@pytest.mark.parametrize(
    "knows, asked",
    [
        (("stream", "max_version", "dl_device", "copy"), {"max_version": (1, 0), "copy": False}),
        (("stream", "max_version"), {"max_version": (1, 0)}),
        (("stream",), {}),
        ((), {}),
    ],
)
@pytest.mark.parametrize("device", [CPU, CUDA_HOST])
def test_a_producer_is_asked_for_what_it_knows_and_for_no_stream_of_the_host(
    pair: World, knows: Any, asked: Any, device: int
) -> None:
    lenders = [Lender.of(ones(), knows=knows, device=(device, 0)) for _ in range(2)]
    pair.run(lambda i, c: c.all_reduce(lenders[i]))
    assert all(lender.calls == [asked] and lender.is_settled for lender in lenders)


def test_what_is_read_may_be_read_only_or_a_copy(pair: World) -> None:
    frozen = ones()
    frozen.flags.writeable = False
    sources = [OnlyDLPack(frozen), Lender.of(ones(), version=(1, 0), flags=READ_ONLY | IS_COPIED)]
    results = [ones(), ones()]
    pair.run(lambda i, c: c.all_reduce(sources[i], results[i]))
    assert all((result == 2).all() for result in results)
    assert sources[1].is_settled


@pytest.mark.parametrize("module", ["jax", "jaxlib._jax", "tensorflow.python.framework.ops"])
def test_constants_of_libraries_that_do_not_say_so_are_not_written(pair: World, module: str) -> None:
    # As JAX 0.10 does, whatever version it is asked for.
    constant = type("Array", (Lender,), {"__module__": module})
    sources, results = [constant.of(ones()) for _ in range(2)], [ones(), ones()]
    pair.run(lambda i, c: c.all_reduce(sources[i], results[i]))
    assert all((result == 2).all() for result in results)
    with pytest.raises(ValueError, match="send is read-only"):
        pair.communicators[0].all_reduce(sources[0])
    with pytest.raises(ValueError, match="recv is read-only"):
        pair.communicators[0].all_reduce(ones(), sources[0])
    assert sources[0].given == 3 and sources[0].is_settled


def test_the_buffer_protocol_comes_first(pair: World) -> None:
    class Both(numpy.ndarray):
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("asked")

    pair.run(lambda i, c: c.all_reduce(ones().view(Both)))


def test_every_collective_takes_it(pair: World) -> None:
    def run(index: int, communicator: pccl.Communicator) -> List[Lender]:
        own, both = Lender.of(ones(3)), Lender.of(ones(6))
        communicator.all_gather(own, both)
        communicator.all_gather_async(own, both).wait()
        communicator.reduce_scatter(both, own)
        communicator.reduce_scatter_async(both, own).wait()
        communicator.broadcast(own)
        communicator.broadcast_async(own).wait()
        operands = [pccl.ReduceOperand(own), pccl.ReduceOperand(both)]
        communicator.all_reduce_multiple_with_retry(operands)
        state = pccl.SharedState.from_mapping({"own": own, "both": both})
        communicator.sync_shared_state(state)
        assert (own.given, both.given) == (8, 6)
        return [own, both]

    for lenders in pair.run(run):
        assert all(lender.is_settled for lender in lenders)
        assert lenders[0].keep.tolist() == [4, 4, 4] and lenders[1].keep.tolist() == [2] * 6


def test_snapshots_have_its_shape(tmp_path: Path) -> None:
    lender = Lender.of(numpy.arange(6, dtype=numpy.int16).reshape(2, 3))
    state = pccl.SharedState.from_mapping({"weights": lender}, revision=4)
    state.save(tmp_path, background=False).wait()
    lender.keep[:] = 0
    state.load(tmp_path)
    assert (lender.keep == numpy.arange(6).reshape(2, 3)).all() and lender.given == 2 and lender.is_settled
    assert b'"shape":[2,3]' in next(tmp_path.glob("*.safetensors")).read_bytes().replace(b" ", b"")


def test_diloco_borrows_it_until_it_is_closed(pair: World) -> None:
    lenders = [Lender.of(numpy.ones((2, 2), numpy.float32)) for _ in range(2)]

    def train(index: int, communicator: pccl.Communicator) -> None:
        diloco = pccl.diloco.DiLoCo({"w": lenders[index]}, None, communicator, sync_every=1, outer="descent")
        with diloco:
            lenders[index].keep += index
            diloco.step()
            assert lenders[index].deleted == []
        diloco.close()

    pair.run(train)
    assert all(lender.given == 1 and lender.is_settled for lender in lenders)
    assert (lenders[0].keep == lenders[1].keep).all()


# When it is given back


def test_numpy_has_its_references_back(pair: World) -> None:
    array = ones()
    before = sys.getrefcount(array)
    handle = pair.communicators[0].all_reduce_async(OnlyDLPack(array), tag=9)
    assert sys.getrefcount(array) > before
    other = pair.communicators[1].all_reduce_async(ones(), tag=9)
    in_threads([handle.wait, other.wait])
    assert sys.getrefcount(array) == before
    with pytest.raises(ValueError):
        pair.communicators[0].all_reduce(OnlyDLPack(array), ones(5))
    assert sys.getrefcount(array) == before


def test_a_capsule_is_marked_as_used(pair: World) -> None:
    for version, name in ((None, b"used_dltensor"), ((1, 0), b"used_dltensor_versioned")):
        lenders = [Lender.of(ones(), version=version) for _ in range(2)]
        pair.run(lambda i, c: c.all_reduce(lenders[i]))
        assert all(capsule_name(lender.capsules[0]) == name for lender in lenders)


def test_an_operation_in_flight_keeps_it_until_it_was_awaited(pair: World) -> None:
    sources, results = [[Lender.of(ones()) for _ in range(2)] for _ in range(2)]
    handles = [c.all_reduce_async(sources[i], results[i]) for i, c in enumerate(pair.communicators)]
    gc.collect()
    assert [lender.deleted for lender in sources + results] == [[]] * 4
    in_threads([handle.wait for handle in handles])
    assert all(lender.given == 1 and lender.is_settled for lender in sources + results)
    in_threads([handle.wait for handle in handles])
    del handles
    gc.collect()
    assert all(lender.is_settled for lender in sources + results)


def test_an_operation_that_is_never_awaited_keeps_it_until_it_is_settled(pair: World) -> None:
    lenders = [Lender.of(ones()) for _ in range(2)]

    def drop(index: int, communicator: pccl.Communicator) -> None:
        communicator.all_reduce_async(lenders[index], tag=3)

    with pytest.warns(ResourceWarning, match="tag 3 was never awaited"):
        for index, communicator in enumerate(pair.communicators):
            drop(index, communicator)
            gc.collect()
    assert [lender.deleted for lender in lenders] == [[], []]
    pair.run(lambda i, c: c.update_topology())
    assert all(lender.given == 1 and lender.is_settled for lender in lenders)


def test_the_end_of_a_communicator_gives_it_back(new_world: Callable[[int], World]) -> None:
    world = new_world(2)
    dropped, held = Lender.of(ones()), Lender.of(ones())
    handle = world.communicators[0].all_reduce_async(held, tag=1)
    with pytest.warns(ResourceWarning, match="never awaited"):
        world.communicators[0].all_reduce_async(dropped, tag=2)
        gc.collect()
    assert dropped.deleted == held.deleted == []
    world.communicators[0].destroy()
    assert dropped.is_settled
    with pytest.raises(pccl.InvalidUsageError):
        handle.wait()
    del handle
    gc.collect()
    assert held.given == 1 and held.is_settled


def test_a_failing_operation_gives_it_back_before_the_error_is_handled(pair: World) -> None:
    def fail(index: int, communicator: pccl.Communicator, launch: Any) -> Lender:
        lender = Lender.of(ones(4 + index))
        with pytest.raises(pccl.InvalidArgumentError) as raised:
            launch(communicator, lender)
        # The traceback, which has the frames of the call, is alive.
        assert raised.tb is not None and lender.given == 1 and lender.is_settled
        return lender

    pair.run(lambda i, c: fail(i, c, lambda c, lender: c.all_reduce(lender)))
    pair.run(lambda i, c: fail(i, c, lambda c, lender: c.all_reduce_async(lender).wait()))
    pair.run(lambda i, c: fail(i, c, lambda c, lender: c.broadcast(lender)))


def test_a_call_that_is_refused_by_the_library_gives_it_back(communicator: pccl.Communicator, tmp_path: Path) -> None:
    lender, both = Lender.of(ones()), Lender.of(ones(8))
    state = pccl.SharedState.from_mapping({"weights": lender})
    calls: List[Callable[[], Any]] = [
        lambda: communicator.all_reduce(lender),
        lambda: communicator.all_reduce(lender, lender),
        lambda: communicator.all_reduce_async(lender),
        lambda: communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(lender)]),
        lambda: communicator.all_gather(lender, both),
        lambda: communicator.all_gather_async(lender, both),
        lambda: communicator.reduce_scatter_async(both, lender),
        lambda: communicator.broadcast_async(lender),
        lambda: communicator.sync_shared_state(state),
        lambda: state.load(tmp_path / "nothing"),
    ]
    for call in calls:
        given = lender.given
        with pytest.raises(pccl.PCCLError) as raised:
            call()
        assert raised.tb is not None and lender.given > given and lender.is_settled and both.is_settled


# What is refused


def unreadable(**other: Any) -> Callable[[], Lender]:
    return lambda: Lender.of(ones(), **other)


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (unreadable(element=(6, 8, 1)), TypeError, "type bool, which is not one of uint8"),
        (unreadable(element=(5, 64, 1)), TypeError, "complex64"),
        (unreadable(element=(3, 64, 1)), TypeError, "opaque64"),
        (unreadable(element=(2, 128, 1)), TypeError, "float128"),
        (unreadable(element=(0, 4, 1)), TypeError, "int4"),
        (unreadable(element=(4, 32, 1)), TypeError, "bfloat32"),
        (unreadable(element=(10, 8, 1)), TypeError, "float8_e4m3fn"),
        (unreadable(element=(17, 4, 1)), TypeError, "float4_e2m1fn"),
        (unreadable(element=(99, 8, 1)), TypeError, "DLPack code 99"),
        (unreadable(element=(2, 32, 4)), TypeError, "float32 in vectors of 4"),
        (lambda: Lender.of(numpy.ones((2, 2)), strides=(1, 2)), ValueError, r"strides \(1, 2\).*C-contiguous"),
        (lambda: Lender.of(numpy.ones((2, 2)), strides=(3, 1)), ValueError, "C-contiguous"),
        (unreadable(strides=(-1,)), ValueError, "C-contiguous"),
        (unreadable(strides=(0,)), ValueError, "C-contiguous"),
        (lambda: Lender(0, (4,)), ValueError, "no memory"),
        (lambda: Lender(0, (4,), byte_offset=64), ValueError, "no memory"),
        (lambda: Lender(0, (0,)), ValueError, "no elements"),
        (lambda: Lender.of(numpy.ones((3, 0)), strides=(0, 1)), ValueError, "no elements"),
        (lambda: Lender(64, (-2, -2)), ValueError, r"shape \(-2, -2\)"),
        (unreadable(version=(1, 0), flags=READ_ONLY), ValueError, "read-only"),
        (unreadable(version=(1, 0), flags=IS_COPIED), ValueError, "was copied"),
        (unreadable(version=(2, 0)), ValueError, "DLPack 2; 1 is understood"),
        (unreadable(version=(0, 9)), ValueError, "DLPack 0; 1 is understood"),
        (unreadable(real_device=(CUDA, 0)), ValueError, "said to be on a device of type CPU.* and is on .* CUDA"),
    ],
)
def test_what_cannot_be_lent_is_refused_and_given_back(
    communicator: pccl.Communicator, make: Callable[[], Lender], kind: Any, text: str
) -> None:
    good = Lender.of(ones())
    state = pccl.SharedState.from_mapping({"good": good, "bad": make()})
    bad = state.tensors[1].data
    operands = [pccl.ReduceOperand(good), pccl.ReduceOperand(bad)]
    calls: List[Callable[[], Any]] = [
        lambda: communicator.all_reduce(bad),
        lambda: communicator.all_reduce(good, bad),
        lambda: communicator.all_reduce_async(bad),
        lambda: communicator.all_reduce_multiple_with_retry(operands),
        lambda: communicator.all_gather(good, bad),
        lambda: communicator.reduce_scatter_async(good, bad),
        lambda: communicator.broadcast(bad),
        lambda: communicator.sync_shared_state(state),
        lambda: state.load("/nowhere"),
    ]
    for number, call in enumerate(calls, 1):
        with pytest.raises(kind, match=text) as raised:
            call()
        assert raised.tb is not None and bad.given == number and bad.is_settled and good.is_settled
    assert good.given == 6


@pytest.mark.parametrize(
    "device, name",
    [
        (4, "OpenCL"),
        (7, "Vulkan"),
        (8, "Metal"),
        (10, "ROCm"),
        (11, "ROCm host"),
        (14, "oneAPI"),
        (18, "Trainium"),
        (99, "99"),
    ],
)
def test_other_devices_are_refused_by_name_and_not_asked(
    communicator: pccl.Communicator, device: int, name: str
) -> None:
    lender = Lender.of(ones(), device=(device, 2))
    with pytest.raises(ValueError, match=rf"send is on a device of type {name} \(2\); only memory of the CPU and of CUDA"):
        communicator.all_reduce(lender)
    assert lender.given == 0


@pytest.mark.parametrize("device", [CUDA, CUDA_MANAGED])
def test_a_device_that_is_not_there_is_refused_with_the_reason(communicator: pccl.Communicator, device: int) -> None:
    if pccl.cuda_status().is_ready:
        pytest.skip("there is a CUDA driver here")
    lender = Lender.of(ones(), device=(device, 0))
    with pytest.raises(ValueError, match="type CUDA.*there is no CUDA driver"):
        communicator.all_reduce(lender)
    assert lender.given == 0


def test_snapshots_refuse_devices_that_are_not_cudas(tmp_path: Path) -> None:
    lender = Lender.of(ones(), device=(10, 0))
    with pytest.raises(ValueError, match="only memory of the CPU and of CUDA devices"):
        pccl.SharedState.from_mapping({"weights": lender}).save(tmp_path)
    assert lender.given == 0


def test_a_producer_that_refuses_is_quoted(communicator: pccl.Communicator) -> None:
    class Refusing(Lender):
        error: Exception = BufferError("it is sparse")

        def __dlpack__(self, **arguments: Any) -> Any:
            raise self.error

    refusing = Refusing(64, (1,))
    for refusing.error in (BufferError("it is sparse"), TypeError("it is sparse"), RuntimeError("it is sparse")):
        with pytest.raises(ValueError, match="send cannot be lent by DLPack: it is sparse"):
            communicator.all_reduce(refusing)
    with pytest.raises(ValueError, match="send cannot be lent by DLPack"):
        communicator.all_reduce(OnlyDLPack(numpy.zeros(3, ml_dtypes.bfloat16)))


def test_what_is_no_unused_capsule_is_refused(communicator: pccl.Communicator) -> None:
    class Strange(Lender):
        answer: Any = None

        def __dlpack__(self, **arguments: Any) -> Any:
            return self.answer

    lender = Lender.of(ones())
    with pytest.raises(pccl.InvalidUsageError):
        communicator.all_reduce(lender)
    strange = Strange(64, (1,))
    for strange.answer in (None, 3, lender.capsules[0]):
        with pytest.raises(TypeError, match="no unused DLPack capsule"):
            communicator.all_reduce(strange)
    assert lender.is_settled


def test_without_a_device_it_is_no_dlpack(communicator: pccl.Communicator) -> None:
    class Half:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("asked")

    with pytest.raises(TypeError, match="__cuda_array_interface__ or DLPack"):
        communicator.all_reduce(Half())
