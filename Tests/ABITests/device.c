// Buffers in the memory of a CUDA device, with a driver that stands in for a real one (Tests/FakeCUDA): what they give
// is what memory of the host gives, bit for bit, the host never touches them, and they are as they were after a
// failure.
//
// device LIBCUDA: with this driver. device: there is none. Nothing goes through windows here: windows.c has those.
#define _GNU_SOURCE
#include "fake_device.h"

#define COUNT 100000

typedef struct Peer {
    int index;
    uint16_t port;
} Peer;

static pthread_barrier_t bothPeers;

static pcclComm_t *join(const Peer *peer) {
    pcclCommCreateParams_t parameters = parametersFor(peer->port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    while (groupSize(communicator) < 2) {
        bool arePending = false;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &arePending));
        if (arePending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    }
    return communicator;
}

static float valueOf(int index, int i) { return 1.25f * (float)(index + 1) + 0.37f * (float)(i % 1009); }

static void fill(void *device, float *host, int index) {
    for (int i = 0; i < COUNT; i++)
        host[i] = valueOf(index, i);
    deviceWrite(device, host, COUNT * sizeof(float));
}

// The same reduction three times: all memory of the host, all of the device, and one of each.
static void checkReductions(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "all-reduce";
    static __thread float host[COUNT], other[COUNT], expected[COUNT], got[COUNT];
    void *device = deviceAlloc(sizeof(host)), *target = deviceAlloc(sizeof(host));
    const pcclCodec_t codecs[] = {pcclCodecOfDescriptor, pcclCodecMinMax8, pcclCodecE3M0, pcclCodecBFloat16};
    for (int c = 0; c < 4; c++) {
        pcclReduceDescriptor_t descriptor = reduction(1, COUNT, pcclFloat, c % 2 ? pcclAvg : pcclSum);
        pcclReduceOptions_t options = {0};
        options.struct_size = sizeof(options);
        options.codec = codecs[c];
        fill(device, host, peer->index);
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(host, expected, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        // In place.
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(device, device, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        deviceRead(got, device, sizeof(got));
        CHECK(memcmp(got, expected, sizeof(got)) == 0);
        // From one buffer of the device into another; one peer of the two only.
        fill(device, host, peer->index);
        void *from = peer->index == 0 ? device : (void *)host, *into = peer->index == 0 ? target : (void *)other;
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(from, into, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        if (peer->index == 0)
            deviceRead(other, target, sizeof(other));
        CHECK(memcmp(other, expected, sizeof(other)) == 0);
        deviceRead(got, device, sizeof(got));
        CHECK(peer->index == 1 || memcmp(got, host, sizeof(got)) == 0);
    }
    // Into the host, and out of it.
    pcclReduceDescriptor_t descriptor = reduction(2, COUNT, pcclFloat, pcclMax);
    fill(device, host, peer->index);
    void *from = peer->index == 0 ? device : (void *)host, *into = peer->index == 0 ? (void *)other : target;
    EXPECT(pcclSuccess, pcclAllReduce(from, into, &descriptor, communicator, NULL));
    if (peer->index == 1)
        deviceRead(other, target, sizeof(other));
    for (int i = 0; i < COUNT; i++)
        CHECK(other[i] == valueOf(1, i));
    // Many, and a part in the middle of an allocation.
    pcclAsyncReduceOp_t handles[4];
    for (uint64_t tag = 0; tag < 4; tag++) {
        pcclReduceDescriptor_t part = reduction(tag, COUNT / 4, pcclFloat, pcclSum);
        float *start = (float *)device + tag * (COUNT / 4);
        EXPECT(pcclSuccess, pcclAllReduceAsync(start, start, &part, communicator, &handles[tag]));
    }
    deviceRead(got, device, sizeof(got));
    CHECK(memcmp(got, host, sizeof(got)) == 0);
    for (int tag = 3; tag >= 0; tag--)
        EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[tag], NULL));
    deviceRead(got, device, sizeof(got));
    for (int i = 0; i < COUNT; i++)
        CHECK(got[i] == valueOf(0, i) + valueOf(1, i));
    deviceFree(device);
    deviceFree(target);
}

static void checkOthers(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "other collectives";
    uint32_t rank = 9;
    EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, NULL));
    static __thread float host[2 * COUNT];
    float *device = deviceAlloc(sizeof(host));
    for (int i = 0; i < COUNT; i++)
        host[rank * COUNT + i] = valueOf((int)rank, i);
    deviceWrite(device, host, sizeof(host));
    pcclCollectiveDescriptor_t descriptor;
    memset(&descriptor, 0, sizeof(descriptor));
    descriptor.struct_size = sizeof(descriptor);
    descriptor.count = COUNT;
    descriptor.datatype = pcclFloat;
    descriptor.tag = 5;
    EXPECT(pcclSuccess, pcclAllGather(device + rank * COUNT, device, &descriptor, communicator, NULL));
    deviceRead(host, device, sizeof(host));
    for (int i = 0; i < 2 * COUNT; i++)
        CHECK(host[i] == valueOf(i / COUNT, i % COUNT));
    descriptor.op = pcclSum;
    EXPECT(pcclSuccess, pcclReduceScatter(device, device + rank * COUNT, &descriptor, communicator, NULL));
    deviceRead(host, device, sizeof(host));
    for (int i = 0; i < 2 * COUNT; i++)
        CHECK(host[i] == valueOf(i / COUNT, i % COUNT) * (i / COUNT == (int)rank ? 2 : 1));
    descriptor.root = 1;
    EXPECT(pcclSuccess, pcclBroadcast(device, &descriptor, communicator, NULL));
    deviceRead(host, device, sizeof(host));
    CHECK(host[3] == valueOf(0, 3));

    // A stream that cannot be waited for, so each of them has looked at it.
    int capturing = 1;
    pcclReduceOptions_t options = {0};
    options.struct_size = sizeof(options);
    options.cuda_stream = &capturing;
    descriptor.options = &options;
    EXPECT(pcclInternalError, pcclAllGather(device + rank * COUNT, device, &descriptor, communicator, NULL));
    EXPECT(pcclInternalError, pcclReduceScatter(device, device + rank * COUNT, &descriptor, communicator, NULL));
    EXPECT(pcclInternalError, pcclBroadcast(device, &descriptor, communicator, NULL));
    capturing = 0;
    EXPECT(pcclSuccess, pcclBroadcast(device, &descriptor, communicator, NULL));

    testing_phase = "shared state";
    // No memory for what the kernel writes: the host hashes.
    if (peer->index == 0)
        deviceFail("cuMemAlloc_v2", 1, 2);
    int64_t steps = 1;
    for (int i = 0; i < COUNT; i++)
        host[i] = valueOf(peer->index, i);
    deviceWrite(device, host, COUNT * sizeof(float));
    pcclTensorInfo_t infos[2];
    memset(infos, 0, sizeof(infos));
    infos[0].name = "weights";
    infos[0].data = device;
    infos[0].count = COUNT;
    infos[0].datatype = pcclFloat;
    infos[0].device_type = pcclDeviceCuda;
    infos[1].name = "steps";
    infos[1].data = &steps;
    infos[1].count = 1;
    infos[1].datatype = pcclInt64;
    pcclSharedState_t state = {1, 2, infos};
    pcclSharedStateSyncStrategy_t strategy =
        peer->index == 0 ? PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY : PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, NULL));
    deviceRead(host, device, sizeof(host));
    for (int i = 0; i < COUNT; i++)
        CHECK(host[i] == valueOf(0, i));
    deviceFree(device);
}

