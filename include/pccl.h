/*
 * The PCCL C API: collective communication that survives the loss of peers.
 *
 * This header has the names, struct layouts and enum values of PCCL 1.0. It is C99, and C++ from C++11 on.
 *
 * The life of a peer, in calls:
 *
 *     pcclInit -> pcclCreateCommunicator -> pcclConnect
 *              -> every turn: pcclUpdateTopology (the join point), then collectives
 *              -> pcclDestroyCommunicator
 *
 * What holds for every function:
 *
 * - Results. A function returns a pcclResult_t and never ends the process, aborts, or prints to standard output. The
 *   reason for a failure is one line on standard error (see the environment variable PCCL_LOG_LEVEL). Output
 *   parameters are written only on pcclSuccess. pcclInternalError may come from any function: the library found a fault
 *   of its own; the communicator then answers every call with it, except pcclDestroyCommunicator.
 * - Initialisation. Before pcclInit every function returns pcclNotInitialized, except pcclInit itself, the functions of
 *   a master, and pcclGetBuildInfo.
 * - Null. A null pointer gives pcclInvalidArgument, unless the parameter is marked PCCL_NULLABLE.
 * - Threads. Any thread may call any function at any time, on the same communicator or on several. The one exception
 *   is a destroy function: when it is called no other thread may be inside a call on that object, or begin one.
 * - Ownership. The library keeps no pointer to a struct that is passed in: parameters and descriptors are copied
 *   before the function returns. Tensor buffers are lent, from the call until the operation has ended.
 * - "Joint" functions are called by all members of a peer group, the same ones in the same order, and return when all
 *   have called. Members that wait for each other in different joint functions, or one in a joint function and one in
 *   a collective, get pcclInvalidUsage after a third of the time-out (environment variable PCCL_TIMEOUT); in
 *   pcclArePeersPending, where a thread may launch what others wait for, after the whole of it.
 */
#ifndef PCCL_H
#define PCCL_H

#include "ccoip_inet.h"

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

/** Marks what the shared library exports. */
#if defined(__GNUC__)
#define PCCL_EXPORT __attribute__((visibility("default")))
#else
#define PCCL_EXPORT
#endif

/** Marks a pointer that may be null. A word for the reader: it expands to nothing. */
#define PCCL_NULLABLE

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------------------- */
/* Results                                                                                                          */
/* ---------------------------------------------------------------------------------------------------------------- */

/** What a call came to. Which function returns which, and when, stands with each function. */
typedef enum pcclResult_t {
    /** Done. */
    pcclSuccess = 0,

    /** pcclInit was not called yet. */
    pcclNotInitialized = 1,

    /** A fault of the library, or memory or threads could not be had. Destroy the communicator. */
    pcclInternalError = 2,

    /** An argument is null, out of range or contradicts another; or members passed descriptors that do not match. */
    pcclInvalidArgument = 3,

    /** The call is not allowed in this state, or not available in this release. */
    pcclInvalidUsage = 4,

    /** A collective needs at least two members in the peer group. The buffers are as they were. */
    pcclTooFewPeers = 5,

    /** The master cannot be reached, turned this peer away, or has evicted it. pcclConnect may be tried again. */
    pcclMasterConnectionFailed = 6,

    /** Another peer cannot be reached. Not returned in this release: such a newcomer is turned away by the master. */
    pcclRankConnectionFailed = 7,

    /** A member was lost during the operation. The input is whole, the attributes are new: call again. */
    pcclRankConnectionLost = 8,

    /** No member has a shared state with the revision that is due that it may give, or none is left that had it. */
    pcclNoSharedStateAvailable = 9,

    /** Asynchronous operations of this communicator have to be awaited first. */
    pcclPendingAsyncOps = 10,

    /** The join point could not be finished: this peer was evicted, or the master stayed away for too long. */
    pcclUpdateTopologyFailed = 11,

    /** The topology could not be optimised. */
    pcclTopologyOptimizationFailed = 12
} pcclResult_t;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Tensors and reductions                                                                                           */
/* ---------------------------------------------------------------------------------------------------------------- */

