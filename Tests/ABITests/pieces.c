// Large buffers of a device in three peers that share none of its memory, with the driver that stands in for a real
// one: they go through the host in pieces, of which some are copied while others are on the network; results are what
// the host's would be, bit for bit, and inputs whole after a failure.
//
// pieces LIBCUDA
#define _GNU_SOURCE
#include "device_peers.h"

#include <time.h>

// Several segments for each of three chunks, and something.
enum { COUNT = (4 << 18) + 4321 };

// Two pieces and something: kernels are run by an interpreter.
enum { CODED = 9001 };

static const char read_call[] = "cuMemcpyDtoHAsync_v2", write_call[] = "cuMemcpyHtoDAsync_v2";

typedef struct Peer {
    int index;
    uint16_t port;
} Peer;

static float valueOf(int index, size_t i) { return (float)(1 << index) * (float)(1 + i % 1009); }

static void fill(const Peer *peer, Buffers *b) {
    float *values = (float *)b->host;
    for (size_t i = 0; i < COUNT; i++)
        values[i] = valueOf(peer->index, i);
    deviceWrite(b->device, b->host, COUNT * sizeof(float));
}

// Whose values are summed: a bit for each peer.
static void checkSum(const float *got, int members) {
    for (size_t i = 0; i < COUNT; i++)
        if (got[i] != (float)members * (float)(1 + i % 1009))
            FAIL("element %zu is %g times what it is for one, not %d", i, got[i] / (float)(1 + i % 1009), members);
}

static bool isInput(const Buffers *b) {
    deviceRead(b->got, b->device, COUNT * sizeof(float));
    return memcmp(b->got, b->host, COUNT * sizeof(float)) == 0;
}

static void checkResults(const Peer *peer, const pcclComm_t *communicator, Buffers *b) {
    testing_phase = "reductions of several sizes";
    const size_t counts[] = {1 << 16, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 16, 3 << 18, COUNT};
    for (int c = 0; c < 7; c++)
        checkReduction(peer->index, communicator, b, pcclFloat, pcclSum, counts[c], 0);
    checkReduction(peer->index, communicator, b, pcclUint8, pcclMax, COUNT, 3);
    checkReduction(peer->index, communicator, b, pcclBFloat16, pcclAvg, COUNT, 2);
    checkReduction(peer->index, communicator, b, pcclDouble, pcclProd, COUNT / 2, 8);

    pcclReduceDescriptor_t descriptor;
    testing_phase = "one buffer of the two, and one peer of the three, on the host";
    for (int c = 0; c < 3; c++) {
        descriptor = reduction(8, COUNT, pcclFloat, pcclSum);
        fill(peer, b);
        bool isFromHost = peer->index == c, isToHost = peer->index == (c + 1) % 3;
        EXPECT(pcclSuccess, pcclAllReduce(isFromHost ? b->host : b->device, isToHost ? b->got : b->target, &descriptor,
                                          communicator, NULL));
        if (!isToHost)
            deviceRead(b->got, b->target, COUNT * sizeof(float));
        checkSum((float *)b->got, 7);
        CHECK(isInput(b));
    }
    checkCollectives(peer->index, communicator, COUNT);
    checkCollectives(peer->index, communicator, 1 << 18);
}

static pcclReduceOptions_t coded(pcclCodec_t codec) {
    pcclReduceOptions_t options = {0};
    options.struct_size = sizeof(options);
    options.codec = codec;
    return options;
}