#define CHUNK_FLOATS (1 << 18)
#define LARGE (3 * CHUNK_FLOATS + 77)
#define SMALL 8

// Four tensors: of several chunks, of a few bytes, at an address that no word is at, and one that only member 0 has on
// a device.
typedef struct Tensors {
    void *large, *small, *oddly, *mixed;
    float *mixedHost;
    pcclTensorInfo_t infos[4];
} Tensors;

static float *largeValues(int index) {
    float *values = malloc(LARGE * sizeof(float));
    for (int i = 0; i < LARGE; i++)
        values[i] = valueOf(index, i);
    return values;
}

static void makeTensors(Tensors *tensors, const Peer *peer) {
    memset(tensors, 0, sizeof(*tensors));
    float *values = largeValues(peer->index);
    tensors->large = deviceAlloc(LARGE * sizeof(float));
    tensors->small = deviceAlloc(SMALL * sizeof(float));
    tensors->oddly = deviceAlloc(sizeof(float) + LARGE * sizeof(float));
    deviceWrite(tensors->large, values, LARGE * sizeof(float));
    deviceWrite(tensors->small, values, SMALL * sizeof(float));
    deviceWrite((char *)tensors->oddly + sizeof(float), values, LARGE * sizeof(float));
    tensors->mixedHost = largeValues(peer->index);
    tensors->mixed = deviceAlloc(LARGE * sizeof(float));
    deviceWrite(tensors->mixed, values, LARGE * sizeof(float));
    free(values);
    const char *const names[] = {"large", "small", "oddly", "mixed"};
    void *const places[] = {tensors->large, tensors->small, (char *)tensors->oddly + sizeof(float),
                            peer->index == 0 ? tensors->mixed : (void *)tensors->mixedHost};
    for (int i = 0; i < 4; i++) {
        tensors->infos[i].name = names[i];
        tensors->infos[i].data = places[i];
        tensors->infos[i].count = i == 1 ? SMALL : LARGE;
        tensors->infos[i].datatype = pcclFloat;
    }
}

