"""Tensors of several libraries, seen as plain memory. Nothing is copied; what cannot be lent as it is, is refused."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Dict, Tuple

import numpy

from ._dlpack import Loans, borrow, has_dlpack
from ._native import synchronize_stream
from ._types import DataType

__all__ = ["Loans", "Region", "region_of", "wait_for_writers"]


@dataclass(frozen=True)
class Region:
    """C-contiguous memory of ``count`` elements, valid and pinned for as long as ``keep`` is referenced, and what was
    borrowed for it is not given back."""

    address: int
    count: int
    datatype: DataType
    shape: Tuple[int, ...]
    keep: Any


_NUMPY_TYPES: Dict[str, DataType] = {
    "uint8": DataType.UINT8,
    "int8": DataType.INT8,
    "int16": DataType.INT16,
    "uint16": DataType.UINT16,
    "uint32": DataType.UINT32,
    "int32": DataType.INT32,
    "uint64": DataType.UINT64,
    "int64": DataType.INT64,
    "float16": DataType.FLOAT16,
    # NumPy has no such type itself; the package ml_dtypes adds it under this name.
    "bfloat16": DataType.BFLOAT16,
    "float32": DataType.FLOAT32,
    "float64": DataType.FLOAT64,
}
_SUPPORTED = ", ".join(_NUMPY_TYPES)


def region_of(tensor: Any, name: str, writable: bool, loans: Loans, device: bool = False) -> Region:
    """The memory of ``tensor``; ``name`` is the argument's name for error texts.

    Raises TypeError for objects and element types that are not supported, ValueError for memory that cannot be used as
    it is: strided, read-only (where it is to be written), on a device, in foreign byte order, or empty. With ``device``
    it may be on a CUDA device, and is waited for: what writes it on its library's current stream is done, or the default
    stream waits for it. What has to be given back is in ``loans``, after an error too.
    """
    # A torch tensor can only exist when torch has been imported, so there is no need to import it here.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, getattr(torch, "Tensor", ())):
        region = _region_of_torch(tensor, name, device)
    elif device and not isinstance(tensor, numpy.ndarray) and hasattr(tensor, "__cuda_array_interface__"):
        region = _region_of_device_array(tensor, name, writable)
    else:
        region = _region_of_array(tensor, name, writable, loans, device)
    if region.count == 0:
        raise ValueError(f"{name} has no elements")
    return region


def _region_of_torch(tensor: Any, name: str, device: bool) -> Region:
    if tensor.device.type != "cpu" and not (device and tensor.device.type == "cuda"):
        usable = "memory of the CPU and of CUDA devices" if device else "CPU memory"
        raise ValueError(
            f"{name} is a torch tensor on device {str(tensor.device)!r}; only {usable} can be used. Pass a copy made "
            "with tensor.cpu(), and copy the result back."
        )
    if str(tensor.layout) != "torch.strided":
        raise ValueError(f"{name} is a torch tensor of layout {tensor.layout}; pass tensor.to_dense()")
    datatype = _NUMPY_TYPES.get(str(tensor.dtype).replace("torch.", "", 1))
    if datatype is None:
        raise TypeError(f"{name} is a torch tensor of {tensor.dtype}, which is not one of {_SUPPORTED}")
    if tensor.requires_grad:
        raise ValueError(
            f"{name} is a torch tensor that requires grad, and autograd would not see it change. Pass "
            "tensor.detach(), which shares its memory."
        )
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} is a torch tensor with strides {tuple(tensor.stride())}, which is not contiguous. Pass "
            "tensor.contiguous(), and copy the result back with tensor.copy_(result)."
        )
    if tensor.is_neg():
        raise ValueError(f"{name} is a negated view of a torch tensor; pass tensor.resolve_neg()")
    if tensor.device.type == "cuda":
        wait_for_writers(tensor, name)
    return Region(tensor.data_ptr(), tensor.numel(), datatype, tuple(tensor.shape), tensor)


def _region_of_device_array(tensor: Any, name: str, writable: bool) -> Region:
    """Of CuPy, Numba and others; versions 2 and 3 of the interface."""
    interface = tensor.__cuda_array_interface__
    shape, dtype = tuple(interface["shape"]), numpy.dtype(interface["typestr"])
    datatype = _NUMPY_TYPES.get(dtype.name)
    if datatype is None:
        raise TypeError(f"{name} has elements of type {dtype}, which is not one of {_SUPPORTED}")
    if not dtype.isnative:
        raise ValueError(f"{name} is in the other byte order ({dtype.str})")
    contiguous, size = [], dtype.itemsize
    for extent in reversed(shape):
        contiguous.insert(0, size)
        size *= extent
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != tuple(contiguous):
        raise ValueError(f"{name} has shape {shape} and strides {tuple(strides)}, which is not C-contiguous; pass a copy")
    if interface.get("mask") is not None:
        raise ValueError(f"{name} has a mask")
    address, read_only = interface["data"]
    if writable and read_only:
        raise ValueError(f"{name} is read-only, but the result goes there; pass a writable array as recv")
    wait_for_writers(tensor, name)
    return Region(int(address), size // dtype.itemsize, datatype, shape, tensor)


def wait_for_writers(tensor: Any, name: str) -> None:
    """Waits for what its library has put on the current stream of a device's tensor, or on the stream that it names."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, getattr(torch, "Tensor", ())):
        torch.cuda.current_stream(tensor.device).synchronize()
        return
    stream = tensor.__cuda_array_interface__.get("stream")
    # 1 is the default stream, which the library waits for itself.
    if stream not in (None, 1):
        synchronize_stream(stream, name)