// On the host, on the device into other memory, and there in place: the same.
static void checkCoded(const Peer *peer, const pcclComm_t *communicator, Buffers *b, size_t count, pcclRedOp_t op,
                       const pcclReduceOptions_t *options, int onHost) {
    pcclReduceDescriptor_t descriptor = reduction(6, count, pcclFloat, op);
    size_t bytes = count * sizeof(float);
    fill(peer, b);
    EXPECT(pcclSuccess,
           pcclAllReduceWithOptions(b->host, b->expected, &descriptor, communicator, options, NULL, NULL, 0, NULL));
    // What was lost in the operation before is added in the next, so each kind of buffer has its tag.
    descriptor.tag = 7;
    if (peer->index == onHost) {
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(b->host, b->got, &descriptor, communicator, options, NULL, NULL, 0, NULL));
        CHECK(memcmp(b->got, b->expected, bytes) == 0);
        return;
    }
    void *into = options->error_feedback || onHost < PEERS ? b->target : b->device;
    EXPECT(pcclSuccess,
           pcclAllReduceWithOptions(b->device, into, &descriptor, communicator, options, NULL, NULL, 0, NULL));
    deviceRead(b->got, into, bytes);
    CHECK(memcmp(b->got, b->expected, bytes) == 0);
    if (into != b->device)
        CHECK(isInput(b));
}

// In one-shot nobody codes what others decode.
static bool codesOnDevice(void) {
    return strcmp(getenv("PCCL_ALGORITHM"), "oneshot") != 0 && getenv("FAKE_CUDA_NO_KERNELS") == NULL;
}

static void checkCodecs(const Peer *peer, const pcclComm_t *communicator, Buffers *b) {
    testing_phase = "kernels of codecs are loaded";
    static int launches;
    if (waitForAll())
        launches = deviceCalls("cuLaunchKernel");
    waitForAll();
    pcclReduceOptions_t options = coded(pcclCodecMinMax8);
    for (bool isLoaded = !codesOnDevice(); !isLoaded;) {
        checkCoded(peer, communicator, b, CODED, pcclSum, &options, PEERS);
        waitForAll();
        isLoaded = deviceCalls("cuLaunchKernel") > launches;
        waitForAll();
    }
    testing_phase = "codes and no elements cross the bus";
    size_t crossed = deviceCrossed();
    waitForAll();
    pcclReduceDescriptor_t descriptor = reduction(8, CODED, pcclFloat, pcclSum);
    EXPECT(pcclSuccess,
           pcclAllReduceWithOptions(b->device, b->device, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
    waitForAll();
    // Of three peers: each sends and receives two thirds and then the result, a quarter as large as the elements.
    const size_t elements = PEERS * CODED * sizeof(float);
    CHECK(codesOnDevice() == (deviceCrossed() - crossed < elements));
    testing_phase = "codecs";
    for (int codec = pcclCodecMinMax8; codec <= pcclCodecBFloat16; codec++) {
        options = coded((pcclCodec_t)codec);
        if (codec == pcclCodecMinMax32 || codec == pcclCodecZeroPoint32)
            continue;
        checkCoded(peer, communicator, b, CODED, codec % 2 ? pcclSum : pcclAvg, &options, PEERS);
        checkCoded(peer, communicator, b, CODED + codec, codec % 2 ? pcclAvg : pcclSum, &options, codec % 4);
    }
    if (codesOnDevice() && strcmp(getenv("PCCL_ALGORITHM"), "direct") == 0) {
        testing_phase = "codes of several segments";
        options = coded(pcclCodecBFloat16);
        checkCoded(peer, communicator, b, (3 << 17) + 3 * 777, pcclSum, &options, PEERS);
    }
    testing_phase = "codecs in a reduce-scatter";
    for (int codec = pcclCodecE4M3; codec <= pcclCodecFloat16; codec += 2) {
        options = coded((pcclCodec_t)codec);
        uint32_t rank = 9;
        EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, NULL));
        pcclCollectiveDescriptor_t scatter = collective(9, CODED / 2, pcclFloat);
        scatter.options = &options;
        fill(peer, b);
        size_t bytes = CODED / 2 * sizeof(float);
        EXPECT(pcclSuccess, pcclReduceScatter(b->host, b->expected, &scatter, communicator, NULL));
        EXPECT(pcclSuccess, pcclReduceScatter(b->device, b->target, &scatter, communicator, NULL));
        deviceRead(b->got, b->target, bytes);
        CHECK(memcmp(b->got, b->expected, bytes) == 0 && isInput(b));
        EXPECT(pcclSuccess, pcclReduceScatter(b->device, b->device + rank * bytes, &scatter, communicator, NULL));
        deviceRead(b->got, b->device + rank * bytes, bytes);
        CHECK(memcmp(b->got, b->expected, bytes) == 0);
    }
    testing_phase = "codecs that are the host's";
    options = coded(pcclCodecInt4);
    checkCoded(peer, communicator, b, CODED, pcclMax, &options, PEERS);
    options = coded(pcclCodecInt4);
    options.error_feedback = 1;
    for (int turn = 0; turn < 3; turn++)
        checkCoded(peer, communicator, b, CODED, pcclSum, &options, PEERS);
}

