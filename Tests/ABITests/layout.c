// The binary interface that programs built for PCCL 1.0 rely on: size and offset of every struct member, value of
// every enumerator, every port, and that the library has every function. The numbers are those of 64-bit Linux.
#include <ccoip.h>
#include <pccl.h>
#include <pccl_ext.h>

#include <stddef.h>
#include <stdio.h>

static int failures = 0;

static void expect(const char *what, unsigned long long actual, unsigned long long expected) {
    if (actual != expected) {
        printf("not ok %s: %llu, expected %llu\n", what, actual, expected);
        failures++;
    }
}

#define SIZE(type, bytes) expect("sizeof(" #type ")", sizeof(type), bytes)
#define MEMBER(type, member, offset, bytes)                                                                            \
    do {                                                                                                               \
        expect("offsetof(" #type ", " #member ")", offsetof(type, member), offset);                                    \
        expect("sizeof(" #type "." #member ")", sizeof(((type *)0)->member), bytes);                                   \
    } while (0)
#define VALUE(name, value) expect(#name, (unsigned long long)(name), value)

static void checkAddresses(void) {
    SIZE(ccoip_inet_protocol_t, 4);
    SIZE(ccoip_ipv4_address_t, 4);
    MEMBER(ccoip_ipv4_address_t, data, 0, 4);
    SIZE(ccoip_ipv6_address_t, 16);
    MEMBER(ccoip_ipv6_address_t, data, 0, 16);
    SIZE(ccoip_inet_address_t, 24);
    MEMBER(ccoip_inet_address_t, protocol, 0, 4);
    MEMBER(ccoip_inet_address_t, ipv4, 4, 4);
    MEMBER(ccoip_inet_address_t, ipv6, 8, 16);
    SIZE(ccoip_socket_address_t, 28);
    MEMBER(ccoip_socket_address_t, inet, 0, 24);
    MEMBER(ccoip_socket_address_t, port, 24, 2);
    VALUE(inetIPv4, 0);
    VALUE(inetIPv6, 1);
    VALUE(CCOIP_PROTOCOL_PORT_MASTER, 48148);
    VALUE(CCOIP_PROTOCOL_PORT_SHARED_STATE, 48149);
    VALUE(CCOIP_PROTOCOL_PORT_P2P, 48150);
    VALUE(CCOIP_PROTOCOL_PORT_BANDWIDTH_BENCHMARK, 48151);
}

static void checkStructs(void) {
    SIZE(pcclCommCreateParams_t, 36);
    MEMBER(pcclCommCreateParams_t, master_address, 0, 28);
    MEMBER(pcclCommCreateParams_t, peer_group, 28, 4);
    MEMBER(pcclCommCreateParams_t, p2p_connection_pool_size, 32, 4);

    SIZE(pcclEnsemble_t, 16);
    MEMBER(pcclEnsemble_t, id, 0, 8);
    MEMBER(pcclEnsemble_t, size, 8, 4);
    MEMBER(pcclEnsemble_t, reserved, 12, 4);

    SIZE(pcclReduceInfo_t, 24);
    MEMBER(pcclReduceInfo_t, local_world_size, 0, 4);
    MEMBER(pcclReduceInfo_t, tx_bytes, 8, 8);
    MEMBER(pcclReduceInfo_t, rx_bytes, 16, 8);

    SIZE(pcclReduceOperandDescriptor_t, 8);
    MEMBER(pcclReduceOperandDescriptor_t, datatype, 0, 4);
    MEMBER(pcclReduceOperandDescriptor_t, distribution_hint, 4, 4);

    SIZE(pcclQuantizationOptions_t, 8);
    MEMBER(pcclQuantizationOptions_t, quantized_datatype, 0, 4);
    MEMBER(pcclQuantizationOptions_t, algorithm, 4, 4);

    SIZE(pcclReduceDescriptor_t, 40);
    MEMBER(pcclReduceDescriptor_t, count, 0, 8);
    MEMBER(pcclReduceDescriptor_t, op, 8, 4);
    MEMBER(pcclReduceDescriptor_t, tag, 16, 8);
    MEMBER(pcclReduceDescriptor_t, src_descriptor, 24, 8);
    MEMBER(pcclReduceDescriptor_t, quantization_options, 32, 8);

    SIZE(pcclReduceOpDescriptor_t, 56);
    MEMBER(pcclReduceOpDescriptor_t, sendbuf, 0, 8);
    MEMBER(pcclReduceOpDescriptor_t, recvbuf, 8, 8);
    MEMBER(pcclReduceOpDescriptor_t, descriptor, 16, 40);

    SIZE(pcclAsyncReduceOp_t, 16);
    MEMBER(pcclAsyncReduceOp_t, comm, 0, 8);
    MEMBER(pcclAsyncReduceOp_t, tag, 8, 8);

    SIZE(pcclRankUuid_t, 16);
    MEMBER(pcclRankUuid_t, data, 0, 16);

    SIZE(pcclTensorInfo_t, 40);
    MEMBER(pcclTensorInfo_t, name, 0, 8);
    MEMBER(pcclTensorInfo_t, data, 8, 8);
    MEMBER(pcclTensorInfo_t, count, 16, 8);
    MEMBER(pcclTensorInfo_t, datatype, 24, 4);
    MEMBER(pcclTensorInfo_t, device_type, 28, 4);
    MEMBER(pcclTensorInfo_t, allow_content_inequality, 32, 1);

    SIZE(pcclSharedState_t, 24);
    MEMBER(pcclSharedState_t, revision, 0, 8);
    MEMBER(pcclSharedState_t, count, 8, 8);
    MEMBER(pcclSharedState_t, infos, 16, 8);

    SIZE(pcclSharedStateSyncInfo_t, 16);
    MEMBER(pcclSharedStateSyncInfo_t, tx_bytes, 0, 8);
    MEMBER(pcclSharedStateSyncInfo_t, rx_bytes, 8, 8);

    SIZE(pcclReducePart_t, 24);
    MEMBER(pcclReducePart_t, first_element, 0, 8);
    MEMBER(pcclReducePart_t, element_count, 8, 8);
    MEMBER(pcclReducePart_t, world_size, 16, 4);
    SIZE(pcclSyncOptions_t, 16);
    MEMBER(pcclSyncOptions_t, struct_size, 0, 8);
    MEMBER(pcclSyncOptions_t, unchanged, 8, 8);

    SIZE(pcclCudaStatus_t, 268);
    MEMBER(pcclCudaStatus_t, driver_version, 4, 4);
    MEMBER(pcclCudaStatus_t, device_count, 8, 4);
    MEMBER(pcclCudaStatus_t, reason, 12, 256);

    SIZE(pcclCollectiveDescriptor_t, 48);
    MEMBER(pcclCollectiveDescriptor_t, struct_size, 0, 8);
    MEMBER(pcclCollectiveDescriptor_t, tag, 8, 8);
    MEMBER(pcclCollectiveDescriptor_t, count, 16, 8);
    MEMBER(pcclCollectiveDescriptor_t, datatype, 24, 4);
    MEMBER(pcclCollectiveDescriptor_t, op, 28, 4);
    MEMBER(pcclCollectiveDescriptor_t, world_size, 32, 4);
    MEMBER(pcclCollectiveDescriptor_t, root, 36, 4);
    MEMBER(pcclCollectiveDescriptor_t, options, 40, 8);
    SIZE(pcclReduceOptions_t, 40);
    MEMBER(pcclReduceOptions_t, struct_size, 0, 8);
    MEMBER(pcclReduceOptions_t, on_loss, 8, 4);
    MEMBER(pcclReduceOptions_t, codec, 12, 4);
    MEMBER(pcclReduceOptions_t, block_elements, 16, 4);
    MEMBER(pcclReduceOptions_t, rounding, 20, 4);
    MEMBER(pcclReduceOptions_t, error_feedback, 24, 4);
    MEMBER(pcclReduceOptions_t, reserved, 28, 4);
    MEMBER(pcclReduceOptions_t, cuda_stream, 32, 8);

    SIZE(pcclShape_t, 16);
    MEMBER(pcclShape_t, extents, 0, 8);
    MEMBER(pcclShape_t, rank, 8, 8);
    SIZE(pcclSaveOptions_t, 24);
    MEMBER(pcclSaveOptions_t, struct_size, 0, 8);
    MEMBER(pcclSaveOptions_t, keep, 8, 4);
    MEMBER(pcclSaveOptions_t, foreground, 12, 4);
    MEMBER(pcclSaveOptions_t, shapes, 16, 8);

    SIZE(pcclBuildInfo_t, 1);
    MEMBER(pcclBuildInfo_t, has_cuda_support, 0, 1);
}

static void checkEnums(void) {
    SIZE(pcclResult_t, 4);
    VALUE(pcclSuccess, 0);
    VALUE(pcclNotInitialized, 1);
    VALUE(pcclInternalError, 2);
    VALUE(pcclInvalidArgument, 3);
    VALUE(pcclInvalidUsage, 4);
    VALUE(pcclTooFewPeers, 5);
    VALUE(pcclMasterConnectionFailed, 6);
    VALUE(pcclRankConnectionFailed, 7);
    VALUE(pcclRankConnectionLost, 8);
    VALUE(pcclNoSharedStateAvailable, 9);
    VALUE(pcclPendingAsyncOps, 10);
    VALUE(pcclUpdateTopologyFailed, 11);
    VALUE(pcclTopologyOptimizationFailed, 12);

    SIZE(pcclDataType_t, 4);
    VALUE(pcclUint8, 0);
    VALUE(pcclInt8, 1);
    VALUE(pcclInt16, 2);
    VALUE(pcclUint16, 3);
    VALUE(pcclUint32, 4);
    VALUE(pcclInt32, 5);
    VALUE(pcclUint64, 6);
    VALUE(pcclInt64, 7);
    VALUE(pcclFloat16, 8);
    VALUE(pcclBFloat16, 9);
    VALUE(pcclFloat, 10);
    VALUE(pcclDouble, 11);

    SIZE(pcclDeviceType_t, 4);
    VALUE(pcclDeviceCpu, 0);
    VALUE(pcclDeviceCuda, 1);

    SIZE(pcclRedOp_t, 4);
    VALUE(pcclSum, 0);
    VALUE(pcclAvg, 1);
    VALUE(pcclProd, 2);
    VALUE(pcclMax, 3);
    VALUE(pcclMin, 4);

    SIZE(pcclAttribute_t, 4);
    VALUE(PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, 1);
    VALUE(PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, 2);
    VALUE(PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS, 3);
    VALUE(PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE, 4);

    SIZE(pcclSharedStateSyncStrategy_t, 4);
    VALUE(PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, 0);
    VALUE(PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY, 1);
    VALUE(PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY, 2);

    SIZE(pcclOnLoss_t, 4);
    VALUE(pcclOnLossAbort, 0);
    VALUE(pcclOnLossResume, 1);
    VALUE(pcclOnLossResumeWhole, 2);
    VALUE(pcclOnLossUsual, 3);

    SIZE(pcclDistributionHint_t, 4);
    VALUE(pcclDistributionNone, 0);
    VALUE(pcclDistributionNormal, 1);
    VALUE(pcclDistributionUniform, 2);

    SIZE(pcclQuantizationAlgorithm_t, 4);
    VALUE(pcclQuantNone, 0);
    VALUE(pcclQuantMinMax, 1);
    VALUE(pcclQuantZeroPointScale, 2);

    SIZE(pcclCodec_t, 4);
    VALUE(pcclCodecOfDescriptor, 0);
    VALUE(pcclCodecMinMax8, 1);
    VALUE(pcclCodecMinMax16, 2);
    VALUE(pcclCodecMinMax32, 3);
    VALUE(pcclCodecZeroPoint8, 4);
    VALUE(pcclCodecZeroPoint16, 5);
    VALUE(pcclCodecZeroPoint32, 6);
    VALUE(pcclCodecInt4, 7);
    VALUE(pcclCodecInt4E8M0, 8);
    VALUE(pcclCodecE3M0, 9);
    VALUE(pcclCodecE3M0E8M0, 10);
    VALUE(pcclCodecE4M3, 11);
    VALUE(pcclCodecE4M3E8M0, 12);
    VALUE(pcclCodecFloat16, 13);
    VALUE(pcclCodecBFloat16, 14);

    SIZE(pcclRounding_t, 4);
    VALUE(pcclRoundingNearest, 0);
    VALUE(pcclRoundingStochastic, 1);
}

// Volatile, so that the compiler cannot decide that the addresses are known and leave the symbols out.
#define FUNCTION(name, parameters) static pcclResult_t(*volatile at_##name) parameters = name;
#include "functions.h"
#undef FUNCTION

static void checkFunctions(void) {
#define FUNCTION(name, parameters) expect("address of " #name, at_##name != NULL, 1);
#include "functions.h"
#undef FUNCTION
}

int main(void) {
    checkAddresses();
    checkStructs();
    checkEnums();
    checkFunctions();
    printf(failures == 0 ? "layout: everything as expected\n" : "layout: %d differences\n", failures);
    return failures == 0 ? 0 : 1;
}
