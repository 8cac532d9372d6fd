"""The C interface as cffi sees it, and the one loaded library.

cffi gives up the interpreter lock for the time of each call, so a blocking collective does not stop other threads.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

from cffi import FFI

__all__ = ["BuildInfo", "build_info", "ffi", "initialized_library", "library", "library_path", "require_extension"]

ffi = FFI()
ffi.cdef(
    """
    typedef enum { inetIPv4 = 0, inetIPv6 = 1 } ccoip_inet_protocol_t;
    typedef struct { uint8_t data[4]; } ccoip_ipv4_address_t;
    typedef struct { uint8_t data[16]; } ccoip_ipv6_address_t;
    typedef struct {
        ccoip_inet_protocol_t protocol;
        ccoip_ipv4_address_t ipv4;
        ccoip_ipv6_address_t ipv6;
    } ccoip_inet_address_t;
    typedef struct { ccoip_inet_address_t inet; uint16_t port; } ccoip_socket_address_t;

    typedef enum {
        pcclSuccess = 0, pcclNotInitialized = 1, pcclInternalError = 2, pcclInvalidArgument = 3,
        pcclInvalidUsage = 4, pcclTooFewPeers = 5, pcclMasterConnectionFailed = 6, pcclRankConnectionFailed = 7,
        pcclRankConnectionLost = 8, pcclNoSharedStateAvailable = 9, pcclPendingAsyncOps = 10,
        pcclUpdateTopologyFailed = 11, pcclTopologyOptimizationFailed = 12
    } pcclResult_t;
    typedef enum {
        pcclUint8 = 0, pcclInt8 = 1, pcclInt16 = 2, pcclUint16 = 3, pcclUint32 = 4, pcclInt32 = 5, pcclUint64 = 6,
        pcclInt64 = 7, pcclFloat16 = 8, pcclBFloat16 = 9, pcclFloat = 10, pcclDouble = 11
    } pcclDataType_t;
    typedef enum { pcclDeviceCpu = 0, pcclDeviceCuda = 1 } pcclDeviceType_t;
    typedef enum { pcclSum = 0, pcclAvg = 1, pcclProd = 2, pcclMax = 3, pcclMin = 4 } pcclRedOp_t;
    typedef enum {
        PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE = 1, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE = 2,
        PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS = 3, PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE = 4
    } pcclAttribute_t;
    typedef enum {
        PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR = 0, PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY = 1,
        PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY = 2
    } pcclSharedStateSyncStrategy_t;
    typedef enum {
        pcclDistributionNone = 0, pcclDistributionNormal = 1, pcclDistributionUniform = 2
    } pcclDistributionHint_t;
    typedef enum { pcclQuantNone = 0, pcclQuantMinMax = 1, pcclQuantZeroPointScale = 2 } pcclQuantizationAlgorithm_t;

    typedef struct pcclComm_t pcclComm_t;
    typedef struct pcclMasterInstanceState_t pcclMasterInstance_t;

    typedef struct {
        ccoip_socket_address_t master_address;
        uint32_t peer_group;
        uint32_t p2p_connection_pool_size;
    } pcclCommCreateParams_t;
    typedef struct { uint32_t local_world_size; uint64_t tx_bytes; uint64_t rx_bytes; } pcclReduceInfo_t;
    typedef struct {
        pcclDataType_t datatype;
        pcclDistributionHint_t distribution_hint;
    } pcclReduceOperandDescriptor_t;
    typedef struct {
        pcclDataType_t quantized_datatype;
        pcclQuantizationAlgorithm_t algorithm;
    } pcclQuantizationOptions_t;
    typedef struct {
        size_t count;
        pcclRedOp_t op;
        uint64_t tag;
        pcclReduceOperandDescriptor_t src_descriptor;
        pcclQuantizationOptions_t quantization_options;
    } pcclReduceDescriptor_t;
    typedef struct pcclReduceSingleDescriptor_t {
        void *sendbuf;
        void *recvbuf;
        pcclReduceDescriptor_t descriptor;
    } pcclReduceOpDescriptor_t;
    typedef struct { pcclComm_t *comm; uint64_t tag; } pcclAsyncReduceOp_t;
    typedef struct {
        const char *name;
        void *data;
        size_t count;
        pcclDataType_t datatype;
        pcclDeviceType_t device_type;
        bool allow_content_inequality;
    } pcclTensorInfo_t;
    typedef struct { uint64_t revision; size_t count; pcclTensorInfo_t *infos; } pcclSharedState_t;
    typedef struct { uint64_t tx_bytes; uint64_t rx_bytes; } pcclSharedStateSyncInfo_t;
    typedef struct { bool has_cuda_support; } pcclBuildInfo_t;

    pcclResult_t pcclInit(void);
    pcclResult_t pcclCreateCommunicator(const pcclCommCreateParams_t *, pcclComm_t **);
    pcclResult_t pcclGetAttribute(const pcclComm_t *, pcclAttribute_t, int *);
    pcclResult_t pcclDestroyCommunicator(pcclComm_t *);
    pcclResult_t pcclConnect(pcclComm_t *);
    pcclResult_t pcclUpdateTopology(pcclComm_t *);
    pcclResult_t pcclArePeersPending(const pcclComm_t *, bool *);
    pcclResult_t pcclOptimizeTopology(const pcclComm_t *);
    pcclResult_t pcclAllReduce(const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *,
                               pcclReduceInfo_t *);
    pcclResult_t pcclAllReduceAsync(const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *,
                                    pcclAsyncReduceOp_t *);
    pcclResult_t pcclAwaitAsyncReduce(const pcclAsyncReduceOp_t *, pcclReduceInfo_t *);
    pcclResult_t pcclAllReduceMultipleWithRetry(const pcclReduceOpDescriptor_t *, size_t, const pcclComm_t *,
                                                pcclReduceInfo_t *, int);
    pcclResult_t pcclSynchronizeSharedState(const pcclComm_t *, pcclSharedState_t *, pcclSharedStateSyncStrategy_t,
                                            pcclSharedStateSyncInfo_t *);
    pcclResult_t pcclCreateMaster(ccoip_socket_address_t, pcclMasterInstance_t **);
    pcclResult_t pcclRunMaster(pcclMasterInstance_t *);
    pcclResult_t pcclInterruptMaster(pcclMasterInstance_t *);
    pcclResult_t pcclMasterAwaitTermination(pcclMasterInstance_t *);
    pcclResult_t pcclDestroyMaster(pcclMasterInstance_t *);
    pcclResult_t pcclGetBuildInfo(pcclBuildInfo_t *);

    typedef enum { pcclOnLossAbort = 0, pcclOnLossResume = 1, pcclOnLossResumeWhole = 2,
                   pcclOnLossUsual = 3 } pcclOnLoss_t;
    typedef struct { uint64_t first_element; uint64_t element_count; uint32_t world_size; } pcclReducePart_t;

    typedef enum { pcclCodecOfDescriptor = 0, pcclCodecMinMax8 = 1, pcclCodecMinMax16 = 2, pcclCodecMinMax32 = 3,
                   pcclCodecZeroPoint8 = 4, pcclCodecZeroPoint16 = 5, pcclCodecZeroPoint32 = 6, pcclCodecInt4 = 7,
                   pcclCodecInt4E8M0 = 8, pcclCodecE3M0 = 9, pcclCodecE3M0E8M0 = 10, pcclCodecE4M3 = 11,
                   pcclCodecE4M3E8M0 = 12, pcclCodecFloat16 = 13, pcclCodecBFloat16 = 14 } pcclCodec_t;
    typedef enum { pcclRoundingNearest = 0, pcclRoundingStochastic = 1 } pcclRounding_t;
    typedef struct { size_t struct_size; pcclOnLoss_t on_loss; pcclCodec_t codec; uint32_t block_elements;
                     pcclRounding_t rounding; uint32_t error_feedback; uint32_t reserved;
                     void *cuda_stream; } pcclReduceOptions_t;

    pcclResult_t pcclAllReduceWithOptions(const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *,
                                          const pcclReduceOptions_t *, pcclReduceInfo_t *, pcclReducePart_t *, size_t,
                                          size_t *);
    pcclResult_t pcclAllReduceAsyncWithOptions(const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *,
                                               const pcclReduceOptions_t *, pcclAsyncReduceOp_t *);
    pcclResult_t pcclAwaitAsyncReduceParts(const pcclAsyncReduceOp_t *, pcclReduceInfo_t *, pcclReducePart_t *, size_t,
                                           size_t *);
    pcclResult_t pcclAllReduceMultipleWithOptions(const pcclReduceOpDescriptor_t *, size_t, const pcclComm_t *,
                                                  const pcclReduceOptions_t *, pcclReduceInfo_t *, int);
    pcclResult_t pcclFreeErrorFeedback(const pcclComm_t *, uint64_t);

    typedef struct { size_t struct_size; uint64_t tag; size_t count; pcclDataType_t datatype; pcclRedOp_t op;
                     uint32_t world_size; uint32_t root;
                     const pcclReduceOptions_t *options; } pcclCollectiveDescriptor_t;
    typedef struct { bool is_ready; int32_t driver_version; int32_t device_count; char reason[256]; } pcclCudaStatus_t;
    pcclResult_t pcclGetErrorText(const char **);
    pcclResult_t pcclDumpRecorder(const pcclComm_t *, const char *);
    pcclResult_t pcclGetCudaStatus(pcclCudaStatus_t *);
    int cuStreamSynchronize(void *);
    typedef struct { uint64_t id; uint32_t size; uint32_t reserved; } pcclEnsemble_t;
    pcclResult_t pcclCreateCommunicatorInEnsemble(const pcclCommCreateParams_t *, const pcclEnsemble_t *,
                                                  pcclComm_t **);
    pcclResult_t pcclGetRank(const pcclComm_t *, uint32_t *, uint32_t *);
    pcclResult_t pcclAllGather(const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *,
                               pcclReduceInfo_t *);
    pcclResult_t pcclAllGatherAsync(const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *,
                                    pcclAsyncReduceOp_t *);
    pcclResult_t pcclReduceScatter(const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *,
                                   pcclReduceInfo_t *);
    pcclResult_t pcclReduceScatterAsync(const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *,
                                        pcclAsyncReduceOp_t *);
    pcclResult_t pcclBroadcast(void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclReduceInfo_t *);
    pcclResult_t pcclBroadcastAsync(void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *,
                                    pcclAsyncReduceOp_t *);
    pcclResult_t pcclBarrier(uint64_t, const pcclComm_t *, pcclReduceInfo_t *);

    typedef struct { size_t struct_size; const bool *unchanged; } pcclSyncOptions_t;
    pcclResult_t pcclSynchronizeSharedStateWithOptions(const pcclComm_t *, pcclSharedState_t *,
                                                       pcclSharedStateSyncStrategy_t, const pcclSyncOptions_t *,
                                                       pcclSharedStateSyncInfo_t *);

    typedef struct pcclDiLoCo_t pcclDiLoCo_t;
    typedef enum { pcclDiLoCoSynchronous = 0, pcclDiLoCoDelayed = 1, pcclDiLoCoStreaming = 2 } pcclDiLoCoMode_t;
    typedef enum { pcclOuterNesterov = 0, pcclOuterMomentum = 1, pcclOuterDescent = 2 } pcclOuterRule_t;
    typedef struct { const char *name; void *data; size_t count; pcclDataType_t datatype;
                     uint32_t fragment; } pcclDiLoCoTensor_t;
    typedef struct { size_t struct_size; pcclDiLoCoMode_t mode; uint32_t sync_every; uint32_t fragments;
                     uint32_t overlap; float mixing; float staleness_penalty; pcclOuterRule_t rule;
                     float learning_rate; float momentum; float momentum_limit; pcclCodec_t codec;
                     uint32_t block_elements; pcclRounding_t rounding; uint32_t error_feedback;
                     uint32_t minimum_peers; uint32_t check_every; double patience_seconds; uint64_t first_tag;
                     uint32_t returns; uint32_t reserved; } pcclDiLoCoOptions_t;
    typedef struct { uint64_t round; uint32_t fragment; uint32_t world_size; uint64_t tx_bytes; uint64_t rx_bytes;
                     double seconds_waited; } pcclDiLoCoRound_t;
    typedef struct { uint64_t round; uint64_t parameter_count; uint32_t fragment_count;
                     char parameters_hash[36]; } pcclDiLoCoInfo_t;
    pcclResult_t pcclDiLoCoCreate(const pcclComm_t *, const pcclDiLoCoTensor_t *, size_t, const pcclDiLoCoOptions_t *,
                                  pcclDiLoCo_t **);
    pcclResult_t pcclDiLoCoBegin(pcclDiLoCo_t *);
    pcclResult_t pcclDiLoCoStep(pcclDiLoCo_t *, float, pcclDiLoCoRound_t *, size_t, size_t *);
    pcclResult_t pcclDiLoCoTouchesNext(const pcclDiLoCo_t *, uint32_t, bool *);
    pcclResult_t pcclDiLoCoFragmentOf(const pcclDiLoCo_t *, const char *, uint32_t *);
    pcclResult_t pcclDiLoCoEnd(pcclDiLoCo_t *, pcclDiLoCoRound_t *, size_t, size_t *);
    pcclResult_t pcclDiLoCoGetInfo(const pcclDiLoCo_t *, pcclDiLoCoInfo_t *);
    pcclResult_t pcclDiLoCoGetSharedState(pcclDiLoCo_t *, pcclSharedState_t *);
    pcclResult_t pcclDiLoCoRestore(pcclDiLoCo_t *, uint64_t);
    pcclResult_t pcclDiLoCoLoad(pcclDiLoCo_t *, const char *);
    pcclResult_t pcclDiLoCoDestroy(pcclDiLoCo_t *);

    typedef struct pcclSnapshot_t pcclSnapshot_t;
    typedef struct { const uint64_t *extents; size_t rank; } pcclShape_t;
    typedef struct { size_t struct_size; uint32_t keep; uint32_t foreground;
                     const pcclShape_t *shapes; } pcclSaveOptions_t;

    pcclResult_t pcclSaveSharedState(const pcclSharedState_t *, const char *, const pcclSaveOptions_t *,
                                     pcclSnapshot_t **);
    pcclResult_t pcclAwaitSnapshot(pcclSnapshot_t *);
    pcclResult_t pcclLoadSharedState(const char *, pcclSharedState_t *);
    pcclResult_t pcclReadTensor(const pcclTensorInfo_t *, void *);
    pcclResult_t pcclWriteTensor(const pcclTensorInfo_t *, const void *);
    """
)

FUNCTIONS = (
    "pcclInit",
    "pcclCreateCommunicator",
    "pcclGetAttribute",
    "pcclDestroyCommunicator",
    "pcclConnect",
    "pcclUpdateTopology",
    "pcclArePeersPending",
    "pcclOptimizeTopology",
    "pcclAllReduce",
    "pcclAllReduceAsync",
    "pcclAwaitAsyncReduce",
    "pcclAllReduceMultipleWithRetry",
    "pcclSynchronizeSharedState",
    "pcclCreateMaster",
    "pcclRunMaster",
    "pcclInterruptMaster",
    "pcclMasterAwaitTermination",
    "pcclDestroyMaster",
    "pcclGetBuildInfo",
)

# What pccl_ext.h has beyond PCCL 1.0. Another library may lack it, and is good for everything else.
EXTENSION_FUNCTIONS = (
    "pcclAllReduceWithOptions",
    "pcclAllReduceAsyncWithOptions",
    "pcclAwaitAsyncReduceParts",
    "pcclAllReduceMultipleWithOptions",
    "pcclFreeErrorFeedback",
    "pcclSynchronizeSharedStateWithOptions",
)
SNAPSHOT_FUNCTIONS = ("pcclSaveSharedState", "pcclAwaitSnapshot", "pcclLoadSharedState")

_loading = threading.Lock()
_library: Any = None
_initialized = False


def library_path() -> str:
    """The file of the shared library that is used: the one that ``PCCL_LIBRARY`` names, else the package's own.

    Raises ImportError when there is none. Changes of ``PCCL_LIBRARY`` after the first use have no effect.
    """
    named = os.environ.get("PCCL_LIBRARY")
    if named:
        if not Path(named).is_file():
            raise ImportError(f"PCCL_LIBRARY names {named!r}, which is not a file. Correct or unset it.")
        return named
    package = Path(__file__).resolve().parent
    packed = package / "libpccl.so"
    if packed.is_file():
        return str(packed)
    # An editable installation runs from the checkout: <root>/bindings/python/src/pccl.
    if package.parts[-4:] == ("bindings", "python", "src", "pccl"):
        built = package.parents[3] / "dist" / "lib" / "libpccl.so"
        if built.is_file():
            return str(built)
        raise ImportError(f"{built} is missing. Run `make lib` in {package.parents[3]}, or set PCCL_LIBRARY.")
    raise ImportError(f"{packed} is missing. Install the package again, or set PCCL_LIBRARY to a libpccl.so.")


def library() -> Any:
    """The loaded library. Raises ImportError when it is missing, cannot be loaded, or is some other library."""
    global _library
    with _loading:
        if _library is None:
            path = library_path()
            try:
                opened = ffi.dlopen(os.path.abspath(path))
            except OSError as reason:
                raise ImportError(f"{path} cannot be loaded: {reason}. Was it built for this machine?") from reason
            for name in FUNCTIONS:
                if not hasattr(opened, name):
                    raise ImportError(f"{path} has no function {name}: it is not a libpccl that this package can use.")
            _library = opened
    return _library


def initialized_library() -> Any:
    """The loaded library, after pcclInit, which communicators need."""
    global _initialized
    from ._errors import check

    lib = library()
    with _loading:
        if not _initialized:
            check(lib.pcclInit(), "pcclInit")
            _initialized = True
    return lib


def require_extension(lib: Any, argument: str, functions: Tuple[str, ...] = EXTENSION_FUNCTIONS) -> None:
    """Raises NotImplementedError, which names ``argument``, when the library lacks one of ``functions`` of pccl_ext.h."""
    for name in functions:
        if not hasattr(lib, name):
            raise NotImplementedError(
                f"{argument} is not possible with {library_path()}, which has no function {name}. Leave the argument "
                "out, or unset PCCL_LIBRARY."
            )


def synchronize_stream(stream: int, name: str) -> None:
    """Waits for what was put on a CUDA stream of the program's. Raises ValueError when the driver does not."""
    try:
        driver = ffi.dlopen(os.environ.get("PCCL_LIBCUDA", "libcuda.so.1"))
    except OSError as reason:
        raise ValueError(f"{name} is said to be on a CUDA device, and there is no driver: {reason}") from None
    code = driver.cuStreamSynchronize(ffi.cast("void *", stream))
    if code != 0:
        raise ValueError(f"the CUDA stream of {name} cannot be waited for: error {code}. Synchronise it first.")