static void gatherFrom(int index, uint32_t rank, const pcclComm_t *communicator, Buffers *b, size_t bytes, int way) {
    pcclCollectiveDescriptor_t descriptor = collective(3, COUNT, pcclInt32);
    // Sent from the host, received there, both, or none of them: another one at each peer.
    bool isFromHost = (way + index) % 4 & 1, isToHost = (way + index) % 4 & 2;
    deviceWrite(b->device, b->host, bytes);
    EXPECT(pcclSuccess, pcclAllGather(isFromHost ? b->host : b->device, isToHost ? b->got : b->target, &descriptor,
                                      communicator, NULL));
    if (!isToHost)
        deviceRead(b->got, b->target, PEERS * bytes);
    CHECK(memcmp(b->got, b->expected, PEERS * bytes) == 0);
    CHECK(memcmp(b->got + rank * bytes, b->host, bytes) == 0);
}

// Each peer has other buffers of the two on the host.
static void checkMixedCollectives(const Peer *peer, const pcclComm_t *communicator, Buffers *b) {
    testing_phase = "collectives of devices and hosts";
    const size_t bytes = COUNT * sizeof(int32_t);
    uint32_t rank = 9;
    EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, NULL));
    pcclCollectiveDescriptor_t descriptor = collective(3, COUNT, pcclInt32);
    for (int way = 0; way < 4; way++) {
        scramble(b->host, PEERS * bytes, (uint64_t)(peer->index + 10 * way));
        EXPECT(pcclSuccess, pcclAllGather(b->host, b->expected, &descriptor, communicator, NULL));
        gatherFrom(peer->index, rank, communicator, b, bytes, way);
        EXPECT(pcclSuccess, pcclReduceScatter(b->host, b->expected, &descriptor, communicator, NULL));
        deviceWrite(b->device, b->host, PEERS * bytes);
        bool isFromHost = (way + peer->index) % 4 & 1, isToHost = (way + peer->index) % 4 & 2;
        EXPECT(pcclSuccess, pcclReduceScatter(isFromHost ? b->host : b->device, isToHost ? b->got : b->target,
                                              &descriptor, communicator, NULL));
        if (!isToHost)
            deviceRead(b->got, b->target, bytes);
        CHECK(memcmp(b->got, b->expected, bytes) == 0);
        descriptor.root = (uint32_t)way % PEERS;
        memcpy(b->expected, b->host, bytes);
        EXPECT(pcclSuccess, pcclBroadcast(b->expected, &descriptor, communicator, NULL));
        deviceWrite(b->device, b->host, bytes);
        EXPECT(pcclSuccess, pcclBroadcast(isFromHost ? b->host : b->device, &descriptor, communicator, NULL));
        if (!isFromHost)
            deviceRead(b->host, b->device, bytes);
        CHECK(memcmp(b->host, b->expected, bytes) == 0);
    }
}