static void checkTensors(const Tensors *tensors, const Peer *peer, const float *expected) {
    float *got = malloc(LARGE * sizeof(float));
    deviceRead(got, tensors->large, LARGE * sizeof(float));
    CHECK(memcmp(got, expected, LARGE * sizeof(float)) == 0);
    deviceRead(got, tensors->small, SMALL * sizeof(float));
    CHECK(memcmp(got, expected, SMALL * sizeof(float)) == 0);
    deviceRead(got, (char *)tensors->oddly + sizeof(float), LARGE * sizeof(float));
    CHECK(memcmp(got, expected, LARGE * sizeof(float)) == 0);
    if (peer->index == 0)
        deviceRead(got, tensors->mixed, LARGE * sizeof(float));
    else
        memcpy(got, tensors->mixedHost, LARGE * sizeof(float));
    CHECK(memcmp(got, expected, LARGE * sizeof(float)) == 0);
    free(got);
}

static void checkSharedStates(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "shared states of several chunks";
    Tensors tensors;
    makeTensors(&tensors, peer);
    float *expected = largeValues(0);
    pcclSharedState_t state = {2, 4, tensors.infos};
    pcclSharedStateSyncInfo_t info;
    pcclSharedStateSyncStrategy_t strategy =
        peer->index == 0 ? PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY : PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &info));
    checkTensors(&tensors, peer, expected);
    CHECK((peer->index == 0 ? info.tx_bytes : info.rx_bytes) > 3 * LARGE * sizeof(float));

    testing_phase = "shared states that are alike";
    pthread_barrier_wait(&bothPeers);
    int writes = deviceCalls("cuMemcpyHtoDAsync_v2");
    pthread_barrier_wait(&bothPeers);
    state.revision = 3;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &info));
    CHECK(info.tx_bytes == 0 && info.rx_bytes == 0);
    pthread_barrier_wait(&bothPeers);
    CHECK(deviceCalls("cuMemcpyHtoDAsync_v2") == writes);

    testing_phase = "shared states that differ in one chunk";
    expected[CHUNK_FLOATS + 5] = -1;
    if (peer->index == 0) {
        deviceWrite((char *)tensors.large + (CHUNK_FLOATS + 5) * sizeof(float), &expected[CHUNK_FLOATS + 5], 4);
        deviceWrite((char *)tensors.oddly + (CHUNK_FLOATS + 6) * sizeof(float), &expected[CHUNK_FLOATS + 5], 4);
        deviceWrite((char *)tensors.mixed + (CHUNK_FLOATS + 5) * sizeof(float), &expected[CHUNK_FLOATS + 5], 4);
    }
    pthread_barrier_wait(&bothPeers);
    state.revision = 4;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &info));
    checkTensors(&tensors, peer, expected);
    pthread_barrier_wait(&bothPeers);
    // Two of them lie on the receiver's device: a chunk each.
    CHECK(deviceCalls("cuMemcpyHtoDAsync_v2") == writes + 2);
    CHECK((peer->index == 0 ? info.tx_bytes : info.rx_bytes) < 4 * CHUNK_FLOATS * sizeof(float));

    testing_phase = "a device that fails before its state is told";
    state.revision = 5;
    pthread_barrier_wait(&bothPeers);
    if (peer->index == 0) {
        const char *const functions[] = {"cuStreamSynchronize", "cuMemcpyDtoHAsync_v2", "cuCtxPushCurrent_v2"};
        for (int f = 0; f < 3; f++) {
            deviceFail(functions[f], 1, 999);
            EXPECT(pcclInternalError, pcclSynchronizeSharedState(communicator, &state, strategy, &info));
            deviceRecover();
        }
    }
    pthread_barrier_wait(&bothPeers);
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &info));

    testing_phase = "a device that does not take what it is sent";
    expected[9] = -2;
    if (peer->index == 0)
        deviceWrite((char *)tensors.large + 9 * sizeof(float), &expected[9], 4);
    state.revision = 6;
    pthread_barrier_wait(&bothPeers);
    if (peer->index == 0)
        deviceFail("cuMemcpyHtoDAsync_v2", 1, 2);
    pthread_barrier_wait(&bothPeers);
    EXPECT(peer->index == 0 ? pcclSuccess : pcclInternalError,
           pcclSynchronizeSharedState(communicator, &state, strategy, &info));
    state.revision = 7;
    pthread_barrier_wait(&bothPeers);
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &info));
    deviceRead(expected, tensors.large, 10 * sizeof(float));
    CHECK(expected[9] == -2);

    testing_phase = "a device that does not give what is asked for";
    expected[9] = -3;
    if (peer->index == 0)
        deviceWrite((char *)tensors.large + 9 * sizeof(float), &expected[9], 4);
    pcclSharedState_t one = {8, 1, tensors.infos};
    // What both hash comes first: the lanes of all chunks, or the chunks.
    int hashing = getenv("FAKE_CUDA_NO_KERNELS") == NULL ? 2 : 8;
    pthread_barrier_wait(&bothPeers);
    if (peer->index == 0)
        deviceFail("cuMemcpyDtoHAsync_v2", hashing + 1, 2);
    pthread_barrier_wait(&bothPeers);
    EXPECT(peer->index == 0 ? pcclInternalError : pcclSuccess,
           pcclSynchronizeSharedState(communicator, &one, strategy, &info));
    // There is nobody else, so the same member was asked again.
    deviceRead(expected, tensors.large, 10 * sizeof(float));
    CHECK(expected[9] == -3);

    testing_phase = "snapshots";
    char folder[] = "/tmp/pccl-device-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    for (int waits = 0; waits < 2; waits++) {
        float *kept = malloc(LARGE * sizeof(float));
        float *empty = calloc(LARGE, sizeof(float));
        deviceRead(kept, tensors.large, LARGE * sizeof(float));
        pcclSaveOptions_t options = {0};
        options.struct_size = sizeof(options);
        options.keep = 1;
        options.foreground = waits == 1;
        pcclSnapshot_t *snapshot;
        state.revision = 20 + (uint64_t)waits;
        EXPECT(pcclSuccess, pcclSaveSharedState(&state, folder, &options, &snapshot));
        deviceWrite(tensors.large, empty, LARGE * sizeof(float));
        deviceWrite(tensors.small, empty, SMALL * sizeof(float));
        EXPECT(pcclSuccess, pcclAwaitSnapshot(snapshot));
        state.revision = 0;
        EXPECT(pcclSuccess, pcclLoadSharedState(folder, &state));
        CHECK(state.revision == 20 + (uint64_t)waits);
        deviceRead(empty, tensors.large, LARGE * sizeof(float));
        CHECK(memcmp(kept, empty, LARGE * sizeof(float)) == 0);
        deviceRead(empty, tensors.small, SMALL * sizeof(float));
        CHECK(empty[1] == valueOf(0, 1));
        free(kept);
        free(empty);
    }
    char remove[64];
    snprintf(remove, sizeof(remove), "rm -r %s", folder);
    CHECK(system(remove) == 0);

    deviceFree(tensors.large);
    deviceFree(tensors.small);
    deviceFree(tensors.oddly);
    deviceFree(tensors.mixed);
    free(tensors.mixedHost);
    free(expected);
}

