"""DLPack made by hand, after its header, so that any producer can be played, and every call of a deleter counted."""

from __future__ import annotations

import ctypes
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
READ_ONLY, IS_COPIED = 1, 2
KINDS = {"i": 0, "u": 1, "f": 2, "b": 6, "c": 5}

_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype = ctypes.c_char_p
_name_of.argtypes = [ctypes.py_object]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_uint64),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


class VersionedManaged(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


def capsule_name(capsule: Any) -> bytes:
    name = _name_of(capsule)
    assert isinstance(name, bytes)
    return name


class Lender:
    """Has DLPack, and nothing else that the package could use instead."""

    def __init__(
        self,
        address: int,
        shape: Sequence[int],
        element: Tuple[int, int, int] = (2, 32, 1),
        device: Tuple[int, int] = (CPU, 0),
        strides: Optional[Sequence[int]] = None,
        byte_offset: int = 0,
        version: Optional[Tuple[int, int]] = None,
        flags: int = 0,
        knows: Sequence[str] = ("stream", "max_version", "dl_device", "copy"),
        has_deleter: bool = True,
        real_device: Optional[Tuple[int, int]] = None,
        keep: Any = None,
    ) -> None:
        self.address, self.shape, self.element, self.device = address, shape, element, device
        self.strides, self.byte_offset, self.version, self.flags = strides, byte_offset, version, flags
        self.knows, self.has_deleter, self.real_device, self.keep = knows, has_deleter, real_device or device, keep
        self.calls: List[Dict[str, Any]] = []
        self.capsules: List[Any] = []
        self.deleted: List[int] = []
        self._alive: Dict[int, Any] = {}

    @classmethod
    def of(cls, array: numpy.ndarray, **other: Any) -> Lender:
        element = (KINDS[array.dtype.kind], 8 * array.itemsize, 1) if array.dtype.kind in KINDS else (4, 16, 1)
        return cls(array.ctypes.data, array.shape, **{"element": element, "keep": array, **other})

    @property
    def given(self) -> int:
        return len(self.capsules)

    @property
    def is_settled(self) -> bool:
        """Whether each capsule's deleter was called, once."""
        return len(self.deleted) == self.given and len(set(self.deleted)) == self.given

    def __dlpack_device__(self) -> Tuple[int, int]:
        return self.device

    def __dlpack__(self, **arguments: Any) -> Any:
        unknown = sorted(set(arguments) - set(self.knows))
        if unknown:
            raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
        self.calls.append(arguments)
        axes = len(self.shape)
        shape = (ctypes.c_int64 * max(axes, 1))(*self.shape)
        strides = (ctypes.c_int64 * max(axes, 1))(*self.strides) if self.strides is not None else None
        tensor = Tensor(
            self.address,
            *self.real_device,
            axes,
            *self.element,
            ctypes.addressof(shape) if axes else None,
            ctypes.addressof(strides) if strides is not None else None,
            self.byte_offset,
        )
        deleter = _DELETER(self._delete) if self.has_deleter else _DELETER()
        if self.version is None:
            managed: Any = Managed(tensor, None, deleter)
        else:
            managed = VersionedManaged(*self.version, None, deleter, self.flags, tensor)
        address = ctypes.addressof(managed)
        # Never freed, so that an address tells of one capsule for ever.
        self._alive[address] = (managed, deleter, shape, strides)
        name = b"dltensor" if self.version is None else b"dltensor_versioned"
        self.capsules.append(_new_capsule(address, name, None))
        return self.capsules[-1]

    def _delete(self, managed: int) -> None:
        self.deleted.append(managed)


class OnlyDLPack:
    """Hides all protocols of an array but this one."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)
