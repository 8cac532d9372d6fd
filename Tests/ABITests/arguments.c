// What one process can ask of every function: null pointers, wrong values, wrong states, a group of one. Nothing here
// needs a second peer, and nothing leaves the loopback interface.
#define _POSIX_C_SOURCE 200809L
#include "testing.h"

#include <stddef.h>

// Stands for objects that must not be looked at: zeros, so that a function which does look fails in a tame way.
static union {
    uint64_t alignment;
    unsigned char bytes[4096];
} nothing;

static void beforeInit(void) {
    testing_phase = "functions before pcclInit";
    pcclComm_t *fake = (pcclComm_t *)&nothing;
    pcclCommCreateParams_t parameters = parametersFor(1);
    pcclComm_t *made = NULL;
    int number = 77;
    bool pending = true;
    float send[2] = {1, 2}, receive[2] = {3, 4};
    pcclReduceDescriptor_t descriptor = reduction(1, 2, pcclFloat, pcclSum);
    pcclReduceOpDescriptor_t operation = {send, receive, descriptor};
    pcclAsyncReduceOp_t handle = {fake, 1};
    pcclSharedState_t state = {0, 0, NULL};

    EXPECT(pcclNotInitialized, pcclCreateCommunicator(&parameters, &made));
    EXPECT(pcclNotInitialized, pcclCreateCommunicatorInEnsemble(&parameters, &(pcclEnsemble_t){1, 1, 0}, &made));
    EXPECT(pcclNotInitialized, pcclGetAttribute(fake, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &number));
    EXPECT(pcclNotInitialized, pcclConnect(fake));
    EXPECT(pcclNotInitialized, pcclUpdateTopology(fake));
    EXPECT(pcclNotInitialized, pcclArePeersPending(fake, &pending));
    EXPECT(pcclNotInitialized, pcclOptimizeTopology(fake));
    EXPECT(pcclNotInitialized, pcclAllReduce(send, receive, &descriptor, fake, NULL));
    EXPECT(pcclNotInitialized, pcclAllReduceAsync(send, receive, &descriptor, fake, &handle));
    EXPECT(pcclNotInitialized, pcclAwaitAsyncReduce(&handle, NULL));
    EXPECT(pcclNotInitialized, pcclAllReduceMultipleWithRetry(&operation, 1, fake, NULL, 1));
    EXPECT(pcclNotInitialized,
           pcclAllReduceWithOptions(send, receive, &descriptor, fake, onLoss(pcclOnLossResume), NULL, NULL, 0, NULL));
    EXPECT(pcclNotInitialized,
           pcclAllReduceAsyncWithOptions(send, receive, &descriptor, fake, onLoss(pcclOnLossResume), &handle));
    EXPECT(pcclNotInitialized, pcclAwaitAsyncReduceParts(&handle, NULL, NULL, 0, NULL));
    EXPECT(pcclNotInitialized,
           pcclAllReduceMultipleWithOptions(&operation, 1, fake, onLoss(pcclOnLossResume), NULL, 1));
    EXPECT(pcclNotInitialized, pcclFreeErrorFeedback(fake, 1));
    EXPECT(pcclNotInitialized, pcclDumpRecorder(fake, "/tmp/never.trace"));
    EXPECT(pcclNotInitialized,
           pcclSynchronizeSharedState(fake, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL));
    EXPECT(pcclNotInitialized, pcclSynchronizeSharedStateWithOptions(
                                   fake, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL, NULL));
    EXPECT(pcclNotInitialized, pcclDestroyCommunicator(fake));
    CHECK(made == NULL && number == 77 && pending && receive[0] == 3 && receive[1] == 4);
}

// Another thread's failures are not its own.
static void *hasNoText(void *unused) {
    const char *text = NULL;
    EXPECT(pcclSuccess, pcclGetErrorText(&text));
    CHECK(text[0] == '\0');
    return unused;
}