static void checkFailures(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "a device that fails";
    static __thread float host[COUNT], got[COUNT];
    void *device = deviceAlloc(sizeof(host));
    pcclReduceDescriptor_t descriptor = reduction(7, COUNT, pcclFloat, pcclSum);
    fill(device, host, peer->index);
    pthread_barrier_wait(&bothPeers);
    if (peer->index == 0) {
        // Before anything is sent: nobody else notices, and it may be called again.
        const char *const functions[] = {"cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuCtxPushCurrent_v2",
                                         "cuMemHostRegister_v2"};
        for (int f = 0; f < 3; f++) {
            deviceFail(functions[f], 1, 999);
            EXPECT(pcclInternalError, pcclAllReduce(device, device, &descriptor, communicator, NULL));
            deviceRecover();
        }
        int capturing = 1;
        pcclReduceOptions_t options = {0};
        options.struct_size = sizeof(options);
        options.cuda_stream = &capturing;
        EXPECT(pcclInternalError,
               pcclAllReduceWithOptions(device, device, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        // Memory that cannot be pinned is replaced by other memory. More than any that is kept.
        void *large = deviceAlloc(40 << 20);
        pcclReduceDescriptor_t other = reduction(8, 10 << 20, pcclFloat, pcclSum);
        pcclAsyncReduceOp_t handle;
        deviceFail(functions[3], 1, 2);
        EXPECT(pcclSuccess, pcclAllReduceAsync(large, large, &other, communicator, &handle));
        pthread_barrier_wait(&bothPeers);
        EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handle, NULL));
        deviceFree(large);
    } else {
        float *large = calloc(10 << 20, sizeof(float));
        pcclReduceDescriptor_t other = reduction(8, 10 << 20, pcclFloat, pcclSum);
        pthread_barrier_wait(&bothPeers);
        EXPECT(pcclSuccess, pcclAllReduce(large, large, &other, communicator, NULL));
        free(large);
    }
    deviceRead(got, device, sizeof(got));
    CHECK(memcmp(got, host, sizeof(got)) == 0);
    // A result that cannot be written back: this member is told, the others have it.
    pthread_barrier_wait(&bothPeers);
    if (peer->index == 0) {
        deviceFail("cuMemcpyHtoDAsync_v2", 1, 700);
        EXPECT(pcclInternalError, pcclAllReduce(device, device, &descriptor, communicator, NULL));
        EXPECT(pcclInternalError, pcclAllReduce(device, device, &descriptor, communicator, NULL));
        deviceRecover();
        deviceRead(got, device, sizeof(got));
        CHECK(memcmp(got, host, sizeof(got)) == 0);
    } else {
        EXPECT(pcclSuccess, pcclAllReduce(host, got, &descriptor, communicator, NULL));
        CHECK(got[0] == valueOf(0, 0) + valueOf(1, 0));
    }
    pthread_barrier_wait(&bothPeers);

    testing_phase = "a member that is lost";
    fill(device, host, peer->index);
    pcclReduceDescriptor_t last = reduction(9, COUNT, pcclFloat, pcclSum);
    pcclAsyncReduceOp_t handle;
    if (peer->index == 0) {
        EXPECT(pcclSuccess, pcclAllReduceAsync(device, device, &last, communicator, &handle));
        pthread_barrier_wait(&bothPeers);
        EXPECT(pcclRankConnectionLost, pcclAwaitAsyncReduce(&handle, NULL));
        deviceRead(got, device, sizeof(got));
        CHECK(memcmp(got, host, sizeof(got)) == 0);
    } else {
        pthread_barrier_wait(&bothPeers);
    }
    deviceFree(device);
}

