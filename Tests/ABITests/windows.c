// Buffers of one device in three peers of one host, with the driver that stands in for a real one: once the peers have
// mapped each other's windows, nothing of an operation touches the host, and its result is what the host's would be,
// bit for bit.
//
// windows LIBCUDA [none | FUNCTION N]: with this driver, that has no windows, or of which the N-th call of FUNCTION
// fails in the last operation.
#define _GNU_SOURCE
#include "device_peers.h"

enum { MOST = 5003 };

typedef struct Peer {
    int index;
    uint16_t port;
    bool hasWindows;
    const char *failing;
    int failingCall;
} Peer;

// Open descriptors of them, in this process.
static int memoryAndSockets(void) {
    int count = 0;
    for (int descriptor = 0; descriptor < 1024; descriptor++) {
        char path[40], what[80] = "";
        snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
        if (readlink(path, what, sizeof(what) - 1) > 0 && (strstr(what, "memfd") || strstr(what, "socket")))
            count++;
    }
    return count;
}

// Of all peers; only those that the driver does for an operation count, so it may be asked after all have ended.
static int copiesToTheHost(void) {
    waitForAll();
    int count = deviceCalls("cuMemcpyDtoHAsync_v2");
    waitForAll();
    return count;
}

// The first operations go through the host, until the windows are there.
static void waitForWindows(const pcclComm_t *communicator) {
    testing_phase = "windows are made";
    float *device = deviceAlloc(64 * sizeof(float));
    for (int turn = 0, before = -1; copiesToTheHost() != before; turn++) {
        CHECK(turn < 2000);
        before = copiesToTheHost();
        pcclReduceDescriptor_t descriptor = reduction(1, 64, pcclFloat, pcclSum);
        EXPECT(pcclSuccess, pcclAllReduce(device, device, &descriptor, communicator, NULL));
    }
    deviceFree(device);
}

static void checkReductions(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "all types and operations";
    Buffers b = makeBuffers(MOST * 8 + 64);
    const size_t counts[] = {1, 2, 65, 700, MOST};
    for (int type = pcclUint8; type <= pcclDouble; type++)
        for (int op = pcclSum; op <= pcclMin; op++)
            for (int c = 0; c < (type == pcclFloat || type == pcclUint8 ? 5 : 4); c++)
                checkReduction(peer->index, communicator, &b, (pcclDataType_t)type, (pcclRedOp_t)op, counts[c],
                               c % 2 ? sizeOf((pcclDataType_t)type) * (size_t)c : 0);
    freeBuffers(&b);
}

// More at once than there are windows for, so that some go through the host.
static void checkMany(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "many at once";
    enum { AT_ONCE = 24, COUNT = 1 << 20 };
    void *device[AT_ONCE];
    pcclAsyncReduceOp_t handles[AT_ONCE];
    float *host = malloc(COUNT * sizeof(float));
    for (int i = 0; i < AT_ONCE; i++) {
        device[i] = deviceAlloc(COUNT * sizeof(float));
        for (int j = 0; j < COUNT; j++)
            host[j] = (float)(peer->index * AT_ONCE + i + j % 97);
        deviceWrite(device[i], host, COUNT * sizeof(float));
    }
    // In another order at each of them.
    for (int i = 0; i < AT_ONCE; i++) {
        int tag = (i * (peer->index == 1 ? 5 : 7) + peer->index) % AT_ONCE;
        pcclReduceDescriptor_t descriptor = reduction((uint64_t)tag, COUNT, pcclFloat, pcclMax);
        EXPECT(pcclSuccess, pcclAllReduceAsync(device[tag], device[tag], &descriptor, communicator, &handles[tag]));
    }
    for (int i = 0; i < AT_ONCE; i++) {
        EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[i], NULL));
        deviceRead(host, device[i], COUNT * sizeof(float));
        for (int j = 0; j < COUNT; j++)
            CHECK(host[j] == (float)((PEERS - 1) * AT_ONCE + i + j % 97));
        deviceFree(device[i]);
    }
    free(host);
}

