"""One exception for each result code, and the words that go with it."""

from __future__ import annotations

from typing import Dict, Tuple, Type, Union

from ._types import Result

__all__ = [
    "InternalError",
    "InvalidArgumentError",
    "InvalidUsageError",
    "MasterConnectionFailedError",
    "NoSharedStateAvailableError",
    "NotInitializedError",
    "PCCLError",
    "PendingAsyncOpsError",
    "RankConnectionFailedError",
    "RankConnectionLostError",
    "TooFewPeersError",
    "TopologyOptimizationFailedError",
    "UpdateTopologyFailedError",
]


class PCCLError(Exception):
    """Base of all errors that the library reports. ``code`` tells which, as :class:`pccl.Result`.

    Mistakes that are seen before the library is asked (a shape, a type, a strided array) are ValueError or TypeError.
    """

    code: Union[Result, int] = Result.INTERNAL_ERROR


class NotInitializedError(PCCLError):
    """The library was not initialised. The package does that itself, so this is a bug in the package."""

    code = Result.NOT_INITIALIZED


class InternalError(PCCLError):
    """A bug in the library. The communicator can only be destroyed."""

    code = Result.INTERNAL_ERROR


class InvalidArgumentError(PCCLError):
    """An argument is refused, or the peers' arguments of one collective do not match."""

    code = Result.INVALID_ARGUMENT


class InvalidUsageError(PCCLError):
    """The call is not allowed now: not connected, connected already, destroyed, or the peers are in different calls."""

    code = Result.INVALID_USAGE


class TooFewPeersError(PCCLError):
    """The peer is alone in its group; a collective needs two."""

    code = Result.TOO_FEW_PEERS


class MasterConnectionFailedError(PCCLError):
    """The master cannot be reached, refused this peer, or has evicted it."""

    code = Result.MASTER_CONNECTION_FAILED


class RankConnectionFailedError(PCCLError):
    """Another peer cannot be reached."""

    code = Result.RANK_CONNECTION_FAILED


class RankConnectionLostError(PCCLError):
    """A peer was lost during the operation. The input is whole and the world size is already the new one: retry.

    With an ``on_loss`` that resumes only when no second peer is left, or another peer's call has ``OnLoss.ABORT``.
    """

    code = Result.RANK_CONNECTION_LOST


class NoSharedStateAvailableError(PCCLError):
    """No peer may or can give the content of the shared state."""

    code = Result.NO_SHARED_STATE_AVAILABLE


class PendingAsyncOpsError(PCCLError):
    """Asynchronous operations were launched and not awaited."""

    code = Result.PENDING_ASYNC_OPS


class UpdateTopologyFailedError(PCCLError):
    """The join point failed: this peer was evicted, or the master stayed away."""

    code = Result.UPDATE_TOPOLOGY_FAILED


class TopologyOptimizationFailedError(PCCLError):
    """The topology could not be measured or adopted."""

    code = Result.TOPOLOGY_OPTIMIZATION_FAILED


_CLASSES: Dict[int, Type[PCCLError]] = {
    cls.code: cls
    for cls in (
        NotInitializedError,
        InternalError,
        InvalidArgumentError,
        InvalidUsageError,
        TooFewPeersError,
        MasterConnectionFailedError,
        RankConnectionFailedError,
        RankConnectionLostError,
        NoSharedStateAvailableError,
        PendingAsyncOpsError,
        UpdateTopologyFailedError,
        TopologyOptimizationFailedError,
    )
}

# What happened, and what to do next. The library's log on stderr has the names and addresses behind it.
_MEANINGS: Dict[int, str] = {
    Result.NOT_INITIALIZED: "the library is not initialised. This is a bug in the package; please report it.",
    Result.INTERNAL_ERROR: (
        "an internal error of the library. Destroy this communicator and make a new one; please report it with the "
        "log that PCCL_LOG_LEVEL=DEBUG writes to stderr."
    ),
    Result.INVALID_ARGUMENT: (
        "an argument was refused. All peers must pass the same count, type, operation and quantisation for a tag; a "
        "tag may not be used again before its operation was awaited; buffers may be the same but not overlap in part; "
        "a codec must make the type smaller, and error feedback is for SUM and AVG. The log on stderr says which it is."
    ),
    Result.INVALID_USAGE: (
        "not allowed now, or not in this release. Is the communicator connected? Do all peers of the group make the "
        "same joint calls in the same order? The log on stderr says which it is."
    ),
    Result.TOO_FEW_PEERS: (
        "this peer is alone in its group. Call are_peers_pending() and update_topology() until another is admitted."
    ),
    Result.MASTER_CONNECTION_FAILED: (
        "the master cannot be reached, refused this peer or has evicted it; the log on stderr says why. Check that it "
        "runs at this address and is of the same version; then connect() may be called again."
    ),
    Result.RANK_CONNECTION_FAILED: (
        "another peer cannot be reached. Check that peers can open TCP connections to each other; then try again."
    ),
    Result.RANK_CONNECTION_LOST: (
        "a peer was lost during the operation. The input is whole and the world size is updated: call it again."
    ),
    Result.NO_SHARED_STATE_AVAILABLE: (
        "no peer can give the shared state. At least one must hold entries and not be RECEIVE_ONLY."
    ),
    Result.PENDING_ASYNC_OPS: "operations are still in flight. Call wait() on every AsyncReduceHandle first.",
    Result.UPDATE_TOPOLOGY_FAILED: (
        "the join point failed: the master stayed away, or this peer was evicted. Destroy this communicator and "
        "connect a new one to come back as a newcomer."
    ),
    Result.TOPOLOGY_OPTIMIZATION_FAILED: (
        "the topology could not be optimised; the one before is still in use. Await all operations and try again."
    ),
}