static void masterAndBuildInfoNeedNoInit(void) {
    testing_phase = "a master and the build info before pcclInit";
    union {
        unsigned char byte;
        pcclBuildInfo_t info;
    } build;
    build.byte = 0xAA;
    EXPECT(pcclSuccess, pcclGetBuildInfo(&build.info));
    CHECK(build.byte == 0 || build.byte == 1);
    EXPECT(pcclInvalidArgument, pcclGetBuildInfo(NULL));
    const char *text = NULL;
    EXPECT(pcclSuccess, pcclGetErrorText(&text));
    CHECK(strcmp(text, "pcclGetBuildInfo: info is null") == 0);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, hasNoText, NULL) == 0 && pthread_join(other, NULL) == 0);
    pcclBuildInfo_t info;
    EXPECT(pcclSuccess, pcclGetBuildInfo(&info));
    CHECK(strcmp(text, "pcclGetBuildInfo: info is null") == 0);
    EXPECT(pcclInvalidArgument, pcclGetErrorText(NULL));
    EXPECT(pcclSuccess, pcclGetErrorText(&text));
    CHECK(strcmp(text, "pcclGetErrorText: text_out is null") == 0);

    uint16_t port;
    stopMaster(startMaster(&port));
}

static void masterStates(void) {
    testing_phase = "null and wrong arguments of the master";
    pcclMasterInstance_t *master = NULL;
    EXPECT(pcclInvalidArgument, pcclCreateMaster(loopback(freePort()), NULL));
    ccoip_socket_address_t wrong = loopback(freePort());
    wrong.inet.protocol = (ccoip_inet_protocol_t)7;
    EXPECT(pcclInvalidArgument, pcclCreateMaster(wrong, &master));
    CHECK(master == NULL);
    EXPECT(pcclInvalidArgument, pcclRunMaster(NULL));
    EXPECT(pcclInvalidArgument, pcclInterruptMaster(NULL));
    EXPECT(pcclInvalidArgument, pcclMasterAwaitTermination(NULL));
    EXPECT(pcclInvalidArgument, pcclDestroyMaster(NULL));

    testing_phase = "a master that was never run";
    EXPECT(pcclSuccess, pcclCreateMaster(loopback(freePort()), &master));
    EXPECT(pcclInvalidUsage, pcclInterruptMaster(master));
    EXPECT(pcclInvalidUsage, pcclMasterAwaitTermination(master));
    EXPECT(pcclSuccess, pcclDestroyMaster(master));

    testing_phase = "a running master";
    uint16_t port;
    master = startMaster(&port);
    EXPECT(pcclInvalidUsage, pcclRunMaster(master));

    testing_phase = "a second master on the same port";
    pcclMasterInstance_t *second = NULL;
    EXPECT(pcclSuccess, pcclCreateMaster(loopback(port), &second));
    EXPECT(pcclInvalidUsage, pcclRunMaster(second));
    EXPECT(pcclSuccess, pcclDestroyMaster(second));

    testing_phase = "a master that ends";
    EXPECT(pcclSuccess, pcclInterruptMaster(master));
    EXPECT(pcclSuccess, pcclInterruptMaster(master));
    EXPECT(pcclSuccess, pcclMasterAwaitTermination(master));
    EXPECT(pcclSuccess, pcclMasterAwaitTermination(master));
    EXPECT(pcclSuccess, pcclInterruptMaster(master));
    EXPECT(pcclInvalidUsage, pcclRunMaster(master));
    EXPECT(pcclSuccess, pcclDestroyMaster(master));

    testing_phase = "a port that somebody else listens on";
    int listener = openListener(&port);
    EXPECT(pcclSuccess, pcclCreateMaster(loopback(port), &master));
    EXPECT(pcclInvalidUsage, pcclRunMaster(master));
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
    close(listener);

    testing_phase = "destroying a running master ends it";
    master = startMaster(&port);
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
    // Nobody listens there any more, which a connection attempt sees without waiting.
    struct sockaddr_in address;
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    int probe = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(probe >= 0 && connect(probe, (struct sockaddr *)&address, sizeof(address)) != 0);
    close(probe);
}