static void *run(void *argument) {
    const Peer *peer = argument;
    pcclComm_t *communicator = join(peer);
    checkReductions(peer, communicator);
    pthread_barrier_wait(&bothPeers);
    checkOthers(peer, communicator);
    pthread_barrier_wait(&bothPeers);
    checkSharedStates(peer, communicator);
    pthread_barrier_wait(&bothPeers);
    checkFailures(peer, communicator);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

int main(int argc, char **argv) {
    startWatchdog();
    setenv("PCCL_DEVICE_WINDOW", "0", 1);
    pcclCudaStatus_t status;
    EXPECT(pcclInvalidArgument, pcclGetCudaStatus(NULL));
    if (argc < 2) {
        testing_phase = "no driver";
        EXPECT(pcclSuccess, pcclGetCudaStatus(&status));
        CHECK(!status.is_ready && status.device_count == 0 && strstr(status.reason, "no CUDA driver") != NULL);
        return 0;
    }
    findDriver(argv[1]);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    CHECK(deviceCalls("cuInit") == 0);
    pthread_barrier_init(&bothPeers, NULL, 2);
    Peer peers[2] = {{0, port}, {1, port}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, run, &peers[i]) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    EXPECT(pcclSuccess, pcclGetCudaStatus(&status));
    CHECK(status.is_ready && status.device_count == 1 && status.driver_version == 12040 && status.reason[0] == '\0');
    CHECK(deviceCalls("cuInit") == 1);
    CHECK((deviceCalls("cuLaunchKernel") > 0) == (getenv("FAKE_CUDA_NO_KERNELS") == NULL));
    stopMaster(master);
    return 0;
}