// One of them has its buffer on the host, or a codec is asked for: all go through the host.
static void checkMixed(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "mixed";
    Buffers b = makeBuffers(MOST * sizeof(float));
    pcclReduceDescriptor_t descriptor = reduction(4, MOST, pcclFloat, pcclSum);
    for (int onHost = 0; onHost <= PEERS; onHost++) {
        scramble(b.host, MOST * sizeof(float), (uint64_t)(peer->index + onHost));
        for (int i = 0; i < MOST; i++) // Numbers.
            b.host[4 * i + 3] = 0x40;
        pcclReduceOptions_t options = {0};
        options.struct_size = sizeof(options);
        options.codec = onHost == PEERS ? pcclCodecMinMax8 : pcclCodecOfDescriptor;
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(b.host, b.expected, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        deviceWrite(b.device, b.host, MOST * sizeof(float));
        void *buffer = peer->index == onHost ? b.host : b.device;
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(buffer, buffer, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        if (peer->index != onHost)
            deviceRead(b.host, b.device, MOST * sizeof(float));
        checkSame(pcclFloat, b.host, b.expected, MOST);
    }
    freeBuffers(&b);
}

// A device that fails at one of the steps of one of them: that one has left, the input of all is whole, and the others
// go on. Or it has no more memory: then they go through the host.
static void checkFailure(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = peer->failing;
    const size_t count = 100003, bytes = count * sizeof(float);
    float *host = malloc(bytes), *got = malloc(bytes);
    void *device = deviceAlloc(bytes);
    for (size_t i = 0; i < count; i++)
        host[i] = (float)(1 << peer->index) + (float)i;
    deviceWrite(device, host, bytes);
    pcclReduceDescriptor_t descriptor = reduction(5, count, pcclFloat, pcclSum);
    pcclReduceInfo_t info = {0};
    pcclAsyncReduceOp_t handle;
    if (waitForAll())
        deviceFail(peer->failing, peer->failingCall, 2);
    waitForAll();
    EXPECT(pcclSuccess, pcclAllReduceAsync(device, device, &descriptor, communicator, &handle));
    pcclResult_t result = pcclAwaitAsyncReduce(&handle, NULL);
    static int left;
    deviceRead(got, device, bytes);
    if (result != pcclSuccess) {
        CHECK(memcmp(got, host, bytes) == 0);
        CHECK(result == pcclInternalError || result == pcclRankConnectionLost);
        if (result == pcclInternalError)
            __atomic_add_fetch(&left, 1, __ATOMIC_RELAXED);
    }
    waitForAll();
    CHECK(left == 1);
    if (result == pcclRankConnectionLost) {
        EXPECT(pcclSuccess, pcclAllReduce(device, device, &descriptor, communicator, &info));
        CHECK(info.local_world_size == PEERS - 1);
        deviceRead(got, device, bytes);
        float sum = got[0];
        CHECK(sum == 3 || sum == 5 || sum == 6);
        for (size_t i = 0; i < count; i++)
            CHECK(got[i] == sum + 2 * (float)i);
    }
    deviceFree(device);
    free(host);
    free(got);
}

static void *run(void *argument) {
    const Peer *peer = argument;
    pcclComm_t *communicator = join(peer->port);
    if (!peer->hasWindows) {
        // Time and again, while windows are tried for.
        for (int turn = 0; turn < 20; turn++)
            checkCollectives(peer->index, communicator, 777 * (size_t)(1 + turn));
        checkMixed(peer, communicator);
        waitForAll();
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        return NULL;
    }
    waitForWindows(communicator);
    int before = copiesToTheHost();
    checkReductions(peer, communicator);
    checkCollectives(peer->index, communicator, 777);
    testing_phase = "nothing of it was on the host";
    CHECK(copiesToTheHost() == before);
    // In place and in more rounds than there are halves, what is overwritten is put aside: the first time there is no
    // memory for that, and the host is the way.
    Buffers b = makeBuffers(200003 * sizeof(float) + 64);
    testing_phase = "many rounds";
    checkReduction(peer->index, communicator, &b, pcclFloat, pcclSum, 200003, 0);
    int afterFirst = copiesToTheHost();
    CHECK(afterFirst > before);
    for (int turn = 0; copiesToTheHost() != afterFirst || turn == 0; turn++) {
        CHECK(turn < 100);
        afterFirst = copiesToTheHost();
        checkReduction(peer->index, communicator, &b, pcclFloat, pcclAvg, 200003, 4);
    }
    freeBuffers(&b);
    checkCollectives(peer->index, communicator, 50021);
    before = copiesToTheHost();
    checkMany(peer, communicator);
    testing_phase = "not all found room";
    CHECK(copiesToTheHost() > before);
    checkMixed(peer, communicator);
    if (peer->failing)
        checkFailure(peer, communicator);
    waitForAll();
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc >= 2);
    startWatchdog();
    // The one that folds in rank order, as windows do.
    setenv("PCCL_ALGORITHM", "direct", 1);
    // Small, so that little memory has many rounds, and a few operations fill it.
    setenv("PCCL_DEVICE_ROUND", "64", 1);
    setenv("PCCL_DEVICE_WINDOW", "2", 1);
    findDriver(argv[1]);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pthread_barrier_init(&allPeers, NULL, PEERS);
    Peer peers[PEERS];
    pthread_t threads[PEERS];
    for (int i = 0; i < PEERS; i++) {
        peers[i] = (Peer){i, port, argc != 3, argc > 3 ? argv[2] : NULL, argc > 3 ? atoi(argv[3]) : 0};
        CHECK(pthread_create(&threads[i], NULL, run, &peers[i]) == 0);
    }
    for (int i = 0; i < PEERS; i++)
        pthread_join(threads[i], NULL);
    stopMaster(master);
    testing_phase = "nothing is left";
    CHECK(memoryAndSockets() == 0);
    return 0;
}
