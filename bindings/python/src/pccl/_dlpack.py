"""Memory that another library lends by DLPack (https://dmlc.github.io/dlpack/latest/python_spec.html)."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Dict, List, Optional, Tuple

from ._native import cuda_status, library

__all__ = ["Borrowed", "Loans", "borrow", "has_dlpack"]


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _ElementType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("element_type", _ElementType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        # Of elements.
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _VersionedManaged(ctypes.Structure):
    # Up to the deleter it is the same in all versions.
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_MAJOR_VERSION = 1
_READ_ONLY = 1
_IS_COPIED = 2

_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13
_DEVICES: Dict[int, str] = {
    _CPU: "CPU",
    _CUDA: "CUDA",
    _CUDA_HOST: "CUDA host",
    4: "OpenCL",
    7: "Vulkan",
    8: "Metal",
    9: "VPI",
    10: "ROCm",
    11: "ROCm host",
    12: "extension",
    _CUDA_MANAGED: "CUDA managed",
    14: "oneAPI",
    15: "WebGPU",
    16: "Hexagon",
    17: "MAIA",
    18: "Trainium",
}
# What has a name without bits gets them appended: float32.
_KINDS = ("int", "uint", "float", "opaque", "bfloat", "complex", "bool")
_SMALL_FLOATS = (
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
)

# Libraries whose arrays are constants, and may share memory with others. Capsules from before there were versions, as
# they give, cannot say so.
_CONSTANT = ("jax", "jaxlib", "tensorflow")

# The legacy default stream: what reads a collective's input and writes its result, and what a shared state waits for.
# So the producer has that stream wait for its own work, and need not block. No such thing exists for the host's memory.
_STREAM = 1

_NAME, _VERSIONED_NAME = b"dltensor", b"dltensor_versioned"
# A capsule keeps the address of its name.
_USED: Dict[bytes, bytes] = {_NAME: b"used_dltensor", _VERSIONED_NAME: b"used_dltensor_versioned"}

# All with the interpreter's lock held: some producers' deleters touch Python's objects.
_prototype = ctypes.PYFUNCTYPE
_is_capsule = _prototype(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_capsule_pointer = _prototype(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename_capsule = _prototype(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))
_deleter = _prototype(None, ctypes.c_void_p)


def has_dlpack(tensor: Any) -> bool:
    return hasattr(tensor, "__dlpack__") and hasattr(tensor, "__dlpack_device__")


class Borrowed:
    """A tensor that was taken out of its capsule. Its memory is valid until :meth:`release`."""

    def __init__(self, address: int, is_versioned: bool, is_constant: bool) -> None:
        self._address: Optional[int] = address
        self._managed: Any = (_VersionedManaged if is_versioned else _Managed).from_address(address)
        self._is_versioned = is_versioned
        self._is_constant = is_constant

    def release(self) -> None:
        """Tells the producer that its memory is not used any more. A second call does nothing."""
        address, self._address = self._address, None
        if address is None:
            return
        deleter, self._managed = self._managed.deleter, None
        if deleter:
            _deleter(deleter)(address)

    def __del__(self) -> None:
        # The memory ends with the process; what the deleter needs may have ended before.
        if not sys.is_finalizing():
            self.release()

    @property
    def major_version(self) -> Optional[int]:
        """None: from before there were versions. Of one that is not known nothing but this can be read."""
        return int(self._managed.major) if self._is_versioned else None

    @property
    def is_read_only(self) -> bool:
        return self._is_constant or self._is_versioned and bool(self._managed.flags & _READ_ONLY)

    @property
    def is_copy(self) -> bool:
        return self._is_versioned and bool(self._managed.flags & _IS_COPIED)

    @property
    def device(self) -> Tuple[int, int]:
        return self._managed.tensor.device.type, self._managed.tensor.device.id

    @property
    def has_data(self) -> bool:
        return bool(self._managed.tensor.data)

    @property
    def address(self) -> int:
        return int(self._managed.tensor.data or 0) + int(self._managed.tensor.byte_offset)

    @property
    def shape(self) -> Tuple[int, ...]:
        tensor = self._managed.tensor
        return tuple(tensor.shape[axis] for axis in range(tensor.ndim))

    @property
    def strides(self) -> Optional[Tuple[int, ...]]:
        """In elements; None: C-contiguous."""
        tensor = self._managed.tensor
        return tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None

    @property
    def is_contiguous(self) -> bool:
        strides, step = self.strides, 1
        if strides is None:
            return True
        for extent, stride in zip(reversed(self.shape), reversed(strides)):
            # Nobody steps along an axis of one element.
            if extent != 1 and stride != step:
                return False
            step *= extent
        return True

    @property
    def type_name(self) -> str:
        """As NumPy would call it."""
        type = self._managed.tensor.element_type
        small = type.code - len(_KINDS)
        if small < 0:
            name = "bool" if type.code == 6 and type.bits == 8 else f"{_KINDS[type.code]}{type.bits}"
        else:
            name = _SMALL_FLOATS[small] if small < len(_SMALL_FLOATS) else f"of DLPack code {type.code}"
        return name if type.lanes == 1 else f"{name} in vectors of {type.lanes}"


class Loans:
    """What was borrowed for a call. It is given back at the end of the ``with``, unless it is kept for longer."""

    def __init__(self) -> None:
        self._borrowed: List[Borrowed] = []

    def add(self, borrowed: Borrowed) -> None:
        self._borrowed.append(borrowed)

    def kept(self) -> Loans:
        """All of it, for an operation that goes on after the call."""
        kept = Loans()
        kept._borrowed, self._borrowed = self._borrowed, []
        return kept

    def give_back(self) -> None:
        while self._borrowed:
            self._borrowed.pop().release()

    def __enter__(self) -> Loans:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


def borrow(tensor: Any, name: str, device: bool, loans: Loans) -> Borrowed:
    """The tensor of an object with DLPack, uncopied; what writes it comes before the default stream.

    Raises ValueError for memory where it cannot be used, TypeError for what is not DLPack after all.
    """
    try:
        kind, number = (int(part) for part in tensor.__dlpack_device__())
    except Exception as reason:
        raise ValueError(f"{name} does not tell by DLPack where its memory is: {reason}") from reason
    _require_usable(kind, number, name, device)
    is_constant = type(tensor).__module__.partition(".")[0] in _CONSTANT
    borrowed = _taken(_capsule(tensor, kind, name), name, is_constant, loans)
    if borrowed.major_version not in (None, _MAJOR_VERSION):
        raise ValueError(
            f"{name} is lent by DLPack {borrowed.major_version}; {_MAJOR_VERSION} is understood, and what was before it"
        )
    if borrowed.device[0] != kind:
        raise ValueError(f"{name} is said to be on {_place(kind, number)}, and is on {_place(*borrowed.device)}")
    return borrowed


def _place(kind: int, number: int) -> str:
    return f"a device of type {_DEVICES.get(kind, kind)} ({number})"


def _require_usable(kind: int, number: int, name: str, device: bool) -> None:
    if kind in (_CPU, _CUDA_HOST):
        return
    if not (device and kind in (_CUDA, _CUDA_MANAGED)):
        usable = "memory of the CPU and of CUDA devices" if device else "CPU memory"
        raise ValueError(f"{name} is on {_place(kind, number)}; only {usable} can be used. Pass a copy, and copy back.")
    # Without a driver the library would take the address for one of the host.
    status = cuda_status() if hasattr(library(), "pcclGetCudaStatus") else None
    if status is not None and not status.is_ready:
        raise ValueError(f"{name} is on {_place(kind, number)}, and {status.reason}")


def _capsule(tensor: Any, kind: int, name: str) -> Any:
    usual: Dict[str, Any] = {"stream": _STREAM} if kind in (_CUDA, _CUDA_MANAGED) else {}
    versioned = {**usual, "max_version": (_MAJOR_VERSION, 0)}
    # Newer arguments first: a producer that does not know them says TypeError.
    for arguments in ({**versioned, "copy": False}, versioned):
        try:
            return tensor.__dlpack__(**arguments)
        except TypeError:
            continue
        except Exception as reason:
            raise ValueError(f"{name} cannot be lent by DLPack: {reason}") from reason
    try:
        return tensor.__dlpack__(**usual)
    except Exception as reason:
        raise ValueError(f"{name} cannot be lent by DLPack: {reason}") from reason


def _taken(capsule: Any, name: str, is_constant: bool, loans: Loans) -> Borrowed:
    for unused, used in _USED.items():
        if _is_capsule(capsule, unused):
            address = _capsule_pointer(capsule, unused)
            # From here on it is for us to call the deleter, and not for the capsule.
            _rename_capsule(capsule, used)
            borrowed = Borrowed(address, unused == _VERSIONED_NAME, is_constant)
            loans.add(borrowed)
            return borrowed
    raise TypeError(f"{name} gave no unused DLPack capsule, but {capsule!r}")