/** The type of the elements of a tensor. Every operation works with each of them. */
typedef enum pcclDataType_t {
    pcclUint8 = 0,
    pcclInt8 = 1,
    pcclInt16 = 2,
    pcclUint16 = 3,
    pcclUint32 = 4,
    pcclInt32 = 5,
    pcclUint64 = 6,
    pcclInt64 = 7,
    /** IEEE 754 binary16. Contributions are accumulated in binary32; the result is rounded to nearest, ties to even. */
    pcclFloat16 = 8,
    /** The upper half of a binary32. Accumulated and rounded like pcclFloat16. */
    pcclBFloat16 = 9,
    /** IEEE 754 binary32. */
    pcclFloat = 10,
    /** IEEE 754 binary64. */
    pcclDouble = 11
} pcclDataType_t;

/** Where the memory of a tensor is. */
typedef enum pcclDeviceType_t {
    pcclDeviceCpu = 0,
    /** Memory of a CUDA device. */
    pcclDeviceCuda = 1
} pcclDeviceType_t;

/**
 * How the contributions to an element become one value. They are combined in rank order, whatever order they arrive
 * in, so that the same inputs in the same view of the group give the same bits on every member and in every run.
 */
typedef enum pcclRedOp_t {
    /** Integers wrap around. */
    pcclSum = 0,
    /**
     * The sum divided by the world size with which the result was made. Integers are summed in a wider type, so that
     * nothing wraps, and the division drops the fraction (towards zero). Floating point is divided once, at the end.
     */
    pcclAvg = 1,
    /** Integers wrap around. */
    pcclProd = 2,
    /** NaN if any contribution is NaN. -0 is less than +0. */
    pcclMax = 3,
    /** NaN if any contribution is NaN. -0 is less than +0. */
    pcclMin = 4
} pcclRedOp_t;

/** How the values of a tensor are spread, as far as the caller knows. A hint: it never changes a result here. */
typedef enum pcclDistributionHint_t {
    pcclDistributionNone = 0,
    pcclDistributionNormal = 1,
    pcclDistributionUniform = 2
} pcclDistributionHint_t;

/** How a tensor is made smaller for its way between peers. */
typedef enum pcclQuantizationAlgorithm_t {
    /** Elements travel in their own type. */
    pcclQuantNone = 0,
    /** Each block of 256 values travels as codes from its lowest value to its highest. */
    pcclQuantMinMax = 1,
    /** The same, with a range that contains zero, which stays zero. */
    pcclQuantZeroPointScale = 2
} pcclQuantizationAlgorithm_t;

/** The type of the operands. */
typedef struct pcclReduceOperandDescriptor_t {
    pcclDataType_t datatype;
    pcclDistributionHint_t distribution_hint;
} pcclReduceOperandDescriptor_t;

/**
 * The form in which the operands travel. With pcclQuantNone the type is not looked at.
 *
 * Integer types say how many bits a code has. With pcclFloat16 and pcclBFloat16 each value is rounded to that type,
 * whatever the algorithm. Integer operands travel as they are, and so does what would not become smaller: pcclFloat
 * with codes of 32 bits, for example. All members end with the same bits; docs/collectives.md says how far these may be
 * off.
 */
typedef struct pcclQuantizationOptions_t {
    pcclDataType_t quantized_datatype;
    pcclQuantizationAlgorithm_t algorithm;
} pcclQuantizationOptions_t;

/** One reduction. All members pass the same values; otherwise the operation fails on all with pcclInvalidArgument. */
typedef struct pcclReduceDescriptor_t {
    /** Number of elements, not of bytes. At least 1. */
    size_t count;

    pcclRedOp_t op;

    /**
     * The name by which members find each other's call. Any number. Operations that run at the same time have
     * different tags; when one has been awaited its tag is free again. Nothing grows with the number of tags used.
     */
    uint64_t tag;

    pcclReduceOperandDescriptor_t src_descriptor;
    pcclQuantizationOptions_t quantization_options;
} pcclReduceDescriptor_t;

/** One reduction together with its buffers, for pcclAllReduceMultipleWithRetry. */
typedef struct pcclReduceSingleDescriptor_t {
    /** The contribution. Not written, unless it is also `recvbuf`. */
    void *sendbuf;
    /** The result. Equal to `sendbuf` for a reduction in place; the two may not overlap in part. */
    void *recvbuf;
    pcclReduceDescriptor_t descriptor;
} pcclReduceOpDescriptor_t;