// All three begin, and stand still when some of the result is on the device and some of the input has not left it: in
// place the one has overwritten the other.
static void beginAndHold(const Peer *peer, const pcclComm_t *communicator, Buffers *b, pcclRedOp_t op,
                         pcclOnLoss_t policy, pcclAsyncReduceOp_t *handle) {
    static int reads, writes;
    pcclReduceDescriptor_t descriptor = reduction(9, COUNT, pcclFloat, op);
    fill(peer, b);
    if (waitForAll())
        reads = deviceCalls(read_call);
    waitForAll();
    EXPECT(pcclSuccess, pcclAllReduce(b->device, b->target, &descriptor, communicator, NULL));
    if (waitForAll()) {
        // Of as many as before the last four: then most segments are whole at all of them.
        reads = deviceCalls(read_call) - reads;
        CHECK(reads > 3 * 4);
        writes = deviceCalls(write_call);
        deviceHold(read_call, reads - 4);
    }
    waitForAll();
    EXPECT(pcclSuccess,
           pcclAllReduceAsyncWithOptions(b->device, b->device, &descriptor, communicator, onLoss(policy), handle));
    while (deviceCalls(write_call) <= writes)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static void checkOverlap(const Peer *peer, const pcclComm_t *communicator, Buffers *b) {
    testing_phase = "copies and network at the same time";
    pcclAsyncReduceOp_t handle;
    beginAndHold(peer, communicator, b, pcclSum, pcclOnLossAbort, &handle);
    if (waitForAll())
        deviceLetGo();
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handle, NULL));
    deviceRead(b->got, b->device, COUNT * sizeof(float));
    checkSum((float *)b->got, 7);
}

