"""Shared states in files."""

from __future__ import annotations

import os
import threading
from typing import Any, Optional, Union

from ._buffers import Loans
from ._errors import PCCLError, check, error
from ._native import SNAPSHOT_FUNCTIONS, ffi, library, require_extension
from ._states import native_state
from ._types import Result, SharedState

__all__ = ["Snapshot", "load", "save"]

_UINT32_MAX = 2**32 - 1


class Snapshot:
    """A snapshot that is being written, made by :meth:`SharedState.save`. It is written also if nobody waits."""

    def __init__(self, native: Any, path: str, revision: int) -> None:
        self._native = native
        self._path = path
        self._revision = revision
        self._outcome: Union[None, bool, PCCLError] = None
        self._waiting = threading.Lock()

    @property
    def path(self) -> str:
        """The file's name, once it is whole."""
        return self._path

    @property
    def revision(self) -> int:
        """The revision that was saved."""
        return self._revision

    def wait(self) -> None:
        """Blocks until it is on disk. Any thread may call it, several at once, and again: same outcome.

        Raises:
            InternalError: it could not be written (a full disk, a child that was killed); the log says why. The older
                snapshots are whole.
        """
        with self._waiting:
            if self._outcome is None:
                code = library().pcclAwaitSnapshot(self._native)
                self._outcome = True if code == Result.SUCCESS else error(code, "pcclAwaitSnapshot", self._path)
            outcome = self._outcome
        if isinstance(outcome, PCCLError):
            raise outcome

    def __repr__(self) -> str:
        state = "being written" if self._outcome is None else "written" if self._outcome is True else "failed"
        return f"<pccl.Snapshot {self._path}, {state}>"


def save(
    state: SharedState, directory: Union[str, "os.PathLike[str]"], keep: Optional[int], background: bool
) -> Snapshot:
    native_library = _library("SharedState.save")
    if keep is not None and not 1 <= keep <= _UINT32_MAX:
        raise ValueError(f"keep is {keep}; expected at least 1, or None")
    folder = os.fspath(directory)
    with Loans() as loans:
        native, regions, kept = native_state(state, writable=False, loans=loans, device=True)
        shapes = ffi.new("pcclShape_t[]", max(len(regions), 1))
        for shape, region in zip(shapes, regions):
            extents = region.shape
            # Not null, without dimensions either.
            shape.extents = array = ffi.new("uint64_t[]", max(len(extents), 1))
            array[0 : len(extents)] = extents
            shape.rank = len(extents)
            kept.append(array)
        options = ffi.new("pcclSaveOptions_t *")
        options.struct_size = ffi.sizeof("pcclSaveOptions_t")
        options.keep = keep or 0
        options.foreground = not background
        options.shapes = shapes
        snapshot = ffi.new("pcclSnapshot_t **")
        code = native_library.pcclSaveSharedState(native, os.fsencode(folder), options, snapshot)
        check(code, "pcclSaveSharedState", f"revision {state.revision}, {folder}")
    path = os.path.join(folder, f"snapshot-{state.revision:020d}.safetensors")
    return Snapshot(snapshot[0], path, state.revision)


def load(state: SharedState, directory: Union[str, "os.PathLike[str]"]) -> None:
    native_library = _library("SharedState.load")
    folder = os.fspath(directory)
    with Loans() as loans:
        native, _regions, _kept = native_state(state, writable=True, loans=loans, device=True)
        check(native_library.pcclLoadSharedState(os.fsencode(folder), native), "pcclLoadSharedState", folder)
    state.revision = int(native.revision)


def _library(what: str) -> Any:
    found = library()
    require_extension(found, what, SNAPSHOT_FUNCTIONS)
    return found