/** What an operation did. */
typedef struct pcclReduceInfo_t {
    /** How many members' contributions are in the result. */
    uint32_t local_world_size;
    /** Bytes of tensor data that this peer sent for the operation. */
    uint64_t tx_bytes;
    /** Bytes of tensor data that this peer received for the operation. */
    uint64_t rx_bytes;
} pcclReduceInfo_t;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Communicators                                                                                                    */
/* ---------------------------------------------------------------------------------------------------------------- */

/** A peer's membership in a run. One process may hold several; each is a peer of its own. */
typedef struct pcclComm_t pcclComm_t;

/** Kept for programs that name it. No function takes or gives one. */
typedef struct pcclRankInfo_t pcclRankInfo_t;

/** An asynchronous operation. A plain value: copy it freely, there is nothing to free. */
typedef struct pcclAsyncReduceOp_t {
    pcclComm_t *comm;
    uint64_t tag;
} pcclAsyncReduceOp_t;

/** The 128 bits that name a peer. Kept for programs that name the type; no function takes or gives one. */
typedef struct pcclRankUuid_t {
    uint8_t data[16];
} pcclRankUuid_t;

/** What a communicator is made from. */
typedef struct pcclCommCreateParams_t {
    /** Where the master listens. */
    ccoip_socket_address_t master_address;

    /**
     * The peer group to be a member of, any number. Collectives, join points and shared state span one group. Groups
     * do not wait for each other, and a loss in one is not felt in another.
     */
    uint32_t peer_group;

    /** How many connections to keep to each other member, as a hint: 256 at most. 0 lets the library choose. */
    uint32_t p2p_connection_pool_size;
} pcclCommCreateParams_t;

/** What pcclGetAttribute can tell. Only admitted peers count, not those that still wait in pcclConnect. */
typedef enum pcclAttribute_t {
    /** Peers in the run, all groups together. */
    PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE = 1,
    /** Peers in this peer's group. */
    PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE = 2,
    /** Groups that have at least one peer. */
    PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS = 3,
    /** Peers in the group that has the most. */
    PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE = 4
} pcclAttribute_t;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Shared state                                                                                                     */
/* ---------------------------------------------------------------------------------------------------------------- */

