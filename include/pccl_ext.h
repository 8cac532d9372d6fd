/*
 * What this library has beyond the PCCL 1.0 API. Programs that are to run on other implementations leave it out.
 *
 * What the top of pccl.h says of every function holds for these too.
 */
#ifndef PCCL_EXT_H
#define PCCL_EXT_H

#include "pccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * What becomes of an operation that every survivor had entered when a member was lost. It need not be the same at all
 * members: if one of the survivors says pcclOnLossAbort, that holds for all, else if one says pcclOnLossResumeWhole,
 * that.
 *
 * Whatever it is, an operation that some survivor had not entered begins again by itself, one whose result all
 * survivors hold is a success, and one of whose members a single one is left ends with pcclRankConnectionLost. A broken
 * connection between members who live never ends an operation: it goes on with what was final.
 */
typedef enum pcclOnLoss_t {
    /** Inputs are made whole, and all survivors get pcclRankConnectionLost. What pcclAllReduce does. */
    pcclOnLossAbort = 0,
    /**
     * The survivors finish it, and no call returns before. What is final at any of them is kept, with the lost member's
     * contribution, and travels to those who lack it; all else is reduced from the contributions of those who are left.
     * So elements may have the contributions of more or fewer members: see pcclReducePart_t.
     */
    pcclOnLossResume = 1,
    /**
     * The same, but all elements have the contributions of the same members. What is final is kept if all of the result
     * is final somewhere, or if it was made by the members who are left; otherwise the operation begins again.
     */
    pcclOnLossResumeWhole = 2,
    /**
     * What the function does without options: pcclOnLossAbort for one operation; for many pcclOnLossResume of averages,
     * maxima and minima, and pcclOnLossResumeWhole of sums and products.
     */
    pcclOnLossUsual = 3
} pcclOnLoss_t;

/** Elements of a result, one after the other, that the same members have made. */
typedef struct pcclReducePart_t {
    /** Counted from the start of the buffer. */
    uint64_t first_element;
    uint64_t element_count;
    /** Of how many members the contributions are. An average is over so many. */
    uint32_t world_size;
} pcclReducePart_t;

/** What travels of floats instead of themselves. docs/collectives.md has the formats and what each loses at most. */
typedef enum pcclCodec_t {
    /** What the descriptor's quantization_options say; nothing else if their algorithm is pcclQuantNone. */
    pcclCodecOfDescriptor = 0,
    /** Codes of 8, 16 or 32 bits from the lowest value of a block to its highest. 32 bits are for pcclDouble. */
    pcclCodecMinMax8 = 1,
    pcclCodecMinMax16 = 2,
    pcclCodecMinMax32 = 3,
    /** The same for a range that contains zero, which stays zero. */
    pcclCodecZeroPoint8 = 4,
    pcclCodecZeroPoint16 = 5,
    pcclCodecZeroPoint32 = 6,
    /** 4 bits: whole numbers from -7 to 7 times a scale, which is a float, or with E8M0 a power of two in a byte. */
    pcclCodecInt4 = 7,
    pcclCodecInt4E8M0 = 8,
    /** 4 bits: sign, and zero or a power of two from 1/64 to 1, times a scale. */
    pcclCodecE3M0 = 9,
    pcclCodecE3M0E8M0 = 10,
    /** 8 bits: sign, 4 bits of exponent, 3 of mantissa, times a scale. */
    pcclCodecE4M3 = 11,
    pcclCodecE4M3E8M0 = 12,
    /** 16-bit floats, each by itself. */
    pcclCodecFloat16 = 13,
    pcclCodecBFloat16 = 14
} pcclCodec_t;

/** Which of the two codes next to a value it gets. */
typedef enum pcclRounding_t {
    pcclRoundingNearest = 0,
    /** Either, as often as the value is nearer to it: the mean of many is the value. */
    pcclRoundingStochastic = 1
} pcclRounding_t;

/**
 * How an operation is carried out. Set all of it to zero, then `struct_size`, then what is wanted. Members that later
 * releases add mean what this release does when they are zero; a structure that is longer than this library knows is
 * refused unless the rest is zero.
 */