_MISMATCH = (
    "the peers' arguments of this operation do not match. All must pass the same count, type, operation and "
    "quantisation for a tag; the log on stderr has both descriptions."
)
_DEVICE_FAILED = (
    "a device's driver has failed, or the library; the log on stderr says which. Close this DiLoCo and make another one, "
    "which gets what the other peers have."
)
# Where a function gives a code a narrower meaning than the others do.
_NARROWER_MEANINGS: Dict[Tuple[str, int], str] = {
    ("pcclRunMaster", Result.INVALID_USAGE): (
        "the master cannot listen: the address is in use or not of this machine, or run() was called already."
    ),
    ("pcclInterruptMaster", Result.INVALID_USAGE): "the master is not running. Call run() first.",
    ("pcclMasterAwaitTermination", Result.INVALID_USAGE): "the master is not running. Call run() first.",
    ("pcclConnect", Result.INVALID_USAGE): "the communicator is connected already.",
    ("pcclGetAttribute", Result.INVALID_USAGE): "the communicator is not connected. Call connect() first.",
    ("pcclAwaitAsyncReduce", Result.INVALID_ARGUMENT): _MISMATCH,
    ("pcclAwaitAsyncReduceParts", Result.INVALID_ARGUMENT): _MISMATCH,
    ("pcclSaveSharedState", Result.INVALID_ARGUMENT): (
        "no file can be made in the directory, or a name or revision cannot be; the log on stderr says which it is."
    ),
    ("pcclSaveSharedState", Result.INTERNAL_ERROR): (
        "it could not be written; the log on stderr says why. The older snapshots are whole."
    ),
    ("pcclAwaitSnapshot", Result.INTERNAL_ERROR): (
        "it could not be written; the log on stderr says why. The older snapshots are whole."
    ),
    ("pcclAwaitSnapshot", Result.INVALID_USAGE): "this process was forked from the one that began the snapshot.",
    ("pcclLoadSharedState", Result.INVALID_ARGUMENT): (
        "the tensors are not those of the file: names, types and counts must be the same. The log on stderr names both."
    ),
    ("pcclDiLoCoCreate", Result.INVALID_ARGUMENT): (
        "these tensors or options cannot be; the log on stderr says which, and why. Tensors of one fragment are all on "
        "the host, or all on one device."
    ),
    ("pcclDiLoCoCreate", Result.INTERNAL_ERROR): (
        "there is no memory for the outer state, or a device's driver has refused; the log on stderr has its words. "
        "With offload=True the outer state of torch tensors is on the host."
    ),
    ("pcclDiLoCoBegin", Result.INTERNAL_ERROR): _DEVICE_FAILED,
    ("pcclDiLoCoStep", Result.INTERNAL_ERROR): _DEVICE_FAILED,
    ("pcclDiLoCoEnd", Result.INTERNAL_ERROR): _DEVICE_FAILED,
    ("pcclLoadSharedState", Result.INTERNAL_ERROR): "a file could not be read; the log on stderr says why.",
    ("pcclLoadSharedState", Result.NO_SHARED_STATE_AVAILABLE): (
        "there is no snapshot, or none that is whole. The log on stderr says what is damaged."
    ),
    ("pcclSynchronizeSharedState", Result.INVALID_USAGE): (
        "the communicator is not connected, other peers wait in another call, or this peer's state does not go with "
        "theirs (its revision, names, types, counts or strategy; the log says which), and it is no longer a member."
    ),
}


def error(code: int, function: str, subject: str = "", reason: str = "") -> PCCLError:
    """The exception for the answer ``code`` of the C function ``function``, called about ``subject``.

    ``reason`` is what the library itself says of it.
    """
    meaning = _NARROWER_MEANINGS.get((function, code)) or _MEANINGS.get(code)
    about = f" ({subject})" if subject else ""
    if meaning is None:
        unknown = PCCLError(f"{function}{about}: result code {code}, which this package does not know.")
        unknown.code = code
        return unknown
    said = f" It says: {reason}" if reason else ""
    return _CLASSES[code](f"{function}{about}: {meaning}{said}")


def check(code: int, function: str, subject: str = "") -> None:
    """Raises unless ``code`` is success. For the thread that has called the function, just now."""
    if code != Result.SUCCESS:
        raise error(code, function, subject, _reason(function))


def _reason(function: str) -> str:
    """What the library says of this thread's latest call, if that was of the function."""
    from ._native import ffi, library

    lib = library()
    text = ffi.new("const char **")
    if not hasattr(lib, "pcclGetErrorText") or lib.pcclGetErrorText(text) != Result.SUCCESS:
        return ""
    name, _, reason = ffi.string(text[0]).decode(errors="replace").partition(": ")
    return str(reason) if name == function else ""
