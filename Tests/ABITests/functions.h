// Every function of pccl.h and pccl_ext.h, once: FUNCTION(name, parameters). The tests expand it to pointers of exactly
// that type, so a function that is missing does not link and one whose signature has changed does not compile.
FUNCTION(pcclInit, (void))
FUNCTION(pcclCreateCommunicator, (const pcclCommCreateParams_t *, pcclComm_t **))
FUNCTION(pcclGetAttribute, (const pcclComm_t *, pcclAttribute_t, int *))
FUNCTION(pcclDestroyCommunicator, (pcclComm_t *))
FUNCTION(pcclConnect, (pcclComm_t *))
FUNCTION(pcclUpdateTopology, (pcclComm_t *))
FUNCTION(pcclArePeersPending, (const pcclComm_t *, bool *))
FUNCTION(pcclOptimizeTopology, (const pcclComm_t *))
FUNCTION(pcclAllReduce, (const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *, pcclReduceInfo_t *))
FUNCTION(pcclAllReduceAsync,
         (const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *, pcclAsyncReduceOp_t *))
FUNCTION(pcclAwaitAsyncReduce, (const pcclAsyncReduceOp_t *, pcclReduceInfo_t *))
FUNCTION(pcclAllReduceMultipleWithRetry,
         (const pcclReduceOpDescriptor_t *, size_t, const pcclComm_t *, pcclReduceInfo_t *, int))
FUNCTION(pcclSynchronizeSharedState,
         (const pcclComm_t *, pcclSharedState_t *, pcclSharedStateSyncStrategy_t, pcclSharedStateSyncInfo_t *))
FUNCTION(pcclCreateMaster, (ccoip_socket_address_t, pcclMasterInstance_t **))
FUNCTION(pcclRunMaster, (pcclMasterInstance_t *))
FUNCTION(pcclInterruptMaster, (pcclMasterInstance_t *))
FUNCTION(pcclMasterAwaitTermination, (pcclMasterInstance_t *))
FUNCTION(pcclDestroyMaster, (pcclMasterInstance_t *))
FUNCTION(pcclGetBuildInfo, (pcclBuildInfo_t *))
FUNCTION(pcclAllReduceWithOptions,
         (const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *, const pcclReduceOptions_t *,
          pcclReduceInfo_t *, pcclReducePart_t *, size_t, size_t *))
FUNCTION(pcclAllReduceAsyncWithOptions, (const void *, void *, const pcclReduceDescriptor_t *, const pcclComm_t *,
                                         const pcclReduceOptions_t *, pcclAsyncReduceOp_t *))
FUNCTION(pcclAwaitAsyncReduceParts,
         (const pcclAsyncReduceOp_t *, pcclReduceInfo_t *, pcclReducePart_t *, size_t, size_t *))
FUNCTION(pcclAllReduceMultipleWithOptions, (const pcclReduceOpDescriptor_t *, size_t, const pcclComm_t *,
                                            const pcclReduceOptions_t *, pcclReduceInfo_t *, int))
FUNCTION(pcclSynchronizeSharedStateWithOptions, (const pcclComm_t *, pcclSharedState_t *, pcclSharedStateSyncStrategy_t,
                                                 const pcclSyncOptions_t *, pcclSharedStateSyncInfo_t *))
FUNCTION(pcclFreeErrorFeedback, (const pcclComm_t *, uint64_t))
FUNCTION(pcclSaveSharedState, (const pcclSharedState_t *, const char *, const pcclSaveOptions_t *, pcclSnapshot_t **))
FUNCTION(pcclAwaitSnapshot, (pcclSnapshot_t *))
FUNCTION(pcclLoadSharedState, (const char *, pcclSharedState_t *))
FUNCTION(pcclReadTensor, (const pcclTensorInfo_t *, void *))
FUNCTION(pcclWriteTensor, (const pcclTensorInfo_t *, const void *))
FUNCTION(pcclGetErrorText, (const char **))
FUNCTION(pcclDumpRecorder, (const pcclComm_t *, const char *))
FUNCTION(pcclGetCudaStatus, (pcclCudaStatus_t *))
FUNCTION(pcclCreateCommunicatorInEnsemble, (const pcclCommCreateParams_t *, const pcclEnsemble_t *, pcclComm_t **))
FUNCTION(pcclGetRank, (const pcclComm_t *, uint32_t *, uint32_t *))
FUNCTION(pcclAllGather,
         (const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclReduceInfo_t *))
FUNCTION(pcclAllGatherAsync,
         (const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclAsyncReduceOp_t *))
FUNCTION(pcclReduceScatter,
         (const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclReduceInfo_t *))
FUNCTION(pcclReduceScatterAsync,
         (const void *, void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclAsyncReduceOp_t *))
FUNCTION(pcclBroadcast, (void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclReduceInfo_t *))
FUNCTION(pcclBroadcastAsync, (void *, const pcclCollectiveDescriptor_t *, const pcclComm_t *, pcclAsyncReduceOp_t *))
FUNCTION(pcclBarrier, (uint64_t, const pcclComm_t *, pcclReduceInfo_t *))
FUNCTION(pcclDiLoCoCreate,
         (const pcclComm_t *, const pcclDiLoCoTensor_t *, size_t, const pcclDiLoCoOptions_t *, pcclDiLoCo_t **))
FUNCTION(pcclDiLoCoBegin, (pcclDiLoCo_t *))
FUNCTION(pcclDiLoCoStep, (pcclDiLoCo_t *, float, pcclDiLoCoRound_t *, size_t, size_t *))
FUNCTION(pcclDiLoCoTouchesNext, (const pcclDiLoCo_t *, uint32_t, bool *))
FUNCTION(pcclDiLoCoFragmentOf, (const pcclDiLoCo_t *, const char *, uint32_t *))
FUNCTION(pcclDiLoCoEnd, (pcclDiLoCo_t *, pcclDiLoCoRound_t *, size_t, size_t *))
FUNCTION(pcclDiLoCoGetInfo, (const pcclDiLoCo_t *, pcclDiLoCoInfo_t *))
FUNCTION(pcclDiLoCoGetSharedState, (pcclDiLoCo_t *, pcclSharedState_t *))
FUNCTION(pcclDiLoCoRestore, (pcclDiLoCo_t *, uint64_t))
FUNCTION(pcclDiLoCoLoad, (pcclDiLoCo_t *, const char *))
FUNCTION(pcclDiLoCoDestroy, (pcclDiLoCo_t *))