typedef struct pcclReduceOptions_t {
    /** sizeof(pcclReduceOptions_t). */
    size_t struct_size;
    pcclOnLoss_t on_loss;
    /** The same at all members, as are the next two. It must be able to code the element type in fewer bytes. */
    pcclCodec_t codec;
    /** How many values share a scale: 32, 64, 128 or 256, or 0 for what suits the codec. */
    uint32_t block_elements;
    pcclRounding_t rounding;
    /**
     * 1: what coding loses of this member's contributions to a sum or an average is kept by the communicator under the
     * tag, and added to the next ones, so that in the long run nothing is lost. 0: it is lost. It takes 8 bytes for an
     * element (16 for a pcclDouble) until pcclFreeErrorFeedback or the end of the communicator, and starts anew when a
     * tag's count or type is another. Members need not agree on it. An operation that fails leaves it as it was.
     */
    uint32_t error_feedback;
    /** Must be 0. */
    uint32_t reserved;
    /**
     * The CUDA stream (a CUstream or cudaStream_t) that writes what is sent, where that is in a device's memory; null:
     * the default stream. It must not be capturing.
     */
    void *PCCL_NULLABLE cuda_stream;
} pcclReduceOptions_t;

/**
 * Tells why this thread's latest call that was no success was none: the function, and the reason in words for a person,
 * as in the log. Empty if there was no such call; a success leaves it alone. The text is the library's, and good until
 * the thread's next call that is no success. It may be called before pcclInit.
 *
 * Results:
 * - pcclSuccess
 * - pcclInvalidArgument: `text_out` is null.
 */
PCCL_EXPORT pcclResult_t pcclGetErrorText(const char *PCCL_NULLABLE *text_out);

/**
 * Writes what the flight recorder holds, the last events of this peer, to a file for `pccl trace`. The file is there as
 * a whole or not at all; one of that name is replaced. It may be called at any time, while other threads wait in calls
 * or after this peer has left the run, and blocks for as long as the disk takes for at most 8 MiB.
 *
 * Results:
 * - pcclSuccess
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the communicator or the path is null, or the file cannot be written; pcclGetErrorText says
 * why.
 * - pcclInvalidUsage: nothing is recorded (PCCL_RECORDER=0).
 */
PCCL_EXPORT pcclResult_t pcclDumpRecorder(const pcclComm_t *communicator, const char *path);

/** What the CUDA driver of this process can be used for. */
typedef struct pcclCudaStatus_t {
    /** Whether memory of a device may be handed to collectives. */
    bool is_ready;
    /** As the driver writes it: 12040 for 12.4. 0 where there is none. */
    int32_t driver_version;
    int32_t device_count;
    /** Why it is not ready, a text; empty if it is. */
    char reason[256];
} pcclCudaStatus_t;

/**
 * Loads and initialises the CUDA driver, unless that was done, and tells how that went. Nothing else of the library
 * does so: buffers of a device are recognised once the program itself uses the driver.
 *
 * Results:
 * - pcclSuccess: the status was written, ready or not.
 * - pcclInvalidArgument: `status_out` is null.
 */
PCCL_EXPORT pcclResult_t pcclGetCudaStatus(pcclCudaStatus_t *status_out);

/**
 * pcclAllReduce with options.
 *
 * @param sendbuf         as in pcclAllReduce; so are the next three.
 * @param recvbuf         may be `sendbuf`.
 * @param descriptor      the operation; copied.
 * @param communicator    a connected communicator.
 * @param options         how to carry it out; copied. Null: as pcclAllReduce does.
 * @param reduce_info_out receives what the operation did, the interrupted part included. If parts differ,
 *                        `local_world_size` is that of the parts made last.
 * @param parts_out       receives the parts of the result, in order, as many as there is room for. All elements are in
 *                        one of them; unless the operation was resumed there is one.
 * @param parts_capacity  how many fit there.
 * @param part_count_out  receives how many there are, which may be more.
 *
 * Results: those of pcclAllReduce, and pcclInvalidArgument also for options that do not exist or do not go together, or
 * for parts_out being null while parts_capacity is not 0. pcclInternalError also when there is no memory for error
 * feedback: the peer stays in the run, and the others wait for its call. pcclRankConnectionLost also with a policy to
 * resume: when no second member is left, or another member's call has pcclOnLossAbort.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceWithOptions(
    const void *sendbuf, void *recvbuf, const pcclReduceDescriptor_t *descriptor, const pcclComm_t *communicator,
    const pcclReduceOptions_t *PCCL_NULLABLE options, pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
    pcclReducePart_t *PCCL_NULLABLE parts_out, size_t parts_capacity, size_t *PCCL_NULLABLE part_count_out);

/**
 * pcclAllReduceAsync with options. Await it with pcclAwaitAsyncReduceParts, or with pcclAwaitAsyncReduce, which does
 * not tell of parts.
 *
 * Results: those of pcclAllReduceAsync, and pcclInvalidArgument also for options that do not exist or do not go
 * together. pcclInternalError when there is no memory for error feedback.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceAsyncWithOptions(const void *sendbuf, void *recvbuf,
                                                       const pcclReduceDescriptor_t *descriptor,
                                                       const pcclComm_t *communicator,
                                                       const pcclReduceOptions_t *PCCL_NULLABLE options,
                                                       pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * pcclAwaitAsyncReduce that tells of parts as well, for operations that any function has started. The last three
 * parameters are as in pcclAllReduceWithOptions.
 *
 * Results: those of pcclAwaitAsyncReduce, and pcclInvalidArgument also for parts_out being null while parts_capacity is
 * not 0: the operation is not awaited then.
 */
