"""Floats that travel as codes."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from cluster import World

import pccl

COUNT = 200_000

# How far one coding of values up to 1 may be off, and how many bits of a float32 are left with headers.
FORMATS = {
    pccl.CodecFormat.MIN_MAX_8: (1 / 255, 8.5),
    pccl.CodecFormat.MIN_MAX_16: (1 / 65535, 16.5),
    pccl.CodecFormat.ZERO_POINT_8: (2 / 255, 8.5),
    pccl.CodecFormat.ZERO_POINT_16: (2 / 65535, 16.5),
    pccl.CodecFormat.INT4: (1 / 14, 4.8),
    pccl.CodecFormat.INT4_E8M0: (1 / 7, 4.5),
    pccl.CodecFormat.E3M0: (1 / 3, 4.8),
    pccl.CodecFormat.E3M0_E8M0: (1 / 3, 4.5),
    pccl.CodecFormat.E4M3: (1 / 16, 8.8),
    pccl.CodecFormat.E4M3_E8M0: (1 / 16, 8.5),
    pccl.CodecFormat.FLOAT16: (1 / 2048, 16),
    pccl.CodecFormat.BFLOAT16: (1 / 256, 16),
}


def values(index: int) -> Any:
    return numpy.random.default_rng(index).uniform(-1, 1, COUNT).astype(numpy.float32)


@pytest.mark.parametrize("format", list(FORMATS), ids=lambda format: format.name)
def test_averages_are_near_small_and_the_same_everywhere(trio: World, format: pccl.CodecFormat) -> None:
    error, bits = FORMATS[format]

    def reduce(index: int, communicator: pccl.Communicator) -> Any:
        results = []
        for rounding in pccl.Rounding:
            source, target = values(index), numpy.empty(COUNT, dtype=numpy.float32)
            codec = pccl.Codec(format, block=None if rounding else 64, rounding=rounding)
            info = communicator.all_reduce(source, target, op=pccl.ReduceOp.AVG, codec=codec)
            assert info.world_size == 3 and (source == values(index)).all()
            assert info.tx_bytes <= 4 / 3 * COUNT * (bits + 0.5) / 8 * 1.02
            results.append(target)
        return results

    results = trio.run(reduce)
    mean = sum(values(index).astype(numpy.float64) for index in range(3)) / 3
    for rounding in pccl.Rounding:
        assert all((result[rounding] == results[0][rounding]).all() for result in results)
        assert abs(results[0][rounding] - mean).max() <= 2 * error * (1 + rounding) + 1e-6


def test_the_terms_of_pccl_1_are_the_same_codes(pair: World) -> None:
    def reduce(index: int, communicator: pccl.Communicator) -> Any:
        results = []
        for algorithm, format in (
            (pccl.QuantizationAlgorithm.MIN_MAX, pccl.CodecFormat.MIN_MAX_8),
            (pccl.QuantizationAlgorithm.ZERO_POINT_SCALE, pccl.CodecFormat.ZERO_POINT_8),
        ):
            old, new = values(index), values(index)
            options = pccl.QuantizationOptions(pccl.DataType.UINT8, algorithm)
            before = communicator.all_reduce(old, quantization=options)
            after = communicator.all_reduce(new, codec=pccl.Codec(format))
            assert before.tx_bytes == after.tx_bytes and (old == new).all()
            results.append(new)
        whole = numpy.arange(1000)
        communicator.all_reduce(whole, quantization=pccl.QuantizationOptions(pccl.DataType.UINT8))
        assert (whole == 2 * numpy.arange(1000)).all()
        return results

    first, second = pair.run(reduce)
    assert all((a == b).all() for a, b in zip(first, second))


def test_with_error_feedback_the_mean_of_many_results_is_right(pair: World) -> None:
    rounds = 30

    def reduce(index: int, communicator: pccl.Communicator) -> Any:
        sums = numpy.zeros((2, COUNT))
        for feedback in (False, True):
            for _ in range(rounds):
                tensor = values(index)
                communicator.all_reduce(
                    tensor,
                    op=pccl.ReduceOp.AVG,
                    tag=5,
                    codec=pccl.Codec(pccl.CodecFormat.INT4),
                    error_feedback=feedback,
                )
                sums[int(feedback)] += tensor
        handle = communicator.all_reduce_async(values(index), tag=6, codec=pccl.Codec(pccl.CodecFormat.INT4))
        assert handle.wait().world_size == 2
        operands = [pccl.ReduceOperand(values(index)) for _ in range(4)]
        assert communicator.all_reduce_multiple_with_retry(
            operands, codec=pccl.Codec(pccl.CodecFormat.E4M3), error_feedback=True
        ).world_size == 2
        communicator.free_error_feedback(3)
        communicator.free_error_feedback(5)
        with pytest.raises(pccl.InvalidArgumentError, match="tag 5"):
            communicator.free_error_feedback(5)
        return sums / rounds

    mean = (values(0).astype(numpy.float64) + values(1)) / 2
    for result in pair.run(reduce):
        without, with_feedback = abs(result - mean).max(axis=1)
        assert with_feedback < without / 6


def test_what_does_not_go_is_refused(pair: World) -> None:
    communicator = pair.communicators[0]
    floats, integers = numpy.zeros(64, dtype=numpy.float32), numpy.zeros(64, dtype=numpy.int32)
    codec = pccl.Codec(pccl.CodecFormat.INT4)
    with pytest.raises(pccl.InvalidArgumentError, match="codec"):
        communicator.all_reduce(integers, codec=codec)
    with pytest.raises(pccl.InvalidArgumentError, match="codec"):
        communicator.all_reduce(floats, codec=pccl.Codec(pccl.CodecFormat.MIN_MAX_32))
    with pytest.raises(pccl.InvalidArgumentError, match="codec"):
        communicator.all_reduce(floats, op=pccl.ReduceOp.MAX, codec=codec, error_feedback=True)
    with pytest.raises(pccl.InvalidArgumentError, match="codec"):
        communicator.all_reduce(floats, codec=pccl.Codec(pccl.CodecFormat.INT4, block=48))
    with pytest.raises(ValueError, match="codec and quantization"):
        communicator.all_reduce(floats, codec=codec, quantization=pccl.QuantizationOptions(pccl.DataType.UINT8))
    with pytest.raises(TypeError, match=r"expected pccl\.Codec"):
        communicator.all_reduce(floats, codec="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        communicator.all_reduce(floats, codec=pccl.Codec(99))  # type: ignore[arg-type]
    assert (floats == 0).all()
