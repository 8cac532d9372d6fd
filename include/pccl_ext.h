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
    pcclOnLossResumeWhole = 2
} pcclOnLoss_t;

/** Elements of a result, one after the other, that the same members have made. */
typedef struct pcclReducePart_t {
    /** Counted from the start of the buffer. */
    uint64_t first_element;
    uint64_t element_count;
    /** Of how many members the contributions are. An average is over so many. */
    uint32_t world_size;
} pcclReducePart_t;

/**
 * pcclAllReduce with a choice of what a loss does.
 *
 * @param sendbuf         as in pcclAllReduce; so are the next three.
 * @param recvbuf         may be `sendbuf`.
 * @param descriptor      the operation; copied.
 * @param communicator    a connected communicator.
 * @param on_loss         what is to become of it when a member is lost.
 * @param reduce_info_out receives what the operation did, the interrupted part included. If parts differ,
 *                        `local_world_size` is that of the parts made last.
 * @param parts_out       receives the parts of the result, in order, as many as there is room for. All elements are in
 *                        one of them; unless the operation was resumed there is one.
 * @param parts_capacity  how many fit there.
 * @param part_count_out  receives how many there are, which may be more.
 *
 * Results: those of pcclAllReduce, and pcclInvalidArgument also for a value of `on_loss` that does not exist, or for
 * parts_out being null while parts_capacity is not 0. pcclRankConnectionLost also with a policy to resume: when no
 * second member is left, or another member's call has pcclOnLossAbort.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceOnLoss(const void *sendbuf, void *recvbuf,
                                             const pcclReduceDescriptor_t *descriptor, const pcclComm_t *communicator,
                                             pcclOnLoss_t on_loss, pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                             pcclReducePart_t *PCCL_NULLABLE parts_out, size_t parts_capacity,
                                             size_t *PCCL_NULLABLE part_count_out);

/**
 * pcclAllReduceAsync with a choice of what a loss does. Await it with pcclAwaitAsyncReduceParts, or with
 * pcclAwaitAsyncReduce, which does not tell of parts.
 *
 * Results: those of pcclAllReduceAsync, and pcclInvalidArgument also for a value of `on_loss` that does not exist.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceAsyncOnLoss(const void *sendbuf, void *recvbuf,
                                                  const pcclReduceDescriptor_t *descriptor,
                                                  const pcclComm_t *communicator, pcclOnLoss_t on_loss,
                                                  pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * pcclAwaitAsyncReduce that tells of parts as well, for operations that any function has started. The last three
 * parameters are as in pcclAllReduceOnLoss.
 *
 * Results: those of pcclAwaitAsyncReduce, and pcclInvalidArgument also for parts_out being null while parts_capacity is
 * not 0: the operation is not awaited then.
 */
PCCL_EXPORT pcclResult_t pcclAwaitAsyncReduceParts(const pcclAsyncReduceOp_t *reduce_handle,
                                                   pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                                   pcclReducePart_t *PCCL_NULLABLE parts_out, size_t parts_capacity,
                                                   size_t *PCCL_NULLABLE part_count_out);

/**
 * pcclAllReduceMultipleWithRetry with one choice for all operations, where that function resumes averages, maxima and
 * minima, and resumes sums and products as a whole. With pcclOnLossAbort what a loss interrupts is repeated from its
 * beginning.
 *
 * Results: those of pcclAllReduceMultipleWithRetry, and pcclInvalidArgument also for a value of `on_loss` that does not
 * exist.
 */
PCCL_EXPORT pcclResult_t pcclAllReduceMultipleOnLoss(const pcclReduceOpDescriptor_t *descriptors, size_t count,
                                                     const pcclComm_t *communicator, pcclOnLoss_t on_loss,
                                                     pcclReduceInfo_t *PCCL_NULLABLE reduce_info_out,
                                                     int max_in_flight);

#ifdef __cplusplus
}
#endif

#endif