PCCL_EXPORT pcclResult_t pcclAwaitAsyncReduceParts(const pcclAsyncReduceOp_t *reduce_handle,
                                                   pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                                   pcclReducePart_t *PCCL_NULLABLE parts_out, size_t parts_capacity,
                                                   size_t *PCCL_NULLABLE part_count_out);

/**
 * pcclAllReduceMultipleWithRetry with options for all operations. With pcclOnLossAbort what a loss interrupts is
 * repeated from its beginning. Operands that the codec cannot make smaller travel as they are, and error feedback is
 * for the sums and averages among those that are coded.
 *
 * Results: those of pcclAllReduceMultipleWithRetry, and pcclInvalidArgument also for options that do not exist or do
 * not go together.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceMultipleWithOptions(const pcclReduceOpDescriptor_t *descriptors, size_t count,
                                                          const pcclComm_t *communicator,
                                                          const pcclReduceOptions_t *PCCL_NULLABLE options,
                                                          pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                                          int max_in_flight);

/**
 * Forgets what coding has lost of this peer's contributions under a tag, and frees the memory. For an operation in
 * flight that happens when it ends. May be called connected or not.
 *
 * Results:
 * - pcclSuccess: there was something, and it is forgotten.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the communicator is null, or nothing is kept under this tag.
 */
PCCL_EXPORT pcclResult_t pcclFreeErrorFeedback(const pcclComm_t *communicator, uint64_t tag);

/* ---------------------------------------------------------------------------------------------------------------- */
/* The other collectives                                                                                            */
/* ---------------------------------------------------------------------------------------------------------------- */

/**
 * What an all-gather, a reduce-scatter or a broadcast is of. Set all of it to zero, then `struct_size`, as with
 * pcclReduceOptions_t.
 *
 * Calls of members with the same tag belong together, as those of pcclAllReduce do, and all members get the same
 * outcome. Blocks and ranks are those of a world of `world_size` members, as
 * pcclGetRank says them. When a member is lost before the call, of which
 * the caller does not know, or during it, all get pcclRankConnectionLost: what was sent is whole, what was to be
 * received is undefined, the attributes are new, and the call may be made again with what suits them.
 */
typedef struct pcclCollectiveDescriptor_t {
    /** sizeof(pcclCollectiveDescriptor_t). */
    size_t struct_size;
    uint64_t tag;
    /** Elements of one member's block, or of the buffer of a broadcast. At least 1. */
    size_t count;
    pcclDataType_t datatype;
    /** Of a reduce-scatter. */
    pcclRedOp_t op;
    /** For how many members it is meant; 0: for as many as there are. */
    uint32_t world_size;
    /** Of a broadcast: the rank of the member that has what all are to get. */
    uint32_t root;
    /**
     * Of each: `cuda_stream`. Of a reduce-scatter: its codec and error feedback too. `on_loss` is not looked at. Null:
     * none.
     */
    const pcclReduceOptions_t *PCCL_NULLABLE options;
} pcclCollectiveDescriptor_t;

/**
 * Peers of several groups that are members all together or not at all: the processes of a node, say, each of which has
 * one shard of a model and reduces it with those that have the same shard at other nodes.
 */
typedef struct pcclEnsemble_t {
    /** The same at all of its members, and never used before: a node that is started again has another. */
    uint64_t id;
    /** How many members it has, 1 to 1024. */
    uint32_t size;
    /** Must be 0. */
    uint32_t reserved;
} pcclEnsemble_t;