def _region_of_array(tensor: Any, name: str, writable: bool, loans: Loans, device: bool) -> Region:
    if isinstance(tensor, numpy.ndarray):
        array = tensor
    else:
        try:
            # The array holds on to the exported buffer, so a bytearray, say, cannot be resized under the library.
            array = numpy.asarray(memoryview(tensor))
        except (TypeError, ValueError, NotImplementedError, BufferError) as reason:
            if has_dlpack(tensor):
                return _region_of_dlpack(tensor, name, writable, loans, device)
            raise TypeError(
                f"{name} is of type {type(tensor).__name__}; expected a NumPy array, a torch tensor or an object "
                f"with the buffer protocol, __cuda_array_interface__ or DLPack ({reason})"
            ) from reason
    datatype = _NUMPY_TYPES.get(array.dtype.name)
    if datatype is None:
        raise TypeError(f"{name} has elements of type {array.dtype}, which is not one of {_SUPPORTED}")
    if not array.dtype.isnative:
        raise ValueError(
            f"{name} is in the other byte order ({array.dtype.str}); pass array.astype(array.dtype.newbyteorder('='))"
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} has shape {array.shape} and strides {array.strides}, which is not C-contiguous. Pass "
            "numpy.ascontiguousarray(array), and copy the result back with array[...] = result."
        )
    if not array.flags.aligned:
        raise ValueError(f"{name} is not aligned to its element size; pass array.copy()")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only, but the result goes there; pass a writable array as recv")
    return Region(array.ctypes.data, array.size, datatype, array.shape, array)


def _region_of_dlpack(tensor: Any, name: str, writable: bool, loans: Loans, device: bool) -> Region:
    borrowed = borrow(tensor, name, device, loans)
    datatype = _NUMPY_TYPES.get(borrowed.type_name)
    if datatype is None:
        raise TypeError(f"{name} has elements of type {borrowed.type_name}, which is not one of {_SUPPORTED}")
    shape = borrowed.shape
    if min(shape, default=1) < 0:
        raise ValueError(f"{name} has shape {shape}")
    count = math.prod(shape)
    if count > 0 and not borrowed.has_data:
        raise ValueError(f"{name} has shape {shape}, and no memory")
    if not borrowed.is_contiguous:
        raise ValueError(
            f"{name} has shape {shape} and strides {borrowed.strides}, in elements, which is not C-contiguous. Pass a "
            "copy, and copy the result back."
        )
    if writable and borrowed.is_read_only:
        raise ValueError(f"{name} is read-only, but the result goes there; pass a writable array as recv")
    if writable and borrowed.is_copy:
        raise ValueError(f"{name} was copied by its own library, and the result would be lost; pass another as recv")
    return Region(borrowed.address, count, datatype, shape, borrowed)