static void *interruptFromThread(void *master) {
    EXPECT(pcclSuccess, pcclInterruptMaster((pcclMasterInstance_t *)master));
    return NULL;
}

static void awaitBlocksUntilInterrupted(void) {
    testing_phase = "awaiting a master that another thread interrupts";
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, interruptFromThread, master) == 0);
    EXPECT(pcclSuccess, pcclMasterAwaitTermination(master));
    pthread_join(thread, NULL);
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
}

static void nullPointers(void) {
    testing_phase = "null pointers";
    pcclCommCreateParams_t parameters = parametersFor(1);
    pcclComm_t *made = NULL;
    int number;
    bool pending;
    float send[2] = {1, 2}, receive[2];
    pcclReduceDescriptor_t descriptor = reduction(1, 2, pcclFloat, pcclSum);
    pcclReduceOpDescriptor_t operation = {send, receive, descriptor};
    pcclAsyncReduceOp_t handle = {NULL, 1};
    pcclSharedState_t state = {0, 0, NULL};

    EXPECT(pcclInvalidArgument, pcclCreateCommunicator(NULL, &made));
    EXPECT(pcclInvalidArgument, pcclCreateCommunicator(&parameters, NULL));
    EXPECT(pcclInvalidArgument, pcclCreateCommunicatorInEnsemble(&parameters, NULL, &made));
    for (uint32_t size = 0; size < 2000; size += 1025)
        EXPECT(pcclInvalidArgument,
               pcclCreateCommunicatorInEnsemble(&parameters, &(pcclEnsemble_t){1, size, 0}, &made));
    EXPECT(pcclInvalidArgument, pcclCreateCommunicatorInEnsemble(&parameters, &(pcclEnsemble_t){1, 1, 1}, &made));
    EXPECT(pcclInvalidArgument, pcclGetAttribute(NULL, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &number));
    EXPECT(pcclInvalidArgument, pcclConnect(NULL));
    EXPECT(pcclInvalidArgument, pcclUpdateTopology(NULL));
    EXPECT(pcclInvalidArgument, pcclArePeersPending(NULL, &pending));
    EXPECT(pcclInvalidArgument, pcclOptimizeTopology(NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduce(send, receive, &descriptor, NULL, NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduceAsync(send, receive, &descriptor, NULL, &handle));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(NULL, NULL));
    handle.comm = NULL;
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handle, NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, NULL, NULL, 1));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceWithOptions(send, receive, &descriptor, NULL, onLoss(pcclOnLossResume), NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceAsyncWithOptions(send, receive, &descriptor, NULL, onLoss(pcclOnLossResume), &handle));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduceParts(NULL, NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduceParts(&handle, NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceMultipleWithOptions(&operation, 1, NULL, onLoss(pcclOnLossResume), NULL, 1));
    EXPECT(pcclInvalidArgument,
           pcclSynchronizeSharedState(NULL, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL));
    EXPECT(pcclInvalidArgument, pcclSynchronizeSharedStateWithOptions(
                                    NULL, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL, NULL));
    EXPECT(pcclInvalidArgument, pcclDestroyCommunicator(NULL));
    CHECK(made == NULL);
}

