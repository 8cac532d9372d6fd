"""torch tensors on the CPU. Skipped, with a line in the summary, where torch is not installed."""

from __future__ import annotations

from typing import Any

import pytest
from cluster import World, in_threads
from lender import OnlyDLPack

import pccl

torch: Any = pytest.importorskip("torch", reason="torch is not installed: torch tensors are NOT tested")

TYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("name", TYPES)
def test_tensors_of_every_type_are_reduced(pair: World, name: str) -> None:
    dtype = getattr(torch, name)
    tensors = [torch.arange(50).to(dtype), torch.ones(50).to(dtype)]
    wanted = tensors[0] + tensors[1]
    results = [torch.zeros_like(tensor) for tensor in tensors]
    pair.run(lambda i, communicator: communicator.all_reduce(tensors[i], results[i]))
    assert all(torch.equal(result, wanted) for result in results)
    pair.run(lambda i, communicator: communicator.all_reduce(tensors[i]))
    assert all(torch.equal(tensor, wanted) for tensor in tensors)


@pytest.mark.parametrize("name", [*TYPES, "uint16", "uint32", "uint64"])
def test_what_torch_lends_by_dlpack_is_reduced_where_it_lies(pair: World, name: str) -> None:
    tensors = [torch.full((5, 3), value).to(getattr(torch, name)) for value in (3, 4)]
    results = [torch.zeros_like(tensor) for tensor in tensors]
    pair.run(lambda i, communicator: communicator.all_reduce(OnlyDLPack(tensors[i]), OnlyDLPack(results[i])))
    assert all(result.double().eq(7).all() for result in results) and tensors[0].double().eq(3).all()
    handles = [c.all_reduce_async(OnlyDLPack(tensors[i][1:4])) for i, c in enumerate(pair.communicators)]
    in_threads([handle.wait for handle in handles])
    assert all(tensor.double()[:, 0].tolist()[1:4] == [7, 7, 7] for tensor in tensors)


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: torch.zeros(4, 4)[:, ::2], ValueError, "C-contiguous"),
        (lambda: torch.zeros(4, dtype=torch.bool), TypeError, "bool"),
        (lambda: torch.zeros(4, dtype=torch.complex64), TypeError, "complex64"),
        (lambda: torch.zeros(4, requires_grad=True), ValueError, "cannot be lent by DLPack"),
        (lambda: torch.zeros(0), ValueError, "no elements"),
        (lambda: torch.zeros(4, device="meta"), ValueError, "DLPack"),
    ],
)
def test_what_torch_lends_by_dlpack_and_cannot_be_used_is_refused(make: Any, kind: Any, text: str) -> None:
    with pccl.Communicator("127.0.0.1:48148") as communicator, pytest.raises(kind, match=text):
        communicator.all_reduce(OnlyDLPack(make()))


def test_bfloat16_average_is_rounded_once(pair: World) -> None:
    tensors = [torch.full((7,), value, dtype=torch.bfloat16) for value in (1.0, 1.0078125)]
    wanted = ((tensors[0].float() + tensors[1].float()) / 2).bfloat16()
    pair.run(lambda i, communicator: communicator.all_reduce(tensors[i], op=pccl.ReduceOp.AVG))
    assert all(torch.equal(tensor, wanted) for tensor in tensors)


def test_gradients_of_a_model_are_averaged(pair: World) -> None:
    models = [torch.nn.Linear(4, 3) for _ in range(2)]
    for index, model in enumerate(models):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float(index))

    def average(index: int, communicator: pccl.Communicator) -> None:
        handles = [
            communicator.all_reduce_async(parameter.grad, op=pccl.ReduceOp.AVG, tag=tag)
            for tag, parameter in enumerate(models[index].parameters())
        ]
        for handle in handles:
            handle.wait()

    pair.run(average)
    assert all((parameter.grad == 0.5).all() for model in models for parameter in model.parameters())


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: torch.zeros(4, 4)[:, ::2], ValueError, r"contiguous\(\)"),
        (lambda: torch.zeros(4, 5).t(), ValueError, r"contiguous\(\)"),
        (lambda: torch.zeros(4, requires_grad=True), ValueError, r"detach\(\)"),
        (lambda: torch.zeros(4, device="meta"), ValueError, r"cpu\(\)"),
        (lambda: torch.eye(4).to_sparse(), ValueError, r"to_dense\(\)"),
        (lambda: torch.zeros(4, dtype=torch.bool), TypeError, "bool"),
        (lambda: torch.zeros(4, dtype=torch.complex64), TypeError, "complex64"),
        (lambda: torch.zeros(0), ValueError, "no elements"),
    ],
)
def test_tensors_that_cannot_be_lent_are_refused(make: Any, kind: Any, text: str) -> None:
    with pccl.Communicator("127.0.0.1:48148") as communicator, pytest.raises(kind, match=text):
        communicator.all_reduce(make())


def test_a_numpy_array_and_a_tensor_meet(pair: World) -> None:
    tensors = [torch.ones(6), torch.ones(6).numpy()]
    pair.run(lambda i, communicator: communicator.all_reduce(tensors[i]))
    assert [float(tensor.sum()) for tensor in tensors] == [12.0, 12.0]