/** What a member is willing to do in a synchronisation. */
typedef enum pcclSharedStateSyncStrategy_t {
    /** Give or take, so that all end with the content that most members hold. All members must say the same. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR = 0,
    /** Only take: this member's content is not elected and not sent. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY = 1,
    /** Only give: this member's content must be the elected one. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY = 2
} pcclSharedStateSyncStrategy_t;

/** One entry of a shared state. */
typedef struct pcclTensorInfo_t {
    /** The key, unique in its state: a C string. */
    const char *name;
    void *data;
    /** Number of elements. */
    size_t count;
    pcclDataType_t datatype;
    pcclDeviceType_t device_type;
    /** Members may hold different values of this entry: it is neither compared nor sent on its own. */
    bool allow_content_inequality;
} pcclTensorInfo_t;

/** The tensors that all members are to hold with the same content. All memory is the caller's. */
typedef struct pcclSharedState_t {
    /** Which version of the content this is; grows by one from synchronisation to synchronisation. */
    uint64_t revision;
    /** Number of entries. */
    size_t count;
    pcclTensorInfo_t *infos;
} pcclSharedState_t;

/** What a synchronisation moved. */
typedef struct pcclSharedStateSyncInfo_t {
    uint64_t tx_bytes;
    uint64_t rx_bytes;
} pcclSharedStateSyncInfo_t;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Masters                                                                                                          */
/* ---------------------------------------------------------------------------------------------------------------- */

/** A master inside this process: the one place that admits and evicts peers. No tensor data passes through it. */
typedef struct pcclMasterInstanceState_t pcclMasterInstance_t;

/** What this build of the library can do. */
typedef struct pcclBuildInfo_t {
    /** Whether tensors may lie in the memory of a CUDA device. True, whether or not there is a driver: see
     * docs/cuda.md. */
    bool has_cuda_support;
} pcclBuildInfo_t;

/* ---------------------------------------------------------------------------------------------------------------- */
/* Functions of a peer                                                                                              */
/* ---------------------------------------------------------------------------------------------------------------- */

/**
 * Makes the library ready and reads its environment variables. Does not block. May be called again, from any thread:
 * the later calls do nothing and succeed.
 *
 * Results:
 * - pcclSuccess: ready.
 */
PCCL_EXPORT pcclResult_t pcclInit(void);

/**
 * Makes a communicator. Does not block and does not touch the network: that is pcclConnect's work.
 *
 * @param params   where the master is and which group to join; copied.
 * @param comm_out receives the communicator, the caller's to end with pcclDestroyCommunicator.
 *
 * Results:
 * - pcclSuccess: `*comm_out` is a new communicator.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a pointer is null, or the master address is neither IPv4 nor IPv6.
 */
PCCL_EXPORT pcclResult_t pcclCreateCommunicator(const pcclCommCreateParams_t *params, pcclComm_t **comm_out);

/**
 * Tells a number about the run, as this peer knows it now. Never blocks, and is always the current view: after a call
 * that reports a loss the numbers are those of the survivors.
 *
 * @param communicator  a connected communicator.
 * @param attribute     which number.
 * @param attribute_out receives it.
 *
 * Results:
 * - pcclSuccess: `*attribute_out` is the number.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a pointer is null, or the attribute is unknown.
 * - pcclInvalidUsage: the communicator is not connected.
 */
PCCL_EXPORT pcclResult_t pcclGetAttribute(const pcclComm_t *communicator, pcclAttribute_t attribute,
                                          int *attribute_out);

/**
 * Leaves the run, if connected, and frees the communicator; the pointer and all handles made from it are dead
 * afterwards. Blocks only until the communicator's own threads have ended. Operations that this peer launched and has
 * not awaited end; on the other members this is a graceful leave, which they see as a loss.
 *
 * No buffer is used any more when the function has returned. No other thread may be inside a call on the communicator.
 *
 * Results:
 * - pcclSuccess: in every state of the communicator.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the pointer is null.
 */
PCCL_EXPORT pcclResult_t pcclDestroyCommunicator(pcclComm_t *communicator);

/**
 * Joins the run. Blocks until this peer is a member of its group: the first peer of a group at once, a later one when
 * the members reach a join point (pcclUpdateTopology), which may take as long as the members take.
 *
 * On return this peer is at the point where the members are when their pcclUpdateTopology returns. They go on to
 * their collectives, and so must the newcomer: it must not call pcclUpdateTopology in the turn in which it joined.
 *
 * After a failure the communicator is as it was, and the call may be made again.
 *
 * Results:
 * - pcclSuccess: a member.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: already connected, or another thread is connecting it.
 * - pcclMasterConnectionFailed: the master refused or cannot be reached, speaks another version of the protocol, or
 *   turned this peer away while it waited, for instance because the members cannot reach it. The reason is logged.
 */
PCCL_EXPORT pcclResult_t pcclConnect(pcclComm_t *communicator);

/**
 * The join point: admits the peers that wait in pcclConnect. Joint; blocks until all members of the group have called
 * and the newcomers are connected to everybody. With nobody waiting it costs one exchange with the master. A group of
 * one is fine. Newcomers that cannot be reached are turned away, to no harm of the members; members that are lost
 * meanwhile are left out.
 *
 * Results:
 * - pcclSuccess: the view is new, or still the same; see pcclGetAttribute.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: not connected; or other members wait in a different call.
 * - pcclPendingAsyncOps: this peer has operations that are not awaited. Nothing was done; await them and call again.
 * - pcclUpdateTopologyFailed: this peer was evicted, or the master stayed away for longer than its grace.
 */
PCCL_EXPORT pcclResult_t pcclUpdateTopology(pcclComm_t *communicator);

/**
 * Asks whether peers wait in pcclConnect for this group, so that a join point can be skipped when nobody does. Joint,
 * and all members get the same answer: either all call pcclUpdateTopology next or none does. Blocks until all have
 * called; a group of one gets its answer at once. Allowed while asynchronous operations run.
 *
 * @param communicator a connected communicator.
 * @param pending_out  receives the answer.
 *
 * Results:
 * - pcclSuccess: `*pending_out` is the answer.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a pointer is null.
 * - pcclInvalidUsage: not connected; this peer was evicted, or the master stayed away for longer than its grace; or
 *   other members wait in a different call.
 */
PCCL_EXPORT pcclResult_t pcclArePeersPending(const pcclComm_t *communicator, bool *pending_out);

/**
 * Arranges the group by what is known of the links between its members: ranks in the order of the best ring, shares of
 * a tensor that suit the links, algorithms chosen by measured latencies and rates. Joint: blocks until every member
 * calls it. Admits nobody, and nothing is worse after it than before.
 *
 * Figures come from the transfers so far, so it is of most use after some operations of a usual size, and again after
 * a newcomer was admitted. Links that have carried next to nothing are probed first, one after the other: some
 * milliseconds each in a local network, about a second each over long distances, a minute in all at most. Ranks may be
 * others afterwards. If a member is lost meanwhile, the others finish the call.
 *
 * Results:
 * - pcclSuccess: done, also when there was nothing to better.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: not connected; fewer than two members; or other members wait in a different call.
 * - pcclTopologyOptimizationFailed: operations are not awaited; this peer was evicted; or the master stayed away for
 *   longer than its grace.
 */
PCCL_EXPORT pcclResult_t pcclOptimizeTopology(const pcclComm_t *communicator);

/**
 * Reduces a tensor over the group, and blocks until the result is there: pcclAllReduceAsync and pcclAwaitAsyncReduce
 * in one. Every member calls with a descriptor of the same values, at its own time, and all members get the same
 * verdict; on success the result has the same bits on all of them.
 *
 * @param sendbuf         this peer's contribution, `count` elements; only read, unless it is also `recvbuf`.
 * @param recvbuf         receives the result. Equal to `sendbuf` for a reduction in place; no overlap in part. After
 *                        a failure a separate `recvbuf` has unspecified content, in place it has the input again.
 * @param descriptor      what to do; copied.
 * @param communicator    a connected communicator.
 * @param reduce_info_out receives what the operation did.
 *
 * Results: all of pcclAllReduceAsync (before anything was sent; the buffers are untouched), and those of
 * pcclAwaitAsyncReduce:
 * - pcclSuccess: `recvbuf` has the result.
 * - pcclNotInitialized, pcclInvalidUsage, pcclTooFewPeers: as in pcclAllReduceAsync.
 * - pcclInvalidArgument: as in pcclAllReduceAsync; or the members' descriptors differ.
 * - pcclRankConnectionLost, pcclMasterConnectionFailed: as in pcclAwaitAsyncReduce.
 */
PCCL_EXPORT pcclResult_t pcclAllReduce(const void *sendbuf, void *recvbuf, const pcclReduceDescriptor_t *descriptor,
                                       const pcclComm_t *communicator, pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/**
 * Begins to reduce a tensor over the group and returns without waiting. Members may begin their operations in any
 * order: the tag says which belong together. Every operation that was begun has to be awaited.
 *
 * @param sendbuf           lent until pcclAwaitAsyncReduce has returned: not to be changed or freed.
 * @param recvbuf           lent until pcclAwaitAsyncReduce has returned: not to be read, changed or freed.
 * @param descriptor        what to do; copied.
 * @param communicator      a connected communicator.
 * @param reduce_handle_out receives the handle to await.
 *
 * Results, in the order in which they are checked:
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the communicator is null.
 * - pcclInvalidUsage: not connected.
 * - pcclMasterConnectionFailed: this peer was taken for lost and evicted. Connect again to go on.
 * - pcclInvalidArgument: another pointer is null; the buffers overlap in part; the element type, the quantised type
 *   (looked at only with an algorithm), the algorithm or the operation is unknown; `count` is 0, or so large that the
 *   size in bytes does not fit a size_t.
 * - pcclTooFewPeers: the group has fewer than two members.
 * - pcclInvalidArgument: an operation with this tag is launched and not awaited.
 * - pcclSuccess: begun; `*reduce_handle_out` is the handle.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceAsync(const void *sendbuf, void *recvbuf,
                                            const pcclReduceDescriptor_t *descriptor, const pcclComm_t *communicator,
                                            pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Waits until an operation has ended, and takes its result. Operations may be awaited in any order and from any
 * thread. Several threads may wait for the same one and get the same result; once it was taken the handle is used up.
 * The buffers are the caller's again on return, except after pcclNotInitialized and pcclInvalidArgument for a handle
 * that is not known.
 *
 * @param reduce_handle   the handle from pcclAllReduceAsync.
 * @param reduce_info_out receives what the operation did.
 *
 * Results:
 * - pcclSuccess: `recvbuf` has the result.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the pointer or the handle's communicator is null; the handle is unknown or was awaited
 *   before; or the members' descriptors differ, which all of them are told, with both descriptors in the log.
 * - pcclInvalidUsage: other members wait in a joint function.
 * - pcclRankConnectionLost: a member was lost, gracefully or not, and the survivors could not finish. They all get
 *   this result. The attributes are already those of the survivors, the input is whole (in place as well): the same
 *   call may be made again.
 * - pcclMasterConnectionFailed: this peer was taken for lost and evicted. The input is whole. Connect again to go on.
 * - pcclInternalError: no memory was left for it, and this peer has left the run, so that the others can go on. The
 *   input is whole. Connect again to go on. Or a CUDA device does not take the result, which the others have: this peer
 *   is still a member, and what is in the device's memory is undefined.
 */
PCCL_EXPORT pcclResult_t pcclAwaitAsyncReduce(const pcclAsyncReduceOp_t *reduce_handle,
                                              pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/**
 * Reduces several tensors, some at a time, until all are reduced or this peer is alone, whoever is lost meanwhile.
 * Blocks. Every member passes the same descriptors.
 *
 * What a loss interrupts goes on, and what was finished before keeps the lost member's contribution. So tensors may
 * have different numbers of contributions, and in an average, a maximum or a minimum elements may; all elements of a
 * sum or a product have those of the same members. pccl_ext.h has a function with a choice.
 *
 * @param descriptors     the operations with their buffers; copied. The tags must differ from each other.
 * @param count           number of descriptors, at least 1.
 * @param communicator    a connected communicator.
 * @param reduce_info_out receives the world size at the end, and all traffic added up.
 * @param max_in_flight   how many to run at the same time, at least 1.
 *
 * Results:
 * - pcclSuccess: every tensor is reduced. Never returned otherwise.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a pointer is null, `count` is 0, `max_in_flight` is less than 1, two tags are equal, a
 *   descriptor is one that pcclAllReduceAsync refuses, or the members' descriptors differ.
 * - pcclInvalidUsage: not connected; or other members wait in a joint function.
 * - pcclTooFewPeers: this peer is, or was left, alone. Tensors that were not finished have their input whole; the
 *   finished ones have their result.
 * - pcclMasterConnectionFailed: this peer was taken for lost and evicted. Buffers as with pcclTooFewPeers.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceMultipleWithRetry(const pcclReduceOpDescriptor_t *descriptors, size_t count,
                                                        const pcclComm_t *communicator,
                                                        pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                                        int max_in_flight);

/**
 * Brings all members of the group to the same content of the same tensors. Joint: it returns when all members hold it.
 *
 * One content is elected: that of most members which have the revision that is due and do not only receive; among
 * equals that of the lowest rank. Who holds something else receives the chunks that differ, from all who have them, and
 * its revision becomes the others'. The first synchronisation of a group may have any revision and sets it; from then
 * on one more each time is due. A member that is behind takes what is elected. A member that is alone holds what it
 * holds. docs/shared-state.md tells the rules.
 *
 * @param communicator  a connected communicator.
 * @param shared_state  the tensors, in the caller's memory, lent until the function returns: entries in any order,
 * names, types and counts as at the other members. `revision` is written where it was behind. Any alignment, and a
 * count of 0, will do; at most 65536 entries, with names of up to 1024 bytes.
 * @param strategy      whether this member gives, takes, or either.
 * @param sync_info_out receives what was moved to and from this peer.
 *
 * Results:
 * - pcclSuccess: all members hold the elected content.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a pointer is null, a strategy, a type or a device type does not exist, two entries have one
 * name, a name is not UTF-8 or too long.
 * - pcclInvalidUsage: not connected; device memory; members wait in different calls; or this member's state does not go
 *   with the others' and it was evicted: a revision above the one that is due, names, types, counts or flags unlike the
 *   elected ones, ENFORCE_POPULAR mixed with another strategy, SEND_ONLY with another content than the elected one. The
 *   log names both sides, and the others go on without it.
 * - pcclPendingAsyncOps: an operation was launched and not awaited.
 * - pcclNoSharedStateAvailable: on all members, when none has the revision that is due and gives it, or all are lost
 * that had it. The group can go on.
 * - pcclMasterConnectionFailed: this peer was taken for lost and evicted, or the master stayed away for too long.
 *
 * After a failure the tensors of a member that was receiving may be partly old and partly new.
 */
PCCL_EXPORT pcclResult_t pcclSynchronizeSharedState(const pcclComm_t *communicator, pcclSharedState_t *shared_state,
                                                    pcclSharedStateSyncStrategy_t strategy,
                                                    pcclSharedStateSyncInfo_t *PCCL_NULLABLE sync_info_out);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Functions of a master; none of them needs pcclInit                                                               */
/* ---------------------------------------------------------------------------------------------------------------- */

/**
 * Makes a master. Does not block and does not open the port: that is pcclRunMaster's work.
 *
 * @param listen_address    the address and port to listen on; the port must not be 0. The address 0.0.0.0 or ::
 *                          listens on all interfaces.
 * @param master_handle_out receives the master, the caller's to end with pcclDestroyMaster.
 *
 * Results:
 * - pcclSuccess: `*master_handle_out` is a new master.
 * - pcclInvalidArgument: the pointer is null, or the address is neither IPv4 nor IPv6.
 */
PCCL_EXPORT pcclResult_t pcclCreateMaster(ccoip_socket_address_t listen_address,
                                          pcclMasterInstance_t **master_handle_out);

/**
 * Starts a master on a thread of its own and returns at once. When it returns pcclSuccess peers can connect.
 *
 * Results:
 * - pcclSuccess: it listens.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: it was run before, or the address cannot be listened on (most often: the port is in use). After
 *   the latter destroy it and make another one.
 */
PCCL_EXPORT pcclResult_t pcclRunMaster(pcclMasterInstance_t *master_instance);

/**
 * Asks a running master to end, and returns without waiting for it. May be called again, and after it has ended.
 * Connected peers are not told to stop: see pcclMasterConnectionFailed.
 *
 * Results:
 * - pcclSuccess: it ends, or has ended.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: it was never run.
 */
PCCL_EXPORT pcclResult_t pcclInterruptMaster(pcclMasterInstance_t *master_instance);

/**
 * Blocks until a master has ended, which it does when another thread interrupts it, or was interrupted already.
 *
 * Results:
 * - pcclSuccess: it has ended. Its port is free.
 * - pcclInvalidArgument: the pointer is null.
 * - pcclInvalidUsage: it was never run.
 */
PCCL_EXPORT pcclResult_t pcclMasterAwaitTermination(pcclMasterInstance_t *master_instance);

/**
 * Frees a master. One that still runs is ended first, for which the function blocks. No other thread may be inside a
 * call on it.
 *
 * Results:
 * - pcclSuccess: in every state of the master.
 * - pcclInvalidArgument: the pointer is null.
 */
PCCL_EXPORT pcclResult_t pcclDestroyMaster(pcclMasterInstance_t *master_instance);

/* ---------------------------------------------------------------------------------------------------------------- */

/**
 * Tells what this build of the library can do. Does not block and does not need pcclInit.
 *
 * Results:
 * - pcclSuccess: `*info` is filled.
 * - pcclInvalidArgument: the pointer is null.
 */
PCCL_EXPORT pcclResult_t pcclGetBuildInfo(pcclBuildInfo_t *info);

#ifdef __cplusplus
}
#endif

#endif /* PCCL_H */