static void notConnected(void) {
    testing_phase = "a communicator that is not connected";
    uint16_t port = freePort();
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    parameters.master_address.inet.protocol = (ccoip_inet_protocol_t)7;
    EXPECT(pcclInvalidArgument, pcclCreateCommunicator(&parameters, &communicator));
    CHECK(communicator == NULL);
    parameters.master_address.inet.protocol = inetIPv4;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    CHECK(communicator != NULL);

    int number = 77;
    bool pending = true;
    float send[2] = {1, 2}, receive[2] = {3, 4};
    pcclReduceDescriptor_t descriptor = reduction(1, 2, pcclFloat, pcclSum);
    pcclReduceOpDescriptor_t operation = {send, receive, descriptor};
    pcclAsyncReduceOp_t handle;
    pcclAsyncReduceOp_t unknown = {communicator, 1};
    pcclSharedState_t state = {0, 0, NULL};
    EXPECT(pcclInvalidUsage, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &number));
    EXPECT(pcclInvalidUsage, pcclUpdateTopology(communicator));
    EXPECT(pcclInvalidUsage, pcclArePeersPending(communicator, &pending));
    EXPECT(pcclInvalidUsage, pcclOptimizeTopology(communicator));
    EXPECT(pcclInvalidUsage, pcclAllReduce(send, receive, &descriptor, communicator, NULL));
    EXPECT(pcclInvalidUsage, pcclAllReduceAsync(send, receive, &descriptor, communicator, &handle));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&unknown, NULL));
    EXPECT(pcclInvalidUsage, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, 1));
    EXPECT(pcclInvalidUsage, pcclAllReduceWithOptions(send, receive, &descriptor, communicator,
                                                      onLoss(pcclOnLossResume), NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidUsage,
           pcclAllReduceAsyncWithOptions(send, receive, &descriptor, communicator, onLoss(pcclOnLossResume), &handle));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduceParts(&unknown, NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidUsage,
           pcclAllReduceMultipleWithOptions(&operation, 1, communicator, onLoss(pcclOnLossResume), NULL, 1));
    EXPECT(pcclInvalidUsage,
           pcclSynchronizeSharedState(communicator, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL));
    EXPECT(pcclInvalidUsage, pcclSynchronizeSharedStateWithOptions(
                                 communicator, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL, NULL));
    CHECK(number == 77 && pending && receive[0] == 3 && receive[1] == 4);

    testing_phase = "connecting where nobody listens, then again";
    EXPECT(pcclMasterConnectionFailed, pcclConnect(communicator));
    EXPECT(pcclMasterConnectionFailed, pcclConnect(communicator));
    EXPECT(pcclInvalidUsage, pcclUpdateTopology(communicator));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
}

// The communicator is tried while there is no master, and must be usable once there is one.
static void connectAgainOnceThereIsAMaster(void) {
    testing_phase = "connecting again once there is a master";
    for (int attempt = 0; attempt < 20; attempt++) {
        uint16_t port = freePort();
        pcclCommCreateParams_t parameters = parametersFor(port);
        pcclComm_t *communicator = NULL;
        EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
        EXPECT(pcclMasterConnectionFailed, pcclConnect(communicator));
        pcclMasterInstance_t *master = NULL;
        EXPECT(pcclSuccess, pcclCreateMaster(loopback(port), &master));
        pcclResult_t running = pcclRunMaster(master);
        if (running == pcclSuccess) {
            EXPECT(pcclSuccess, pcclConnect(communicator));
            CHECK(groupSize(communicator) == 1);
        }
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        EXPECT(pcclSuccess, pcclDestroyMaster(master));
        if (running == pcclSuccess)
            return;
        if (running != pcclInvalidUsage)
            FAIL("pcclRunMaster: %s", resultName(running));
    }
    FAIL("twenty ports in a row were taken");
}

