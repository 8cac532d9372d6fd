"""A shared state as the library sees it."""

from __future__ import annotations

from typing import Any, List, Tuple

from ._buffers import Loans, Region, region_of
from ._native import ffi
from ._types import DeviceType, SharedState

_UINT64_MAX = 2**64 - 1


def native_state(
    state: SharedState, writable: bool, loans: Loans, device: bool = False
) -> Tuple[Any, List[Region], List[Any]]:
    """The struct, its tensors, and what must live as long."""
    if not 0 <= state.revision <= _UINT64_MAX:
        raise ValueError(f"revision is {state.revision}; expected 0 to {_UINT64_MAX}")
    entries = state.tensors
    regions = [
        region_of(entry.data, f"shared state entry {entry.name!r}", writable, loans, device=device) for entry in entries
    ]
    names = [ffi.new("char[]", entry.name.encode()) for entry in entries]
    infos = ffi.new("pcclTensorInfo_t[]", max(len(entries), 1))
    for info, entry, region, name in zip(infos, entries, regions, names):
        info.name = name
        info.data = ffi.cast("void *", region.address)
        info.count = region.count
        info.datatype = region.datatype
        # Of the address alone the library tells where it is.
        info.device_type = DeviceType.CPU
        info.allow_content_inequality = bool(entry.allow_content_inequality)
    native = ffi.new("pcclSharedState_t *")
    native.revision = state.revision
    native.count = len(entries)
    native.infos = infos
    return native, regions, [*names, infos]