/**
 * pcclCreateCommunicator for a peer that is admitted together with others.
 *
 * pcclConnect returns when all of them are members. They are admitted once all of them wait, at a join point that is
 * one for all groups they are in: pcclUpdateTopology and pcclArePeersPending of a group whose members came in ensembles
 * wait for the members of all groups that these ensembles are in, and tell all of them the same. If one of them is
 * lost, the others are taken for lost too; whoever leaves (pcclDestroyCommunicator) leaves alone. Peers with and
 * without an ensemble do not go together in a group: those that come later are turned away, and are those whose
 * ensemble lacks a group that the members' ensembles have.
 *
 * @param params   as in pcclCreateCommunicator; copied.
 * @param ensemble copied.
 * @param comm_out receives the communicator.
 *
 * Results: those of pcclCreateCommunicator, and
 * - pcclInvalidArgument: `ensemble` is null, or its size is out of range.
 */
PCCL_EXPORT pcclResult_t pcclCreateCommunicatorInEnsemble(const pcclCommCreateParams_t *params,
                                                          const pcclEnsemble_t *ensemble, pcclComm_t **comm_out);

/**
 * Tells this peer's place among its group's members, which are in the same order at each of them, and how many they
 * are, both as of now: they change with a join point, an optimisation of the topology, or the loss of a member.
 *
 * Results:
 * - pcclSuccess
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: the communicator is null.
 * - pcclInvalidUsage: not connected.
 * - pcclMasterConnectionFailed: this peer is out of the run.
 */
PCCL_EXPORT pcclResult_t pcclGetRank(const pcclComm_t *communicator, uint32_t *PCCL_NULLABLE rank_out,
                                     uint32_t *PCCL_NULLABLE world_size_out);

/**
 * Brings everybody's block to everybody.
 *
 * @param sendbuf         `count` elements of any alignment.
 * @param recvbuf         room for `count` elements of each member, in the order of ranks. `sendbuf` may be this
 *                        member's place in it; otherwise the two must not overlap.
 * @param descriptor      copied.
 * @param communicator    a connected communicator.
 * @param reduce_info_out receives how many took part, and what was moved.
 *
 * Results:
 * - pcclSuccess: everybody has all blocks.
 * - pcclNotInitialized: before pcclInit.
 * - pcclInvalidArgument: a null pointer; a count of 0 or one that does not fit into memory; values that do not exist;
 * buffers that overlap otherwise; more members than `world_size`; a tag that is in flight; or another member's call of
 * this tag is another.
 * - pcclInvalidUsage: not connected, or members wait for each other in different calls.
 * - pcclTooFewPeers: this peer is the only member of its group.
 * - pcclRankConnectionLost: a member was lost; see the descriptor.
 * - pcclMasterConnectionFailed: nobody can say any more whether the others succeeded; this peer is out of the run.
 * - pcclInternalError: no memory was left; this peer is out of the run, and may connect again.
 */