static void countThem(pcclComm_t *communicator) {
    while (groupSize(communicator) < PEERS) {
        bool arePending = false;
        pcclResult_t result = pcclArePeersPending(communicator, &arePending);
        CHECK(result == pcclSuccess || result == pcclTooFewPeers);
        if (arePending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    }
}

// The device of one of them fails when some of the result has overwritten some of the input: that one leaves, and comes
// back.
static pcclComm_t *checkLoss(const Peer *peer, pcclComm_t *communicator, Buffers *b, pcclRedOp_t op,
                             pcclOnLoss_t policy) {
    testing_phase = policy == pcclOnLossAbort ? "a loss undoes what came back" : "a loss, and the others go on";
    static int lost, failures;
    pcclAsyncReduceOp_t handle;
    beginAndHold(peer, communicator, b, op, policy, &handle);
    if (waitForAll()) {
        failures = 0;
        deviceFail(read_call, 2, 2);
        deviceLetGo();
    }
    pcclReduceInfo_t info = {0};
    pcclReducePart_t parts[64];
    size_t count = 0;
    pcclResult_t result = pcclAwaitAsyncReduceParts(&handle, &info, parts, 64, &count);
    if (result == pcclInternalError) {
        lost = peer->index;
        __atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
    }
    waitForAll();
    CHECK(failures == 1);
    if (result == pcclInternalError || policy == pcclOnLossAbort) {
        CHECK(result == pcclInternalError || result == pcclRankConnectionLost);
        CHECK(isInput(b));
    } else {
        CHECK(result == pcclSuccess && info.local_world_size == PEERS - 1);
        deviceRead(b->got, b->device, COUNT * sizeof(float));
        const int survivors = 7 & ~(1 << lost), largest = survivors & 4 ? 4 : 2;
        if (op == pcclSum)
            checkSum((float *)b->got, survivors);
        CHECK(count > 0);
        for (size_t p = 0; op == pcclMax && p < count; p++)
            for (uint64_t n = 0, i = parts[p].first_element; n < parts[p].element_count; n++, i++)
                CHECK(((float *)b->got)[i] ==
                      (parts[p].world_size == PEERS ? 4 : (float)largest) * (float)(1 + i % 1009));
    }
    if (result == pcclInternalError) {
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        communicator = join(peer->port);
    }
    countThem(communicator);
    return communicator;
}

// The device of one of them fails while it codes: that one leaves, and comes back; inputs are whole.
static pcclComm_t *checkCodingFailure(const Peer *peer, pcclComm_t *communicator, Buffers *b, const char *call, int n,
                                      pcclOnLoss_t policy) {
    testing_phase = policy == pcclOnLossAbort ? "a loss among codes" : "a loss among codes, and the others go on";
    static int lost, failures;
    pcclReduceDescriptor_t descriptor = reduction(12, CODED, pcclFloat, pcclSum);
    // Sums of these are the same in 16 bits.
    float *values = (float *)b->host;
    for (size_t i = 0; i < CODED; i++)
        values[i] = (float)(1 << peer->index) * (float)(1 + i % 13);
    deviceWrite(b->device, b->host, CODED * sizeof(float));
    pcclReduceOptions_t options = coded(pcclCodecBFloat16);
    options.on_loss = policy;
    if (waitForAll()) {
        failures = 0;
        deviceFail(call, n, 2);
    }
    waitForAll();
    pcclReduceInfo_t info = {0};
    pcclResult_t result =
        pcclAllReduceWithOptions(b->device, b->device, &descriptor, communicator, &options, &info, NULL, 0, NULL);
    if (result == pcclInternalError) {
        lost = peer->index;
        __atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
    }
    waitForAll();
    CHECK(failures == 1);
    deviceRead(b->got, b->device, CODED * sizeof(float));
    if (result != pcclSuccess) {
        CHECK(memcmp(b->got, b->host, CODED * sizeof(float)) == 0);
        CHECK(result == pcclInternalError || (result == pcclRankConnectionLost && policy == pcclOnLossAbort));
    } else {
        // It may have been gone before this one called, or failed when the others had the result.
        CHECK(info.local_world_size >= PEERS - 1);
        int members = info.local_world_size == PEERS ? 7 : 7 & ~(1 << lost);
        for (size_t i = 0; i < CODED; i++)
            CHECK(((float *)b->got)[i] == (float)members * (float)(1 + i % 13));
    }
    if (result == pcclInternalError) {
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        communicator = join(peer->port);
    }
    countThem(communicator);
    return communicator;
}

// A result that does not come to one of the devices: that one is told, the others have it, and all go on.
static void checkUndelivered(const Peer *peer, const pcclComm_t *communicator, Buffers *b) {
    testing_phase = "a result that does not come to the device";
    static int failures;
    pcclReduceDescriptor_t descriptor = reduction(11, COUNT, pcclFloat, pcclSum);
    fill(peer, b);
    if (waitForAll())
        deviceFail(write_call, 3, 2);
    waitForAll();
    pcclResult_t result = pcclAllReduce(b->device, b->target, &descriptor, communicator, NULL);
    CHECK(isInput(b));
    deviceRead(b->got, b->target, COUNT * sizeof(float));
    if (result == pcclSuccess)
        checkSum((float *)b->got, 7);
    else
        __atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
    CHECK(result == pcclSuccess || result == pcclInternalError);
    waitForAll();
    CHECK(failures == 1);
}

static void *run(void *argument) {
    const Peer *peer = argument;
    pcclComm_t *communicator = join(peer->port);
    Buffers b = makeBuffers(PEERS * COUNT * sizeof(float));
    checkResults(peer, communicator, &b);
    checkMixedCollectives(peer, communicator, &b);
    checkCodecs(peer, communicator, &b);
    checkOverlap(peer, communicator, &b);
    communicator = checkLoss(peer, communicator, &b, pcclSum, pcclOnLossAbort);
    communicator = checkLoss(peer, communicator, &b, pcclSum, pcclOnLossResumeWhole);
    communicator = checkLoss(peer, communicator, &b, pcclMax, pcclOnLossResume);
    checkUndelivered(peer, communicator, &b);
    for (int n = 1; codesOnDevice() && n < 30; n += 7) {
        pcclOnLoss_t policy = n % 2 ? pcclOnLossAbort : pcclOnLossResumeWhole;
        communicator = checkCodingFailure(peer, communicator, &b, "cuLaunchKernel", n, policy);
        communicator = checkCodingFailure(peer, communicator, &b, n % 2 ? read_call : write_call, 1 + n / 10, policy);
    }
    checkOverlap(peer, communicator, &b);
    freeBuffers(&b);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

// ---- What a member on a device has while the others, on hosts, leave one after the other --------------------------

static void wait(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

typedef struct Joining {
    uint16_t port;
    int count;
    pcclComm_t *communicator;
} Joining;

static void *joinByItself(void *argument) {
    Joining *joining = argument;
    joining->communicator = joinSome(joining->port, joining->count);
    return NULL;
}

static void joinAll(uint16_t port, Joining *all, int count) {
    pthread_t threads[PEERS];
    for (int i = 0; i < count; i++) {
        all[i] = (Joining){port, count, NULL};
        CHECK(pthread_create(&threads[i], NULL, joinByItself, &all[i]) == 0);
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

// Both others leave, the second one while the operation goes on after the loss of the first: nothing of what came back
// by then is left in the input. Or the device fails there, at that copy of the input.
static void checkTwoLosses(uint16_t port, int failing) {
    testing_phase = failing ? "a device that fails while it goes on" : "two losses, one after the other";
    const size_t bytes = COUNT * sizeof(float);
    Joining all[PEERS];
    joinAll(port, all, PEERS);
    Buffers b[PEERS];
    pcclAsyncReduceOp_t handles[PEERS];
    int writes = deviceCalls(write_call);
    // Of 18 copies of the input.
    deviceHold(read_call, 15);
    for (int i = 0; i < PEERS; i++) {
        b[i] = makeBuffers(bytes);
        for (size_t k = 0; k < COUNT; k++)
            ((float *)b[i].host)[k] = valueOf(i == 0 ? 0 : i, k);
        deviceWrite(b[i].device, b[i].host, bytes);
        void *buffer = i == 0 ? b[i].device : b[i].host;
        pcclReduceDescriptor_t descriptor = reduction(9, COUNT, pcclFloat, pcclMax);
        EXPECT(pcclSuccess, pcclAllReduceAsyncWithOptions(buffer, buffer, &descriptor, all[i].communicator,
                                                          onLoss(pcclOnLossResume), &handles[i]));
    }
    while (deviceCalls(write_call) <= writes)
        wait();
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[1].communicator));
    while (groupSize(all[0].communicator) > PEERS - 1)
        wait();
    if (failing)
        deviceFail(read_call, failing, 2);
    else
        EXPECT(pcclSuccess, pcclDestroyCommunicator(all[2].communicator));
    deviceLetGo();
    pcclResult_t result = pcclAwaitAsyncReduce(&handles[0], NULL);
    CHECK(result == (failing ? pcclInternalError : pcclRankConnectionLost) || result == pcclTooFewPeers);
    deviceRead(b[0].got, b[0].device, bytes);
    for (size_t k = 0; k < COUNT; k++)
        CHECK(((float *)b[0].got)[k] == valueOf(0, k));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[0].communicator));
    if (failing)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(all[2].communicator));
    for (int i = 0; i < PEERS; i++)
        freeBuffers(&b[i]);
}