static void reduceArguments(pcclComm_t *communicator) {
    testing_phase = "wrong arguments of the reductions";
    float send[4] = {1, 2, 3, 4}, receive[4] = {5, 6, 7, 8};
    pcclAsyncReduceOp_t handle;
    const pcclReduceDescriptor_t right = reduction(1, 4, pcclFloat, pcclSum);
    EXPECT(pcclInvalidArgument, pcclAllReduceAsync(NULL, receive, &right, communicator, &handle));
    EXPECT(pcclInvalidArgument, pcclAllReduceAsync(send, NULL, &right, communicator, &handle));
    EXPECT(pcclInvalidArgument, pcclAllReduceAsync(send, receive, NULL, communicator, &handle));
    EXPECT(pcclInvalidArgument, pcclAllReduceAsync(send, receive, &right, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduce(NULL, receive, &right, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduce(send, NULL, &right, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllReduce(send, receive, NULL, communicator, NULL));

    // Alone in the group, every wrong descriptor is refused before the number of peers is looked at.
    enum {
        badType,
        negativeType,
        badQuantizedType,
        badAlgorithm,
        badOperation,
        zeroCount,
        overflow,
        overflowByOne,
        wrongDescriptors
    };
    for (int which = 0; which < wrongDescriptors; which++) {
        pcclReduceDescriptor_t wrong = right;
        switch (which) {
        case badType:
            wrong.src_descriptor.datatype = (pcclDataType_t)12;
            break;
        case negativeType:
            wrong.src_descriptor.datatype = (pcclDataType_t)-1;
            break;
        case badQuantizedType:
            wrong.quantization_options.algorithm = pcclQuantMinMax;
            wrong.quantization_options.quantized_datatype = (pcclDataType_t)12;
            break;
        case badAlgorithm:
            wrong.quantization_options.algorithm = (pcclQuantizationAlgorithm_t)3;
            break;
        case badOperation:
            wrong.op = (pcclRedOp_t)5;
            break;
        case zeroCount:
            wrong.count = 0;
            break;
        case overflow:
            wrong.count = SIZE_MAX;
            break;
        case overflowByOne:
            wrong.count = SIZE_MAX / 4 + 1;
            break;
        }
        pcclReduceOpDescriptor_t operation = {send, receive, wrong};
        pcclResult_t result = pcclAllReduceAsync(send, receive, &wrong, communicator, &handle);
        if (result != pcclInvalidArgument)
            FAIL("wrong descriptor %d: %s", which, resultName(result));
        EXPECT(pcclInvalidArgument, pcclAllReduce(send, receive, &wrong, communicator, NULL));
        EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, 1));
    }

    pcclReduceOpDescriptor_t operation = {send, receive, right};
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(NULL, 1, communicator, NULL, 1));
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 0, communicator, NULL, 1));
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, 0));
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, -1));
    operation.sendbuf = NULL;
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, 1));
    operation.sendbuf = send;
    operation.recvbuf = NULL;
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, NULL, 1));

    pcclAsyncReduceOp_t unknown = {communicator, 12345};
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&unknown, NULL));

    operation.recvbuf = receive;
    static const int noPolicies[] = {-1, 4};
    for (int i = 0; i < 2; i++) {
        pcclOnLoss_t none = (pcclOnLoss_t)noPolicies[i];
        EXPECT(pcclInvalidArgument,
               pcclAllReduceWithOptions(send, receive, &right, communicator, onLoss(none), NULL, NULL, 0, NULL));
        EXPECT(pcclInvalidArgument,
               pcclAllReduceAsyncWithOptions(send, receive, &right, communicator, onLoss(none), &handle));
        EXPECT(pcclInvalidArgument,
               pcclAllReduceMultipleWithOptions(&operation, 1, communicator, onLoss(none), NULL, 1));
    }
    EXPECT(
        pcclInvalidArgument, // No place for parts.
        pcclAllReduceWithOptions(send, receive, &right, communicator, onLoss(pcclOnLossResume), NULL, NULL, 1, NULL));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceAsyncWithOptions(send, receive, &right, communicator, onLoss(pcclOnLossResume), NULL));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceMultipleWithOptions(NULL, 1, communicator, onLoss(pcclOnLossResume), NULL, 1));

    testing_phase = "reductions in a group of one";
    operation.recvbuf = receive;
    pcclReduceInfo_t info;
    EXPECT(pcclTooFewPeers, pcclAllReduce(send, receive, &right, communicator, &info));
    EXPECT(pcclTooFewPeers, pcclAllReduce(send, send, &right, communicator, NULL));
    EXPECT(pcclTooFewPeers, pcclAllReduceAsync(send, receive, &right, communicator, &handle));
    EXPECT(pcclTooFewPeers, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, &info, 1));
    pcclReducePart_t part = {7, 8, 9};
    size_t parts = 10;
    EXPECT(pcclTooFewPeers, pcclAllReduceWithOptions(send, receive, &right, communicator, onLoss(pcclOnLossResume),
                                                     &info, &part, 1, &parts));
    CHECK(part.first_element == 7 && part.element_count == 8 && part.world_size == 9 && parts == 10);
    EXPECT(pcclTooFewPeers,
           pcclAllReduceAsyncWithOptions(send, receive, &right, communicator, onLoss(pcclOnLossResumeWhole), &handle));
    EXPECT(pcclTooFewPeers,
           pcclAllReduceMultipleWithOptions(&operation, 1, communicator, onLoss(pcclOnLossAbort), NULL, 1));
    pcclReduceDescriptor_t ignored = right;
    ignored.quantization_options.quantized_datatype = (pcclDataType_t)12;
    EXPECT(pcclTooFewPeers, pcclAllReduce(send, receive, &ignored, communicator, NULL));
    for (int i = 0; i < 4; i++)
        CHECK(send[i] == (float)(1 + i) && receive[i] == (float)(5 + i));
}