@dataclass(frozen=True)
class CudaStatus:
    """What the CUDA driver of this process can be used for."""

    is_ready: bool
    driver_version: Tuple[int, int]
    device_count: int
    reason: str
    """Why it is not ready; empty if it is."""


def cuda_status() -> CudaStatus:
    """Loads the CUDA driver, unless that was done, and tells how that went. Raises ImportError without the library."""
    from ._errors import check

    status = ffi.new("pcclCudaStatus_t *")
    lib = library()
    require_extension(lib, "cuda_status", ("pcclGetCudaStatus",))
    check(lib.pcclGetCudaStatus(status), "pcclGetCudaStatus")
    version = int(status.driver_version)
    return CudaStatus(
        is_ready=bool(status.is_ready),
        driver_version=(version // 1000, version % 1000 // 10),
        device_count=int(status.device_count),
        reason=ffi.string(status.reason).decode(errors="replace"),
    )


@dataclass(frozen=True)
class BuildInfo:
    """How the loaded library was built."""

    has_cuda_support: bool
    library: str
    """File that it was loaded from."""


def build_info() -> BuildInfo:
    """Tells how the loaded library was built. Raises ImportError when it cannot be loaded."""
    from ._errors import check

    info = ffi.new("pcclBuildInfo_t *")
    check(library().pcclGetBuildInfo(info), "pcclGetBuildInfo")
    return BuildInfo(has_cuda_support=bool(info.has_cuda_support), library=library_path())