typedef struct Gathering {
    const pcclComm_t *communicator;
    const void *send;
    void *receive;
    pcclResult_t result;
} Gathering;

static void *allGather(void *argument) {
    Gathering *of = argument;
    pcclCollectiveDescriptor_t descriptor = collective(1, COUNT, pcclFloat);
    of->result = pcclAllGather(of->send, of->receive, &descriptor, of->communicator, NULL);
    return NULL;
}

// What the other one had to give is there, and what this one has to give has not left the device: it does not hold the
// result.
static void checkLoneGatherer(uint16_t port) {
    testing_phase = "a gatherer whose own block is not there";
    const size_t bytes = COUNT * sizeof(float);
    Joining all[2];
    joinAll(port, all, 2);
    Buffers b[2] = {makeBuffers(2 * bytes), makeBuffers(2 * bytes)};
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < COUNT; k++)
            ((float *)b[i].host)[k] = (float)(i + 1);
    deviceWrite(b[0].device, b[0].host, bytes);
    int writes = deviceCalls(write_call);
    deviceHold(read_call, 1);
    Gathering of[2] = {{all[0].communicator, b[0].device, b[0].target, pcclSuccess},
                       {all[1].communicator, b[1].host, b[1].got, pcclSuccess}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, allGather, &of[i]) == 0);
    // Its block comes in 17 segments.
    while (deviceCalls(write_call) < writes + 17)
        wait();
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[1].communicator));
    pthread_join(threads[1], NULL);
    deviceLetGo();
    pthread_join(threads[0], NULL);
    CHECK(of[0].result == pcclRankConnectionLost || of[0].result == pcclTooFewPeers);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[0].communicator));
    freeBuffers(&b[0]);
    freeBuffers(&b[1]);
}