// Each of them is refused, whatever function gets it; the first is right but for the group of one.
static void options(pcclComm_t *communicator) {
    testing_phase = "options";
    float values[64] = {1, 2, 3, 4};
    pcclAsyncReduceOp_t handle;
    const pcclReduceOptions_t right = {sizeof(right), pcclOnLossResume, pcclCodecInt4, 32, pcclRoundingStochastic, 1, 0,
                                       NULL};
    enum { COUNT = 20, RIGHT = 8, CODED_OR_NOT = 16 };
    struct {
        pcclReduceOptions_t options;
        // What a later release may have here.
        uint64_t more;
        pcclDataType_t type;
        pcclRedOp_t operation;
        // Of one operation, and of several, among which some need not be coded.
        pcclResult_t single, several;
    } cases[COUNT];
    for (int i = 0; i < COUNT; i++) {
        cases[i].options = right;
        cases[i].more = 0;
        cases[i].type = pcclFloat;
        cases[i].operation = pcclAvg;
        cases[i].single = i < RIGHT ? pcclTooFewPeers : pcclInvalidArgument;
        cases[i].several = i < RIGHT || i >= CODED_OR_NOT ? pcclTooFewPeers : pcclInvalidArgument;
    }
    cases[1].type = pcclFloat16;
    cases[2].options.error_feedback = 0;
    cases[2].operation = pcclProd;
    cases[3].options.codec = pcclCodecZeroPoint32;
    cases[3].type = pcclDouble;
    // Of a program that knows the first two members only, the others mean nothing.
    cases[4].options.struct_size = offsetof(pcclReduceOptions_t, codec);
    cases[4].options.codec = (pcclCodec_t)15;
    cases[5].options.struct_size = sizeof(right) + sizeof(cases[5].more);
    cases[6].options.on_loss = pcclOnLossUsual;
    cases[7].options.codec = pcclCodecOfDescriptor;
    cases[8].options.struct_size = 0;
    cases[9].options.struct_size = sizeof(right) + sizeof(cases[9].more);
    cases[9].more = 1;
    cases[10].options.on_loss = (pcclOnLoss_t)4;
    cases[11].options.codec = (pcclCodec_t)15;
    cases[12].options.block_elements = 48;
    cases[13].options.rounding = (pcclRounding_t)2;
    cases[14].options.error_feedback = 2;
    cases[15].options.reserved = 1;
    cases[16].options.codec = pcclCodecMinMax32;
    cases[17].options.codec = pcclCodecBFloat16;
    cases[17].type = pcclBFloat16;
    cases[18].type = pcclInt32;
    cases[19].operation = pcclMax;
    for (int i = 0; i < COUNT; i++) {
        const pcclReduceDescriptor_t descriptor = reduction(1, 8, cases[i].type, cases[i].operation);
        const pcclReduceOpDescriptor_t operation = {values, values, descriptor};
        const pcclReduceOptions_t *options = &cases[i].options;
        EXPECT(cases[i].single,
               pcclAllReduceWithOptions(values, values, &descriptor, communicator, options, NULL, NULL, 0, NULL));
        EXPECT(cases[i].single,
               pcclAllReduceAsyncWithOptions(values, values, &descriptor, communicator, options, &handle));
        EXPECT(cases[i].several, pcclAllReduceMultipleWithOptions(&operation, 1, communicator, options, NULL, 1));
    }
    const pcclReduceDescriptor_t descriptor = reduction(1, 4, pcclFloat, pcclSum);
    EXPECT(pcclTooFewPeers,
           pcclAllReduceWithOptions(values, values, &descriptor, communicator, NULL, NULL, NULL, 0, NULL));
    EXPECT(pcclInvalidArgument, pcclFreeErrorFeedback(communicator, 1));
    EXPECT(pcclInvalidArgument, pcclFreeErrorFeedback(NULL, 1));
    EXPECT(pcclInvalidArgument, pcclDumpRecorder(NULL, "/tmp/never.trace"));
    EXPECT(pcclInvalidArgument, pcclDumpRecorder(communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclDumpRecorder(communicator, "/nowhere/at/all.trace"));
    CHECK(access("/tmp/never.trace", F_OK) != 0);
    char path[64];
    snprintf(path, sizeof path, "/tmp/pccl-arguments-%d.trace", (int)getpid());
    EXPECT(pcclSuccess, pcclDumpRecorder(communicator, path));
    CHECK(unlink(path) == 0);
    CHECK(values[0] == 1 && values[3] == 4);
}

static void sharedStates(pcclComm_t *communicator) {
    testing_phase = "shared states that cannot be";
    float values[4] = {1, 2, 3, 4};
    const pcclSharedStateSyncStrategy_t popular = PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR;
    pcclTensorInfo_t tensors[2] = {{"weights", values, 4, pcclFloat, pcclDeviceCpu, false},
                                   {"bias", values, 1, pcclFloat, pcclDeviceCpu, true}};
    const pcclTensorInfo_t good = tensors[0];
    pcclSharedState_t state = {1, 1, tensors};
    pcclSharedStateSyncInfo_t info;
    memset(&info, 0xaa, sizeof(info));
    EXPECT(pcclInvalidArgument, pcclSynchronizeSharedState(communicator, NULL, popular, &info));
    EXPECT(pcclInvalidArgument,
           pcclSynchronizeSharedState(communicator, &state, (pcclSharedStateSyncStrategy_t)3, &info));
    state.infos = NULL;
    EXPECT(pcclInvalidArgument, pcclSynchronizeSharedState(communicator, &state, popular, &info));
    state.infos = tensors;
    const size_t counts[] = {65537, SIZE_MAX};
    for (int i = 0; i < 2; i++) {
        state.count = counts[i];
        EXPECT(pcclInvalidArgument, pcclSynchronizeSharedState(communicator, &state, popular, &info));
    }
    state.count = 1;
    for (int kind = 0; kind < 8; kind++) {
        tensors[0] = good;
        switch (kind) {
        case 0:
            tensors[0].name = NULL;
            break;
        case 1:
            tensors[0].name = "\xff\xfe";
            break;
        case 2:
            tensors[0].data = NULL;
            break;
        case 3:
            tensors[0].datatype = (pcclDataType_t)12;
            break;
        case 4:
            tensors[0].device_type = (pcclDeviceType_t)2;
            break;
        case 5:
            tensors[0].count = SIZE_MAX / 2;
            break;
        case 6:
            tensors[0].count = SIZE_MAX / 4;
            break;
        default:
            tensors[0].name = "bias";
            state.count = 2;
            break;
        }
        EXPECT(pcclInvalidArgument, pcclSynchronizeSharedState(communicator, &state, popular, &info));
    }
    tensors[0] = good;
    state.count = 1;
    tensors[0].device_type = pcclDeviceCuda;
    EXPECT(pcclInvalidUsage, pcclSynchronizeSharedState(communicator, &state, popular, &info));
    tensors[0] = good;
    pcclSyncOptions_t options[2];
    memset(options, 0, sizeof(options));
    const size_t sizes[] = {0, 7, 1 << 17};
    for (int i = 0; i < 3; i++) {
        options[0].struct_size = sizes[i];
        EXPECT(pcclInvalidArgument,
               pcclSynchronizeSharedStateWithOptions(communicator, &state, popular, options, &info));
    }
    options[0].struct_size = sizeof(options);
    options[1].struct_size = 1;
    EXPECT(pcclInvalidArgument, pcclSynchronizeSharedStateWithOptions(communicator, &state, popular, options, &info));
    for (size_t i = 0; i < sizeof(info); i++)
        CHECK(((unsigned char *)&info)[i] == 0xaa);

    testing_phase = "shared states of one who is alone";
    const bool unchanged[2] = {true, false};
    options[1].struct_size = 0;
    options[0].unchanged = unchanged;
    state.count = 2;
    EXPECT(pcclSuccess, pcclSynchronizeSharedStateWithOptions(communicator, &state, popular, options, &info));
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, popular, NULL));
    EXPECT(pcclSuccess,
           pcclSynchronizeSharedState(communicator, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY, &info));
    CHECK(info.tx_bytes == 0 && info.rx_bytes == 0);
    CHECK(state.revision == 1 && state.count == 2 && state.infos == tensors && values[0] == 1 && values[3] == 4);
    state.count = 0;
    state.infos = NULL;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, popular, &info));
}

