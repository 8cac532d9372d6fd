"""Fault-tolerant collective communication over TCP: all-reduce among peers that come and go.

A *master* admits peers and tells them of losses; the peers reduce among themselves. A minimal peer::

    import numpy, pccl

    with pccl.Communicator("127.0.0.1:48148") as communicator:
        communicator.connect(attempts=10)
        while True:
            gradient = numpy.ones(1000, dtype=numpy.float32)
            try:
                communicator.all_reduce(gradient, op=pccl.ReduceOp.AVG)
            except pccl.RankConnectionLostError:
                continue        # a peer died; the gradient is whole, the world size is new: try again
            except pccl.TooFewPeersError:
                pass            # alone so far
            if communicator.are_peers_pending():
                communicator.update_topology()

The order matters: a newcomer's ``connect()`` returns where the members' ``update_topology()`` does, and what comes next
must be the same call for both.

The shared library is loaded at the first use, not at the import: from the file that the environment variable
``PCCL_LIBRARY`` names, else from the package itself. Neither torch nor CUDA is needed.
"""

from __future__ import annotations

from . import diloco
from ._errors import (
    InternalError,
    InvalidArgumentError,
    InvalidUsageError,
    MasterConnectionFailedError,
    NoSharedStateAvailableError,
    NotInitializedError,
    PCCLError,
    PendingAsyncOpsError,
    RankConnectionFailedError,
    RankConnectionLostError,
    TooFewPeersError,
    TopologyOptimizationFailedError,
    UpdateTopologyFailedError,
)
from ._native import BuildInfo, CudaStatus, build_info, cuda_status, library_path
from ._snapshots import Snapshot
from ._types import (
    Attribute,
    Codec,
    CodecFormat,
    DataType,
    DistributionHint,
    OnLoss,
    QuantizationAlgorithm,
    QuantizationOptions,
    ReduceInfo,
    ReduceOp,
    ReduceOperand,
    Result,
    ResultPart,
    Rounding,
    SharedState,
    SharedStateSyncInfo,
    SharedStateSyncStrategy,
    TensorInfo,
)
from .communicator import AsyncReduceHandle, Communicator
from .master import MasterNode

__version__ = "0.1.0"

__all__ = [
    "AsyncReduceHandle",
    "Attribute",
    "BuildInfo",
    "Codec",
    "CodecFormat",
    "Communicator",
    "CudaStatus",
    "DataType",
    "DistributionHint",
    "InternalError",
    "InvalidArgumentError",
    "InvalidUsageError",
    "MasterConnectionFailedError",
    "MasterNode",
    "NoSharedStateAvailableError",
    "NotInitializedError",
    "OnLoss",
    "PCCLError",
    "PendingAsyncOpsError",
    "QuantizationAlgorithm",
    "QuantizationOptions",
    "RankConnectionFailedError",
    "RankConnectionLostError",
    "ReduceInfo",
    "ReduceOp",
    "ReduceOperand",
    "Result",
    "ResultPart",
    "Rounding",
    "SharedState",
    "SharedStateSyncInfo",
    "SharedStateSyncStrategy",
    "Snapshot",
    "TensorInfo",
    "TooFewPeersError",
    "TopologyOptimizationFailedError",
    "UpdateTopologyFailedError",
    "build_info",
    "cuda_status",
    "diloco",
    "library_path",
]