static void *letGo(void *unused) {
    deviceLetGo();
    return unused;
}

// A communicator is destroyed before its result was waited for: nothing comes to the buffer afterwards.
static void checkDestroyed(uint16_t port) {
    testing_phase = "a communicator is destroyed before its result was waited for";
    const size_t bytes = COUNT * sizeof(float);
    Joining all[2];
    Buffers b = makeBuffers(bytes);
    for (size_t k = 0; k < COUNT; k++)
        ((float *)b.host)[k] = (float)(1 + k % 1009);
    pcclReduceDescriptor_t descriptor = reduction(9, COUNT, pcclFloat, pcclSum);
    joinAll(port, all, 2);
    deviceWrite(b.device, b.host, bytes);
    deviceHold(write_call, 5);
    pcclAsyncReduceOp_t handles[2];
    EXPECT(pcclSuccess, pcclAllReduceAsync(b.device, b.target, &descriptor, all[0].communicator, &handles[0]));
    EXPECT(pcclSuccess, pcclAllReduceAsync(b.host, b.got, &descriptor, all[1].communicator, &handles[1]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[1], NULL));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, letGo, NULL) == 0);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[0].communicator));
    memset(b.expected, 0x55, bytes);
    deviceWrite(b.target, b.expected, bytes);
    pthread_join(thread, NULL);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(all[1].communicator));
    // Another one has its copies behind what would come.
    joinAll(port, all, 2);
    EXPECT(pcclSuccess, pcclAllReduceAsync(b.device, b.device, &descriptor, all[0].communicator, &handles[0]));
    EXPECT(pcclSuccess, pcclAllReduceAsync(b.host, b.got, &descriptor, all[1].communicator, &handles[1]));
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[i], NULL));
    deviceRead(b.got, b.target, bytes);
    CHECK(memcmp(b.got, b.expected, bytes) == 0);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(all[i].communicator));
    freeBuffers(&b);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    startWatchdog();
    setenv("PCCL_DEVICE_WINDOW", "0", 1);
    // Small ones would go by one-shot, whose members code nothing that others decode.
    setenv("PCCL_ALGORITHM", "direct", 0);
    // Smaller than a segment, so that each is copied by itself.
    setenv("PCCL_DEVICE_PIECE", "16", 1);
    findDriver(argv[1]);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pthread_barrier_init(&allPeers, NULL, PEERS);
    Peer peers[PEERS];
    pthread_t threads[PEERS];
    for (int i = 0; i < PEERS; i++) {
        peers[i] = (Peer){i, port};
        CHECK(pthread_create(&threads[i], NULL, run, &peers[i]) == 0);
    }
    for (int i = 0; i < PEERS; i++)
        pthread_join(threads[i], NULL);
    if (strcmp(getenv("PCCL_ALGORITHM"), "direct") == 0) {
        checkTwoLosses(port, 0);
        for (int failing = 1; failing <= 3; failing++)
            checkTwoLosses(port, failing);
        checkLoneGatherer(port);
        checkDestroyed(port);
    }
    stopMaster(master);
    return 0;
}
