"""Collectives of tensors, as operations of the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ._distributed_engine import Plan, all_reduce_plan
from ._types import ReduceOp

__all__ = ["Members", "check_alike", "flat_memory", "only", "reduce_op"]

_T = TypeVar("_T")

_REDUCE_OPS: Tuple[Tuple[Any, ReduceOp], ...] = (
    (dist.ReduceOp.SUM, ReduceOp.SUM),
    (dist.ReduceOp.AVG, ReduceOp.AVG),
    (dist.ReduceOp.PRODUCT, ReduceOp.PROD),
    (dist.ReduceOp.MIN, ReduceOp.MIN),
    (dist.ReduceOp.MAX, ReduceOp.MAX),
)
_TYPE_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
# uint16 and wider came with torch 2.3.
_TYPES = {getattr(torch, name) for name in _TYPE_NAMES if hasattr(torch, name)}


@dataclass(frozen=True)
class Members:
    """Who is in a group.

    pccl orders its peers in its own way; what is sent to, or comes from, the peer at a place of that order is put where
    its rank in the group belongs.
    """

    rank: int
    order: Tuple[int, ...]
    """The rank of the peer at each place of pccl's order."""

    @property
    def size(self) -> int:
        return len(self.order)

    def all_reduce(self, tensor: Tensor, op: ReduceOp) -> Plan:
        flat = flat_memory(tensor, "the tensor")
        elements = _reducible(flat, op, "the tensor")
        if flat.numel() == 0 or self.size == 1:
            return Plan()
        return all_reduce_plan(elements, op, _copying_back(flat, tensor))

    def broadcast(self, tensor: Tensor, root: int) -> Plan:
        self.check_root(root)
        flat = flat_memory(tensor, "the tensor")
        if flat.numel() == 0 or self.size == 1:
            return Plan()
        elements, place = _movable(flat), self.order.index(root)
        finish = None if root == self.rank else _copying_back(flat, tensor)
        size = self.size
        return Plan(lambda peers, tag: peers.broadcast_async(elements, place, tag, world_size=size), finish)

    def all_gather(self, outputs: List[Tensor], source: Tensor) -> Plan:
        check_alike(outputs, source, self.size, "output")
        for output in outputs:
            if output.device.type != "cpu":
                raise ValueError(f"pccl: an output tensor is on device {str(output.device)!r}, not on the CPU")
        flat = flat_memory(source, "the input tensor")
        if flat.numel() == 0:
            return Plan()
        if self.size == 1:
            return Plan(finish=lambda: outputs[0].detach().copy_(flat.view(outputs[0].shape)))
        parts = torch.empty(self.size, flat.numel(), dtype=flat.dtype)
        order = self.order

        def finish() -> None:
            for place, rank in enumerate(order):
                outputs[rank].detach().copy_(parts[place].view(outputs[rank].shape))

        send, recv = _movable(flat), _movable(parts.view(-1))
        return Plan(lambda peers, tag: peers.all_gather_async(send, recv, tag=tag), finish)

    def all_gather_single(self, output: Tensor, source: Tensor) -> Plan:
        if output.dtype != source.dtype or output.numel() != self.size * source.numel():
            raise ValueError(
                f"pccl: the output tensor must be of {self.size * source.numel()} elements of {source.dtype}, got "
                f"{output.numel()} of {output.dtype}"
            )
        whole = flat_memory(output, "the output tensor")
        if whole.numel() == 0:
            return Plan()
        back = _copying_back(whole, output)
        if self.size > 1 and self._is_in_order():
            send, recv = _movable(flat_memory(source, "the input tensor")), _movable(whole)
            return Plan(lambda peers, tag: peers.all_gather_async(send, recv, tag=tag), back)
        plan = self.all_gather(list(whole.view(self.size, -1).unbind()), source)

        def finish() -> None:
            if plan.finish is not None:
                plan.finish()
            if back is not None:
                back()

        return Plan(plan.start, finish)

    def reduce_scatter_single(self, output: Tensor, source: Tensor, op: ReduceOp) -> Plan:
        if output.dtype != source.dtype or source.numel() != self.size * output.numel():
            raise ValueError(
                f"pccl: the input tensor must be of {self.size * output.numel()} elements of {output.dtype}, got "
                f"{source.numel()} of {source.dtype}"
            )
        whole = flat_memory(source, "the input tensor")
        if whole.numel() == 0:
            return Plan()
        return self.reduce_scatter(output, list(whole.view(self.size, -1).unbind()), whole, op)

    def reduce_scatter(self, output: Tensor, sources: List[Tensor], whole: Optional[Tensor], op: ReduceOp) -> Plan:
        """``whole`` is the memory of all ``sources`` in the order of ranks, if they are one after the other."""
        flat = flat_memory(output, "the output tensor")
        _reducible(flat, op, "the output tensor")
        if flat.numel() == 0:
            return Plan()
        if self.size == 1:
            return Plan(finish=lambda: output.detach().copy_(sources[0].view(output.shape)))
        if whole is None or not self._is_in_order():
            whole = torch.cat([flat_memory(sources[rank], "an input tensor") for rank in self.order])
        if _share_memory(flat, whole):
            flat = torch.empty_like(flat)
        send, recv = _reducible(whole, op, "the input tensor"), _reducible(flat, op, "the output tensor")
        return Plan(lambda peers, tag: peers.reduce_scatter_async(send, recv, op, tag=tag), _copying_back(flat, output))

    def _is_in_order(self) -> bool:
        return self.order == tuple(range(self.size))

    def check_root(self, root: int) -> None:
        if not 0 <= root < self.size:
            raise ValueError(f"pccl: the root {root} is not a rank of this group of {self.size}")