PCCL_EXPORT pcclResult_t pcclAllGather(const void *sendbuf, void *recvbuf, const pcclCollectiveDescriptor_t *descriptor,
                                       const pcclComm_t *communicator, pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/**
 * Begins an all-gather and returns: await it with pcclAwaitAsyncReduce. Buffers are lent until that has returned.
 *
 * Results: those of pcclAllGather that can be told before it runs.
 */
PCCL_EXPORT pcclResult_t pcclAllGatherAsync(const void *sendbuf, void *recvbuf,
                                            const pcclCollectiveDescriptor_t *descriptor,
                                            const pcclComm_t *communicator, pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Reduces everybody's blocks, of which each member gets the one of its rank.
 *
 * @param sendbuf `count` elements for each member, in the order of ranks.
 * @param recvbuf room for `count` elements. It may be this member's place in `sendbuf`; otherwise the two must not
 *                overlap.
 *
 * The other parameters and the results are as in pcclAllGather; pcclInvalidArgument also for options that do not exist,
 * do not go together or do not suit the type.
 */
PCCL_EXPORT pcclResult_t pcclReduceScatter(const void *sendbuf, void *recvbuf,
                                           const pcclCollectiveDescriptor_t *descriptor, const pcclComm_t *communicator,
                                           pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/** Begins a reduce-scatter and returns, as pcclAllGatherAsync does. */
PCCL_EXPORT pcclResult_t pcclReduceScatterAsync(const void *sendbuf, void *recvbuf,
                                                const pcclCollectiveDescriptor_t *descriptor,
                                                const pcclComm_t *communicator, pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Brings what the member of rank `root` has to all others.
 *
 * @param buffer `count` elements: read at the root, written at all others.
 *
 * The other parameters and the results are as in pcclAllGather; pcclInvalidArgument also for a root that is no rank.
 */
PCCL_EXPORT pcclResult_t pcclBroadcast(void *buffer, const pcclCollectiveDescriptor_t *descriptor,
                                       const pcclComm_t *communicator, pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/** Begins a broadcast and returns, as pcclAllGatherAsync does. */
PCCL_EXPORT pcclResult_t pcclBroadcastAsync(void *buffer, const pcclCollectiveDescriptor_t *descriptor,
                                            const pcclComm_t *communicator, pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Waits until all members have called it with this tag: nobody's call returns before with pcclSuccess. When a member is
 * lost, those who are left wait for each other; who is left alone gets pcclRankConnectionLost.
 *
 * Results: those of pcclAllGather, as far as they can be of something without buffers.
 */
PCCL_EXPORT pcclResult_t pcclBarrier(uint64_t tag, const pcclComm_t *communicator,
                                     pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Shared state                                                                                                     */
/* ---------------------------------------------------------------------------------------------------------------- */

/** How a shared state is synchronised. Set struct_size and leave all else zero for what pcclSynchronizeSharedState
 * does. */
typedef struct pcclSyncOptions_t {
    /** sizeof(pcclSyncOptions_t). */
    size_t struct_size;

    /**
     * One flag for each entry, or null for none: true is the caller's word that nobody has written the tensor since
     * this communicator last synchronised an entry of this name and size. Its content is taken to be what it was then,
     * and is not looked at; of an entry that was never synchronised it is.
     */
    const bool *unchanged;
} pcclSyncOptions_t;

/**
 * pcclSynchronizeSharedState with options.
 *
 * Results: those of pcclSynchronizeSharedState, and pcclInvalidArgument also for options of a later release.
 */
PCCL_EXPORT pcclResult_t pcclSynchronizeSharedStateWithOptions(const pcclComm_t *communicator,
                                                               pcclSharedState_t *shared_state,
                                                               pcclSharedStateSyncStrategy_t strategy,
                                                               const pcclSyncOptions_t *PCCL_NULLABLE options,
                                                               pcclSharedStateSyncInfo_t *PCCL_NULLABLE sync_info_out);

/* ---------------------------------------------------------------------------------------------------------------- */
/* Snapshots                                                                                                        */
/* ---------------------------------------------------------------------------------------------------------------- */

/** A snapshot that is being written. */
typedef struct pcclSnapshot_t pcclSnapshot_t;

/** The form of a tensor, which a snapshot says and nothing else looks at. */
typedef struct pcclShape_t {
    /** Null: one dimension, with all elements. */
    const uint64_t *PCCL_NULLABLE extents;
    /** How many extents there are; with 0 of them the tensor has one element. The product is the number of elements. */
    size_t rank;
} pcclShape_t;

/** How a shared state is saved. Set all of it to zero, then `struct_size`, as with pcclReduceOptions_t. */
typedef struct pcclSaveOptions_t {
    /** sizeof(pcclSaveOptions_t). */
    size_t struct_size;
    /** When it is written, all snapshots in the directory but so many of the highest revisions are removed; 0: none. */
    uint32_t keep;
    /** 1: it is written before the function returns. 0: by a child of this process, if the system lets us have one. */
    uint32_t foreground;
    /** One for each entry of the state, in its order; copied. Null: none has a form. */
    const pcclShape_t *PCCL_NULLABLE shapes;
} pcclSaveOptions_t;

/**
 * Begins to write a shared state to the file snapshot-REVISION.safetensors in a directory. It has that name when it is
 * whole; a crash at any moment leaves the older ones as they are. docs/snapshots.md has the format, which other
 * programs read too. Needs no pcclInit and no communicator.
 *
 * The tensors may be written as soon as the function returns: what is written then is not in the file. Memory that
 * processes share is copied before.
 *
 * @param state        the tensors and their revision; not kept.
 * @param directory    where snapshots are; it must be there.
 * @param options      copied. Null: all snapshots are kept, and it is written in the background.
 * @param snapshot_out receives what pcclAwaitSnapshot takes. Null: nobody waits, and only the log tells of a failure.
 *
 * Results:
 * - pcclSuccess: it is being written, or was.
 * - pcclInvalidArgument: a null pointer; entries that cannot be, or are called "__metadata__"; a shape with another
 * number of elements than its entry; options that cannot be; or no file can be made in the directory.
 * - pcclInvalidUsage: a tensor is said to be on a CUDA device, and no driver can be used.
 * - pcclInternalError: it was written before the return, which failed: see pcclAwaitSnapshot.
 */
PCCL_EXPORT pcclResult_t pcclSaveSharedState(const pcclSharedState_t *state, const char *directory,
                                             const pcclSaveOptions_t *PCCL_NULLABLE options,
                                             pcclSnapshot_t *PCCL_NULLABLE *PCCL_NULLABLE snapshot_out);

/**
 * Waits until a snapshot is on disk, and frees it. Any thread may call it, once for each snapshot.
 *
 * Results:
 * - pcclSuccess: it is there, and stays there if the power fails.
 * - pcclInvalidArgument: null, awaited already, or never made.
 * - pcclInternalError: it could not be written: a full disk, a child that was killed. The older ones are whole.
 * - pcclInvalidUsage: this process was forked from the one that began it.
 */
PCCL_EXPORT pcclResult_t pcclAwaitSnapshot(pcclSnapshot_t *snapshot);

/**
 * Reads the newest whole snapshot of a directory into the memory of a shared state, and takes over its revision. One
 * that is damaged, which its hashes tell, is passed over with a warning in the log. Needs no pcclInit and no
 * communicator.
 *
 * @param directory a directory, or a single file. That may be a safetensors file of another program: its revision is 0,
 *                  and it has no hashes to check by.
 * @param state     entries with the names, types and counts that the file has, in any order.
 *
 * Results:
 * - pcclSuccess: the tensors and the revision are those of the snapshot.
 * - pcclNoSharedStateAvailable: there is none, or none that is whole. Then the tensors may be partly written.
 * - pcclInvalidArgument: a null pointer, or entries that cannot be, or are not those of the file. Nothing is written.
 * - pcclInvalidUsage: a tensor is said to be on a CUDA device, and no driver can be used.
 * - pcclInternalError: the system refuses to read. The tensors may be partly written.
 *
 * The revision is written only on success.
 */
PCCL_EXPORT pcclResult_t pcclLoadSharedState(const char *directory, pcclSharedState_t *state);

/**
 * Copies a tensor of a shared state into memory of the host, or from there, wherever the tensor is: for programs that
 * have no CUDA of their own. What was put on a device's default stream comes before. Needs no pcclInit.
 *
 * Results: pcclSuccess; pcclInvalidArgument for a null pointer, and a tensor that cannot be; pcclInvalidUsage if it is
 * said to be on a CUDA device, and no driver can be used; pcclInternalError for an error of the driver.
 */
PCCL_EXPORT pcclResult_t pcclReadTensor(const pcclTensorInfo_t *tensor, void *to);
PCCL_EXPORT pcclResult_t pcclWriteTensor(const pcclTensorInfo_t *tensor, const void *from);

/* ---------------------------------------------------------------------------------------------------------------- */
/* DiLoCo                                                                                                           */
/* ---------------------------------------------------------------------------------------------------------------- */

/**
 * Training in which peers take many steps by themselves between two that they take together, and come and go meanwhile.
 *
 * Every peer has the same outer parameters and the same momentum, in floats, bit for bit. Its model is trained by an
 * inner optimiser that the library does not know. Every so many steps peers average how far they have come, take an
 * outer step with that, and go on from the new outer parameters. docs/diloco.md tells how to choose.
 *
 * Between pcclDiLoCoBegin and pcclDiLoCoEnd no other membership call, and no other synchronisation of shared state, may
 * be made on the communicator: newcomers, losses and returns are this object's business. A second thread in one of its
 * functions is told pcclInvalidUsage.
 */
typedef struct pcclDiLoCo_t pcclDiLoCo_t;

typedef enum pcclDiLoCoMode_t {
    /** At the end of a round all wait for the average. Douillard and others, arXiv 2311.08105. */
    pcclDiLoCoSynchronous = 0,
    /** What is found in a round travels during the next. After CO2, Sun and others, arXiv 2401.16265. */
    pcclDiLoCoDelayed = 1,
    /** Parameters travel in fragments, one after the other. Douillard and others, arXiv 2501.18512. */
    pcclDiLoCoStreaming = 2
} pcclDiLoCoMode_t;

/** What an outer step does with a gradient: outer parameters minus the average of the members' parameters. */
typedef enum pcclOuterRule_t {
    /** momentum = factor * momentum + gradient; outer = outer - rate * (gradient + factor * momentum) */
    pcclOuterNesterov = 0,
    /** momentum = factor * momentum + gradient; outer = outer - rate * momentum */
    pcclOuterMomentum = 1,
    /** outer = outer - rate * gradient */
    pcclOuterDescent = 2
} pcclOuterRule_t;

/** One of the model's tensors. Its memory stays where it is, and valid, until pcclDiLoCoDestroy. */
typedef struct pcclDiLoCoTensor_t {
    /** Unique, and the same at all peers; copied. */
    const char *name;
    /** Read and written by pcclDiLoCoBegin, Step, End and Load alone. Memory of the host or of a CUDA device,
     * recognised by its address: tensors of one fragment are all on the host, or all on one device in one context. The
     * outer state is where they are. What was put on the device's default stream comes before each of these calls;
     * synchronise other streams. */
    void *data;
    /** In elements; at least 1. */
    size_t count;
    /** A float. */
    pcclDataType_t datatype;
    /** 0: fragments are of tensors next to each other, and about equally large; else the fragment's number, from 1. */
    uint32_t fragment;
} pcclDiLoCoTensor_t;

/** Set all of it to zero, then `struct_size` and `sync_every`, as with pcclReduceOptions_t. All but `sync_every`,
 * `error_feedback`, `patience_seconds` and `returns` are the same at all peers. */
typedef struct pcclDiLoCoOptions_t {
    /** sizeof(pcclDiLoCoOptions_t). */
    size_t struct_size;
    pcclDiLoCoMode_t mode;
    /** Inner steps between two outer steps of the same parameters. Slower peers may have fewer. */
    uint32_t sync_every;
    /** Streaming: how many fragments, 1 at least; and after how many steps a result is taken in, `sync_every` at most.
     */
    uint32_t fragments;
    uint32_t overlap;
    /** Streaming: local parameters become mixing * local + (1 - mixing) * outer. 0 to below 1. */
    float mixing;
    /** Delayed: a step is made smaller by 1 + penalty * (how far outer parameters have moved since it was found / its
     * length). */
    float staleness_penalty;
    pcclOuterRule_t rule;
    /** 0: 0.7, or 1 where the rule is pcclOuterDescent. */
    float learning_rate;
    /** The factor. 0: 0.9. */
    float momentum;
    /** The momentum of a fragment is made no longer than this, as a vector; 0: as long as it is. */
    float momentum_limit;
    /** What travels; pcclCodecOfDescriptor: floats. The three are as in pcclReduceOptions_t. */
    pcclCodec_t codec;
    uint32_t block_elements;
    pcclRounding_t rounding;
    uint32_t error_feedback;
    /** With fewer peers the others wait for more at the end of a round. 0: 2. In ensembles it is always 1. */
    uint32_t minimum_peers;
    /** Every so many rounds peers compare what they hold. 0: each; UINT32_MAX: only when somebody joins. */
    uint32_t check_every;
    /** How long they wait for others at most; 0: for ever. */
    double patience_seconds;
    /** As many tags from here on as there are fragments, and one. 0: some that nobody else uses. */
    uint64_t first_tag;
    /** How often in a row, without an outer step, a peer that was cut off comes back. 0: 5; UINT32_MAX, or in an
     * ensemble: never. */
    uint32_t returns;
    /** Must be 0. */
    uint32_t reserved;
} pcclDiLoCoOptions_t;

/** An outer step that was done. */
typedef struct pcclDiLoCoRound_t {
    /** How many rounds are done with it, from the beginning of the run. */
    uint64_t round;
    /** From 0. */
    uint32_t fragment;
    /** How many peers took part. */
    uint32_t world_size;
    /** Payload bytes that this peer sent and received for it. */
    uint64_t tx_bytes;
    uint64_t rx_bytes;
    /** How long this peer has stood still for it. */
    double seconds_waited;
} pcclDiLoCoRound_t;

/** What is known without asking anybody. */
typedef struct pcclDiLoCoInfo_t {
    uint64_t round;
    uint64_t parameter_count;
    uint32_t fragment_count;
    /** A hash of the outer parameters, as text: the same at all peers that have done the same rounds. */
    char parameters_hash[36];
} pcclDiLoCoInfo_t;

/**
 * Makes the outer state of a model: the tensors' values are the outer parameters until pcclDiLoCoBegin. Takes, where
 * the tensors are, 12 bytes for a parameter, 4 more with momentum and 4 with a staleness penalty; of the host, error
 * feedback takes 8.
 *
 * @param communicator not destroyed before pcclDiLoCoDestroy. Connected, or not yet.
 * @param tensors      the same names, counts and order at all peers; types may differ.
 * @param options      copied.
 * @param diloco_out   receives the object.
 *
 * Results: pcclSuccess; pcclNotInitialized before pcclInit; pcclInvalidArgument for a null pointer, and for tensors or
 * options that cannot be, tensors of one fragment in different places among them; pcclInternalError when there is no
 * memory, and for an error of a device's driver, as where it does not run the library's kernels.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoCreate(const pcclComm_t *communicator, const pcclDiLoCoTensor_t *tensors,
                                          size_t count, const pcclDiLoCoOptions_t *options, pcclDiLoCo_t **diloco_out);

/**
 * Connects, unless that was done, waits until there are enough peers, and gets what they hold: the tensors are the
 * outer parameters then.
 *
 * Results:
 * - pcclSuccess
 * - pcclInvalidArgument: null or destroyed, or peers have other options.
 * - pcclInvalidUsage: begun already; or this peer's tensors or options do not go with those of the others.
 * - pcclTooFewPeers: the patience is over.
 * - pcclMasterConnectionFailed: as with pcclConnect.
 * - pcclInternalError: no memory was left.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoBegin(pcclDiLoCo_t *diloco);

/**
 * To be called after each inner step.
 *
 * @param weight          what this peer's next contribution counts, relative to that of others: 1, or tokens seen
 *                        divided by the tokens that peers usually see.
 * @param rounds_out      receives the outer steps that were done, in order, as many as there is room for.
 * @param rounds_capacity how many fit there. As many as there are fragments always suffice.
 * @param round_count_out receives how many there are.
 *
 * Results: those of pcclDiLoCoBegin, but pcclInvalidUsage when not begun. After an error other than of arguments this
 * peer takes no part any more: end it. pcclInternalError: an error of a device's driver. If it was in the outer state's
 * arithmetic, Begin and Step give pcclInvalidUsage from then on, and End leaves the parameters alone: they are as they
 * were if the device failed before the outer step, else those of one fragment are undefined. Another DiLoCo gets what
 * the others have.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoStep(pcclDiLoCo_t *diloco, float weight, pcclDiLoCoRound_t *PCCL_NULLABLE rounds_out,
                                        size_t rounds_capacity, size_t *PCCL_NULLABLE round_count_out);

/**
 * Whether the next pcclDiLoCoStep reads or writes the tensors of a fragment, which are numbered from 0 here: who keeps
 * them elsewhere copies them before and afterwards.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoTouchesNext(const pcclDiLoCo_t *diloco, uint32_t fragment, bool *touches_out);

/** Of which fragment a tensor is, from 0. pcclInvalidArgument if there is none of this name. */
PCCL_EXPORT pcclResult_t pcclDiLoCoFragmentOf(const pcclDiLoCo_t *diloco, const char *name, uint32_t *fragment_out);

/**
 * Takes in what is on its way, and makes the outer parameters the model's. What was found since the last launch is
 * dropped, so the best moment is the end of a round. Others wait for this peer until its communicator is destroyed, or
 * they end too. The last three parameters are as in pcclDiLoCoStep.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoEnd(pcclDiLoCo_t *diloco, pcclDiLoCoRound_t *PCCL_NULLABLE rounds_out,
                                       size_t rounds_capacity, size_t *PCCL_NULLABLE round_count_out);

/** Tells what is known. Works out a hash of all outer parameters; pcclInternalError if a device does not. */
PCCL_EXPORT pcclResult_t pcclDiLoCoGetInfo(const pcclDiLoCo_t *diloco, pcclDiLoCoInfo_t *info_out);

/**
 * Tells what all peers hold alike: "outer/NAME" and, unless the rule is pcclOuterDescent, "momentum/NAME" for each
 * tensor, and "diloco/progress". The memory and the infos are the object's, until it is destroyed; save them with
 * pcclSaveSharedState at any moment between two calls. What is on a device says so; pcclReadTensor copies it.
 */
PCCL_EXPORT pcclResult_t pcclDiLoCoGetSharedState(pcclDiLoCo_t *diloco, pcclSharedState_t *state_out);

/** Takes over what was written to the memory of pcclDiLoCoGetSharedState, with its revision, and makes the outer
 * parameters the model's. Not between begin and end (pcclInvalidUsage). */
PCCL_EXPORT pcclResult_t pcclDiLoCoRestore(pcclDiLoCo_t *diloco, uint64_t revision);

/** pcclLoadSharedState of that state, and pcclDiLoCoRestore. Results: those of both. */
PCCL_EXPORT pcclResult_t pcclDiLoCoLoad(pcclDiLoCo_t *diloco, const char *directory);

/** Frees it. Not while another thread is in one of its functions (pcclInvalidUsage). */
PCCL_EXPORT pcclResult_t pcclDiLoCoDestroy(pcclDiLoCo_t *diloco);

#ifdef __cplusplus
}
#endif

#endif