static void aloneInTheGroup(void) {
    testing_phase = "the first peer of a group";
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    EXPECT(pcclInvalidUsage, pcclConnect(communicator));
    for (int which = PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE; which <= PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE; which++)
        CHECK(attribute(communicator, (pcclAttribute_t)which) == 1);

    EXPECT(pcclInvalidUsage, pcclOptimizeTopology(communicator));

    testing_phase = "wrong arguments of a connected communicator";
    int number = 77;
    EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, NULL));
    EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, (pcclAttribute_t)0, &number));
    EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, (pcclAttribute_t)5, &number));
    EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, (pcclAttribute_t)-1, &number));
    EXPECT(pcclInvalidArgument, pcclArePeersPending(communicator, NULL));
    CHECK(number == 77);

    testing_phase = "the join point of a group of one";
    for (int turn = 0; turn < 3; turn++) {
        bool pending = true;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &pending));
        CHECK(!pending);
        EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
        CHECK(groupSize(communicator) == 1);
    }

    reduceArguments(communicator);
    options(communicator);
    sharedStates(communicator);

    testing_phase = "the group of one is well after all that";
    EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    CHECK(groupSize(communicator) == 1);

    testing_phase = "a second group does not wait for the first";
    pcclComm_t *other = NULL;
    parameters.peer_group = 5;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &other));
    EXPECT(pcclSuccess, pcclConnect(other));
    EXPECT(pcclSuccess, pcclUpdateTopology(other));
    CHECK(attribute(other, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE) == 2);
    CHECK(attribute(other, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE) == 1);
    CHECK(attribute(other, PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS) == 2);
    CHECK(attribute(other, PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE) == 1);

    testing_phase = "leaving";
    EXPECT(pcclSuccess, pcclDestroyCommunicator(other));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    stopMaster(master);
}

int main(void) {
    startWatchdog();
    beforeInit();
    masterAndBuildInfoNeedNoInit();
    EXPECT(pcclSuccess, pcclInit());
    EXPECT(pcclSuccess, pcclInit());
    masterStates();
    awaitBlocksUntilInterrupted();
    nullPointers();
    notConnected();
    connectAgainOnceThereIsAMaster();
    aloneInTheGroup();
    printf("arguments: every call as documented\n");
    return 0;
}