def flat_memory(tensor: Tensor, name: str) -> Tensor:
    """The elements of ``tensor`` one after the other: its own memory, or a copy where that is strided or lazy."""
    if tensor.device.type != "cpu":
        raise ValueError(f"pccl: {name} is on device {str(tensor.device)!r}; the backend is for CPU tensors")
    if tensor.layout != torch.strided:
        raise ValueError(f"pccl: {name} has layout {tensor.layout}; only dense tensors can be used")
    return tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)


def _movable(flat: Tensor) -> Tensor:
    """The same memory, as elements that the library can move."""
    return flat if flat.dtype in _TYPES else flat.view(torch.uint8)


def _reducible(flat: Tensor, op: ReduceOp, name: str) -> Tensor:
    """The same memory, as elements that the library can reduce by ``op``."""
    if flat.dtype in _TYPES:
        return flat
    if flat.dtype == torch.bool and op in (ReduceOp.MAX, ReduceOp.MIN):
        return flat.view(torch.uint8)
    more = "; bool can be reduced by MAX (or) and MIN (and)" if flat.dtype == torch.bool else ""
    raise TypeError(f"pccl: {name} has elements of type {flat.dtype}, which {op.name} is not possible for{more}")


def reduce_op(op: Any) -> ReduceOp:
    for theirs, ours in _REDUCE_OPS:
        if op == theirs:
            return ours
    raise ValueError(f"pccl: the reduction {op} is not possible; expected SUM, AVG, PRODUCT, MIN or MAX")


def only(tensors: Sequence[_T], what: str) -> _T:
    # Lists are from the time when a process had several devices.
    if len(tensors) != 1:
        raise ValueError(f"pccl: expected one {what}, got {len(tensors)}")
    return tensors[0]


def _share_memory(a: Tensor, b: Tensor) -> bool:
    first, second = a.data_ptr(), b.data_ptr()
    return first < second + b.numel() * b.element_size() and second < first + a.numel() * a.element_size()


def check_alike(parts: Sequence[Tensor], like: Tensor, size: int, what: str) -> None:
    if len(parts) != size:
        raise ValueError(f"pccl: expected {size} {what} tensors, one for each rank, got {len(parts)}")
    for part in parts:
        if part.dtype != like.dtype or part.numel() != like.numel():
            raise ValueError(
                f"pccl: {what} tensors must be of {like.numel()} elements of {like.dtype}, got {part.numel()} of "
                f"{part.dtype}"
            )


def _copying_back(flat: Tensor, tensor: Tensor) -> Optional[Callable[[], object]]:
    """Puts ``flat`` into ``tensor``, unless it is its memory."""
    if flat.data_ptr() == tensor.data_ptr() and tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj():
        return None
    target = tensor.detach()
    return lambda: target.copy_(flat.view(target.shape))
