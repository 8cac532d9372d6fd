// Two peers, each on a thread of its own, and their master, in one process: what they reduce, what they get wrong
// together, and what one of them keeps when the other leaves. Both run the same script; where they differ, the peer's
// index says how. No step waits for time to pass: a step that has to come first is behind a barrier or a join point.
#define _POSIX_C_SOURCE 200809L
#include "testing.h"

typedef struct Peer {
    int index;
    uint16_t port;
    pcclComm_t *communicator;
} Peer;

static pthread_barrier_t bothPeers;

static void meet(void) { pthread_barrier_wait(&bothPeers); }

// Only peer 0 names the phase, so that the two do not write over each other.
static void phase(const Peer *peer, const char *name) {
    if (peer->index == 0)
        testing_phase = name;
}

/* ---- Elements ---- */

static size_t elementBytes(pcclDataType_t type) {
    static const size_t bytes[12] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
    return bytes[type];
}

static bool isFloatingPoint(pcclDataType_t type) { return type >= pcclFloat16; }

static bool isSigned(pcclDataType_t type) {
    return isFloatingPoint(type) || type == pcclInt8 || type == pcclInt16 || type == pcclInt32 || type == pcclInt64;
}

static uint32_t floatBits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// Right for the numbers used here: zeros, and normal numbers that the type holds exactly.
static uint16_t halfBits(float value) {
    uint32_t bits = floatBits(value);
    uint32_t sign = bits >> 16 & 0x8000;
    if ((bits & 0x7FFFFFFF) == 0)
        return (uint16_t)sign;
    return (uint16_t)(sign | (((bits >> 23 & 0xFF) - 127 + 15) << 10) | (bits >> 13 & 0x3FF));
}

static uint64_t elementBits(pcclDataType_t type, double value) {
    uint64_t bits;
    switch (type) {
    case pcclFloat16:
        return halfBits((float)value);
    case pcclBFloat16:
        return floatBits((float)value) >> 16;
    case pcclFloat:
        return floatBits((float)value);
    case pcclDouble:
        memcpy(&bits, &value, sizeof(bits));
        return bits;
    default:
        return (uint64_t)(int64_t)value;
    }
}

// Elements are written as the low bytes of 64 bits, which is where a little-endian machine has them.
static void put(pcclDataType_t type, unsigned char *elements, size_t i, uint64_t bits) {
    memcpy(elements + i * elementBytes(type), &bits, elementBytes(type));
}

// Small whole numbers: sums, halves and products of two of them are exact in every type.
static double contribution(pcclDataType_t type, int peer, size_t i) {
    double value = (double)((i * 7 + (size_t)peer * 5 + 3) % 12);
    return isSigned(type) ? value - 6 : value;
}

static double reduced(pcclDataType_t type, pcclRedOp_t op, size_t i) {
    double a = contribution(type, 0, i), b = contribution(type, 1, i);
    switch (op) {
    case pcclSum:
        return a + b;
    case pcclAvg:
        return isFloatingPoint(type) ? (a + b) / 2 : (double)((int64_t)(a + b) / 2);
    case pcclProd:
        return a * b;
    case pcclMax:
        return a > b ? a : b;
    case pcclMin:
        return a < b ? a : b;
    }
    FAIL("no such operation");
}

/* ---- Tensors, with a fence on both sides that shows writes past the ends ---- */

#define FENCE_BYTES 64
#define FENCE 0xA5

typedef struct Tensor {
    pcclDataType_t type;
    size_t count;
    unsigned char *memory;
    unsigned char *elements;
} Tensor;

static Tensor makeTensor(pcclDataType_t type, size_t count) {
    Tensor tensor = {type, count, NULL, NULL};
    tensor.memory = malloc(count * elementBytes(type) + 2 * FENCE_BYTES);
    CHECK(tensor.memory != NULL);
    memset(tensor.memory, FENCE, count * elementBytes(type) + 2 * FENCE_BYTES);
    tensor.elements = tensor.memory + FENCE_BYTES;
    return tensor;
}

static Tensor makeContribution(pcclDataType_t type, size_t count, int peer) {
    Tensor tensor = makeTensor(type, count);
    for (size_t i = 0; i < count; i++)
        put(type, tensor.elements, i, elementBits(type, contribution(type, peer, i)));
    return tensor;
}

static void checkElement(const Tensor *tensor, size_t i, double expected, const char *what) {
    uint64_t bits = elementBits(tensor->type, expected), seen = 0;
    size_t bytes = elementBytes(tensor->type);
    if (memcmp(tensor->elements + i * bytes, &bits, bytes) != 0) {
        memcpy(&seen, tensor->elements + i * bytes, bytes);
        FAIL("%s: type %d, element %zu of %zu is 0x%llx, expected %g", what, (int)tensor->type, i, tensor->count,
             (unsigned long long)seen, expected);
    }
}

static void checkFences(const Tensor *tensor) {
    const unsigned char *behind = tensor->elements + tensor->count * elementBytes(tensor->type);
    for (int i = 0; i < FENCE_BYTES; i++)
        CHECK(tensor->memory[i] == FENCE && behind[i] == FENCE);
}

static void checkContribution(const Tensor *tensor, int peer) {
    checkFences(tensor);
    for (size_t i = 0; i < tensor->count; i++)
        checkElement(tensor, i, contribution(tensor->type, peer, i), "the input");
}

static void checkReduced(const Tensor *tensor, pcclRedOp_t op) {
    checkFences(tensor);
    for (size_t i = 0; i < tensor->count; i++)
        checkElement(tensor, i, reduced(tensor->type, op, i), "the result");
}

/* ---- Joining ---- */

// Peer 0 goes on to join points until the other is in; the other waits in pcclConnect and, being in when that returns,
// must not call for a join point of its own.
static void join(Peer *peer) {
    if (peer->communicator == NULL) {
        pcclCommCreateParams_t parameters = parametersFor(peer->port);
        EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &peer->communicator));
        EXPECT(pcclSuccess, pcclConnect(peer->communicator));
    }
    if (peer->index == 0) {
        do
            EXPECT(pcclSuccess, pcclUpdateTopology(peer->communicator));
        while (groupSize(peer->communicator) < 2);
    }
    CHECK(groupSize(peer->communicator) == 2);
}

static void leave(Peer *peer) {
    EXPECT(pcclSuccess, pcclDestroyCommunicator(peer->communicator));
    peer->communicator = NULL;
}

static void checkAttributes(Peer *peer) {
    phase(peer, "attributes of two peers");
    CHECK(attribute(peer->communicator, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE) == 2);
    CHECK(attribute(peer->communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE) == 2);
    CHECK(attribute(peer->communicator, PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS) == 1);
    CHECK(attribute(peer->communicator, PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE) == 2);

    phase(peer, "a join point with nobody waiting");
    bool pending = true;
    EXPECT(pcclSuccess, pcclArePeersPending(peer->communicator, &pending));
    CHECK(!pending);
    EXPECT(pcclSuccess, pcclUpdateTopology(peer->communicator));
    CHECK(groupSize(peer->communicator) == 2);
}

/* ---- Reductions that succeed ---- */

static void reduceOnce(Peer *peer, uint64_t tag, pcclDataType_t type, pcclRedOp_t op, size_t count, bool inPlace) {
    pcclReduceDescriptor_t descriptor = reduction(tag, count, type, op);
    pcclReduceInfo_t info = {0, 0, 0};
    Tensor send = makeContribution(type, count, peer->index);
    Tensor receive = inPlace ? send : makeTensor(type, count);
    EXPECT(pcclSuccess, pcclAllReduce(send.elements, receive.elements, &descriptor, peer->communicator, &info));
    checkReduced(&receive, op);
    CHECK(info.local_world_size == 2);
    if (!inPlace) {
        checkContribution(&send, peer->index);
        free(receive.memory);
    }
    free(send.memory);
}

static void everyTypeAndOperation(Peer *peer) {
    phase(peer, "every type and operation");
    // The last is larger than what may travel before the receiver has called, for types of four bytes and more.
    static const size_t counts[] = {1, 2, 13, 4097, 70001};
    uint64_t tag = 1;
    for (int type = pcclUint8; type <= pcclDouble; type++)
        for (int op = pcclSum; op <= pcclMin; op++)
            for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
                for (int inPlace = 0; inPlace < 2; inPlace++)
                    // Every second operation takes the tag of the one before it, which has been awaited.
                    reduceOnce(peer, tag++ / 2, (pcclDataType_t)type, (pcclRedOp_t)op, counts[i], inPlace != 0);
}

static void largeTensor(Peer *peer) {
    phase(peer, "a large tensor");
    size_t count = ((size_t)1 << 22) + 5;
    pcclReduceDescriptor_t descriptor = reduction(UINT64_MAX, count, pcclFloat, pcclSum);
    pcclReduceInfo_t info = {0, 0, 0};
    Tensor tensor = makeContribution(pcclFloat, count, peer->index);
    EXPECT(pcclSuccess, pcclAllReduce(tensor.elements, tensor.elements, &descriptor, peer->communicator, &info));
    checkReduced(&tensor, pcclSum);
    // Each of two peers has to tell the other at least its half of the contributions or of the result.
    CHECK(info.local_world_size == 2 && info.tx_bytes >= count * 2 && info.rx_bytes >= count * 2);
    free(tensor.memory);
}

typedef struct Special {
    const char *name;
    pcclDataType_t type;
    pcclRedOp_t op;
    uint64_t contributions[2];
    uint64_t result;
} Special;

static const Special specials[] = {
    {"uint8 sum wraps", pcclUint8, pcclSum, {250, 10}, 4},
    {"uint8 average does not", pcclUint8, pcclAvg, {250, 10}, 130},
    {"uint8 product wraps", pcclUint8, pcclProd, {250, 10}, 196},
    {"int8 average drops the fraction", pcclInt8, pcclAvg, {0x80, 0x81}, 0x81},
    {"int16 product wraps", pcclInt16, pcclProd, {300, 300}, 24464},
    {"uint16 average", pcclUint16, pcclAvg, {65535, 65534}, 65534},
    {"int32 sum wraps", pcclInt32, pcclSum, {0x7FFFFFFF, 1}, 0x80000000},
    {"int32 average does not", pcclInt32, pcclAvg, {0x7FFFFFFF, 1}, 0x40000000},
    {"uint32 average", pcclUint32, pcclAvg, {0xFFFFFFFF, 0xFFFFFFFF}, 0xFFFFFFFF},
    {"int64 sum wraps", pcclInt64, pcclSum, {INT64_MAX, INT64_MAX}, UINT64_MAX - 1},
    {"int64 average does not", pcclInt64, pcclAvg, {INT64_MAX, INT64_MAX}, INT64_MAX},
    {"uint64 average", pcclUint64, pcclAvg, {UINT64_MAX, UINT64_MAX - 1}, UINT64_MAX - 1},
    {"uint64 maximum is unsigned", pcclUint64, pcclMax, {UINT64_MAX, 1}, UINT64_MAX},
    {"int64 maximum is signed", pcclInt64, pcclMax, {UINT64_MAX, 1}, 1},
    {"half average above the largest half", pcclFloat16, pcclAvg, {0x7BFF, 0x7BFF}, 0x7BFF},
    {"half sum above the largest half", pcclFloat16, pcclSum, {0x7BFF, 0x7BFF}, 0x7C00},
    {"half tie goes to even, down", pcclFloat16, pcclSum, {0x6800, 0x3C00}, 0x6800},
    {"bfloat tie goes to even, down", pcclBFloat16, pcclSum, {0x4380, 0x3F80}, 0x4380},
    {"bfloat tie goes to even, up", pcclBFloat16, pcclSum, {0x4381, 0x3F80}, 0x4382},
    {"float minimum of zeros", pcclFloat, pcclMin, {0, 0x80000000}, 0x80000000},
    {"float maximum of zeros", pcclFloat, pcclMax, {0x80000000, 0}, 0},
    {"double minimum of zeros", pcclDouble, pcclMin, {0, UINT64_C(1) << 63}, UINT64_C(1) << 63},
    {"half minimum of zeros", pcclFloat16, pcclMin, {0, 0x8000}, 0x8000},
};

static void specialNumbers(Peer *peer) {
    phase(peer, "numbers at the edge");
    for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++) {
        const Special *special = &specials[i];
        // A few more than a vector register holds, so that the loop and its remainder both see the case.
        enum { count = 131 };
        Tensor tensor = makeTensor(special->type, count);
        for (size_t k = 0; k < count; k++)
            put(special->type, tensor.elements, k, special->contributions[peer->index]);
        pcclReduceDescriptor_t descriptor = reduction(i, count, special->type, special->op);
        EXPECT(pcclSuccess, pcclAllReduce(tensor.elements, tensor.elements, &descriptor, peer->communicator, NULL));
        for (size_t k = 0; k < count; k++)
            if (memcmp(tensor.elements + k * elementBytes(special->type), &special->result,
                       elementBytes(special->type)) != 0)
                FAIL("%s: element %zu is wrong", special->name, k);
        checkFences(&tensor);
        free(tensor.memory);
    }
}

static float notANumber[2][4];

// Whichever peer has it, NaN wins, and both hold the same bits of it.
static void notANumberWins(Peer *peer) {
    phase(peer, "NaN in a maximum and a minimum");
    static const uint32_t quietNaN = 0x7FC00123;
    float *values = notANumber[peer->index];
    for (int op = pcclMax; op <= pcclMin; op++) {
        for (int i = 0; i < 4; i++)
            values[i] = (float)i;
        memcpy(&values[peer->index], &quietNaN, sizeof(quietNaN));
        pcclReduceDescriptor_t descriptor = reduction(1, 4, pcclFloat, (pcclRedOp_t)op);
        EXPECT(pcclSuccess, pcclAllReduce(values, values, &descriptor, peer->communicator, NULL));
        CHECK(values[0] != values[0] && values[1] != values[1] && values[2] == 2 && values[3] == 3);
        meet();
        CHECK(memcmp(notANumber[0], notANumber[1], sizeof(notANumber[0])) == 0);
        meet();
    }
}

static void asynchronous(Peer *peer) {
    phase(peer, "several operations at once, launched and awaited in different orders");
    enum { operations = 8 };
    static const int awaitOrder[operations] = {3, 0, 7, 1, 6, 2, 5, 4};
    static const size_t counts[operations] = {1, 300000, 17, 4096, 1000003, 2, 65537, 300};
    Tensor tensors[operations];
    pcclAsyncReduceOp_t handles[operations];
    for (int step = 0; step < operations; step++) {
        int i = peer->index == 0 ? step : operations - 1 - step;
        tensors[i] = makeContribution((pcclDataType_t)(i + 2), counts[i], peer->index);
        pcclReduceDescriptor_t descriptor =
            reduction(UINT64_C(1) << (i * 8), counts[i], (pcclDataType_t)(i + 2), pcclSum);
        EXPECT(pcclSuccess, pcclAllReduceAsync(tensors[i].elements, tensors[i].elements, &descriptor,
                                               peer->communicator, &handles[i]));
        CHECK(handles[i].comm == peer->communicator && handles[i].tag == descriptor.tag);
        // The descriptor is the caller's: the operation may not look at it again.
        memset(&descriptor, 0xFF, sizeof(descriptor));
    }
    EXPECT(pcclPendingAsyncOps, pcclUpdateTopology(peer->communicator));
    bool pending = true;
    EXPECT(pcclSuccess, pcclArePeersPending(peer->communicator, &pending));
    CHECK(!pending);
    for (int step = 0; step < operations; step++) {
        int i = awaitOrder[peer->index == 0 ? step : operations - 1 - step];
        pcclReduceInfo_t info = {0, 0, 0};
        pcclAsyncReduceOp_t copy = handles[i];
        EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&copy, &info));
        checkReduced(&tensors[i], pcclSum);
        CHECK(info.local_world_size == 2);
        EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handles[i], NULL));
        free(tensors[i].memory);
    }
    EXPECT(pcclSuccess, pcclUpdateTopology(peer->communicator));
}

static void *await(void *handle) {
    return (void *)(intptr_t)pcclAwaitAsyncReduce((const pcclAsyncReduceOp_t *)handle, NULL);
}

// The other peer enters only after both waiters exist, so that they have every chance to wait at once. That both are
// inside the call cannot be known: the schedule in which one begins after the other has taken the result is allowed,
// and the late one is then told that the handle was used up.
static void twoWaiters(Peer *peer) {
    phase(peer, "two threads that wait for the same operation");
    for (int round = 0; round < 20; round++) {
        Tensor tensor = makeContribution(pcclDouble, 1000, peer->index);
        pcclReduceDescriptor_t descriptor = reduction(4, tensor.count, tensor.type, pcclMax);
        pcclAsyncReduceOp_t handle;
        if (peer->index == 1)
            meet();
        EXPECT(pcclSuccess,
               pcclAllReduceAsync(tensor.elements, tensor.elements, &descriptor, peer->communicator, &handle));
        pthread_t waiter;
        CHECK(pthread_create(&waiter, NULL, await, &handle) == 0);
        if (peer->index == 0)
            meet();
        pcclResult_t mine = pcclAwaitAsyncReduce(&handle, NULL);
        void *others;
        pthread_join(waiter, &others);
        pcclResult_t theirs = (pcclResult_t)(intptr_t)others;
        if (!((mine == pcclSuccess && theirs == pcclSuccess) ||
              (mine == pcclSuccess && theirs == pcclInvalidArgument) ||
              (mine == pcclInvalidArgument && theirs == pcclSuccess)))
            FAIL("two waiters got: %s, %s", resultName(mine), resultName(theirs));
        checkReduced(&tensor, pcclMax);
        free(tensor.memory);
    }
}

static void severalWithRetry(Peer *peer) {
    phase(peer, "several tensors with retry");
    enum { operations = 6 };
    static const int depths[] = {1, 2, 100};
    for (size_t d = 0; d < sizeof(depths) / sizeof(depths[0]); d++) {
        Tensor sends[operations], receives[operations];
        pcclReduceOpDescriptor_t descriptors[operations];
        for (int i = 0; i < operations; i++) {
            size_t count = (size_t)1 << (3 * i);
            sends[i] = makeContribution(pcclFloat, count, peer->index);
            receives[i] = i % 2 == 0 ? sends[i] : makeTensor(pcclFloat, count);
            descriptors[i].sendbuf = sends[i].elements;
            descriptors[i].recvbuf = receives[i].elements;
            descriptors[i].descriptor = reduction((uint64_t)i, count, pcclFloat, pcclAvg);
        }
        pcclReduceInfo_t info = {0, 0, 0};
        EXPECT(pcclSuccess,
               pcclAllReduceMultipleWithRetry(descriptors, operations, peer->communicator, &info, depths[d]));
        CHECK(info.local_world_size == 2 && info.tx_bytes > 0 && info.rx_bytes > 0);
        for (int i = 0; i < operations; i++) {
            checkReduced(&receives[i], pcclAvg);
            if (i % 2 == 1) {
                checkContribution(&sends[i], peer->index);
                free(receives[i].memory);
            }
            free(sends[i].memory);
        }
    }
}

// Nobody is lost here: the result is one part, however it is asked for.
static void partsOfResults(Peer *peer) {
    phase(peer, "parts of a result that nothing has interrupted");
    static const pcclOnLoss_t policies[] = {pcclOnLossAbort, pcclOnLossResume, pcclOnLossResumeWhole};
    for (int i = 0; i < 3; i++) {
        Tensor tensor = makeContribution(pcclFloat, 1000, peer->index);
        pcclReduceDescriptor_t descriptor = reduction(5, 1000, pcclFloat, pcclSum);
        pcclReduceInfo_t info = {0, 0, 0};
        pcclReducePart_t parts[2] = {{7, 7, 7}, {7, 7, 7}};
        size_t count = 0;
        EXPECT(pcclSuccess, pcclAllReduceWithOptions(tensor.elements, tensor.elements, &descriptor, peer->communicator,
                                                     onLoss(policies[i]), &info, parts, 2, &count));
        checkReduced(&tensor, pcclSum);
        CHECK(info.local_world_size == 2 && count == 1 && parts[1].element_count == 7);
        CHECK(parts[0].first_element == 0 && parts[0].element_count == 1000 && parts[0].world_size == 2);
        free(tensor.memory);

        tensor = makeContribution(pcclFloat, 1000, peer->index);
        pcclAsyncReduceOp_t handle;
        EXPECT(pcclSuccess, pcclAllReduceAsyncWithOptions(tensor.elements, tensor.elements, &descriptor,
                                                          peer->communicator, onLoss(policies[i]), &handle));
        EXPECT(pcclInvalidArgument,
               pcclAwaitAsyncReduceParts(&handle, NULL, NULL, 1, &count)); // It is still in flight.
        count = 0;
        EXPECT(pcclSuccess, pcclAwaitAsyncReduceParts(&handle, NULL, NULL, 0, &count));
        CHECK(count == 1);
        checkReduced(&tensor, pcclSum);
        free(tensor.memory);

        tensor = makeContribution(pcclFloat, 1000, peer->index);
        pcclReduceOpDescriptor_t operation = {tensor.elements, tensor.elements, descriptor};
        EXPECT(pcclSuccess,
               pcclAllReduceMultipleWithOptions(&operation, 1, peer->communicator, onLoss(policies[i]), &info, 1));
        checkReduced(&tensor, pcclSum);
        free(tensor.memory);
    }
}

/* ---- Mistakes ---- */

static void localMistakes(Peer *peer) {
    phase(peer, "a tag that is launched and not awaited");
    Tensor first = makeContribution(pcclInt32, 100, peer->index),
           second = makeContribution(pcclInt32, 100, peer->index);
    pcclReduceDescriptor_t descriptor = reduction(9, 100, pcclInt32, pcclSum);
    pcclAsyncReduceOp_t handle, refused;
    EXPECT(pcclSuccess, pcclAllReduceAsync(first.elements, first.elements, &descriptor, peer->communicator, &handle));
    EXPECT(pcclInvalidArgument,
           pcclAllReduceAsync(second.elements, second.elements, &descriptor, peer->communicator, &refused));
    EXPECT(pcclInvalidArgument, pcclAllReduce(second.elements, second.elements, &descriptor, peer->communicator, NULL));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handle, NULL));
    checkReduced(&first, pcclSum);
    checkContribution(&second, peer->index);

    phase(peer, "buffers that overlap in part");
    descriptor.count = 99;
    EXPECT(pcclInvalidArgument,
           pcclAllReduce(second.elements, second.elements + 4, &descriptor, peer->communicator, NULL));
    EXPECT(pcclInvalidArgument,
           pcclAllReduce(second.elements + 4, second.elements, &descriptor, peer->communicator, NULL));
    checkContribution(&second, peer->index);

    phase(peer, "the same tag twice in one call with retry");
    descriptor.count = 100;
    pcclReduceOpDescriptor_t operations[2] = {{second.elements, second.elements, descriptor},
                                              {first.elements, first.elements, descriptor}};
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(operations, 2, peer->communicator, NULL, 2));
    checkContribution(&second, peer->index);
    checkReduced(&first, pcclSum);
    free(first.memory);
    free(second.memory);
}

static void mismatch(Peer *peer, const char *name, pcclReduceDescriptor_t mine, pcclReduceDescriptor_t theirs) {
    phase(peer, name);
    pcclReduceDescriptor_t descriptor = peer->index == 0 ? mine : theirs;
    Tensor tensor = makeContribution(descriptor.src_descriptor.datatype, descriptor.count, peer->index);
    EXPECT(pcclInvalidArgument, pcclAllReduce(tensor.elements, tensor.elements, &descriptor, peer->communicator, NULL));
    checkContribution(&tensor, peer->index);
    free(tensor.memory);
    CHECK(groupSize(peer->communicator) == 2);
    // Nobody is worse for it: the tag and the group work as before.
    reduceOnce(peer, descriptor.tag, pcclFloat, pcclSum, 1000, true);
}

static void mistakesBetweenPeers(Peer *peer) {
    mismatch(peer, "counts differ", reduction(1, 100, pcclFloat, pcclSum), reduction(1, 101, pcclFloat, pcclSum));
    mismatch(peer, "large counts differ", reduction(2, 1000000, pcclFloat, pcclSum),
             reduction(2, 10, pcclFloat, pcclSum));
    mismatch(peer, "operations differ", reduction(3, 100, pcclFloat, pcclSum), reduction(3, 100, pcclFloat, pcclAvg));
    mismatch(peer, "types differ", reduction(4, 100, pcclFloat, pcclSum), reduction(4, 100, pcclInt32, pcclSum));
}

/* ---- Losses. Peer 1 leaves, and comes back as a newcomer after each. ---- */

// Both are in the operation when peer 1 leaves, so peer 0 may see either end; but never a third thing.
static void leaveDuringTheOperation(Peer *peer) {
    phase(peer, "a member leaves during an operation that both have entered");
    Tensor tensor = makeContribution(pcclFloat, 1000003, peer->index);
    pcclReduceDescriptor_t descriptor = reduction(1, tensor.count, tensor.type, pcclSum);
    pcclAsyncReduceOp_t handle;
    EXPECT(pcclSuccess, pcclAllReduceAsync(tensor.elements, tensor.elements, &descriptor, peer->communicator, &handle));
    meet();
    if (peer->index == 1) {
        leave(peer);
    } else {
        pcclResult_t result = pcclAwaitAsyncReduce(&handle, NULL);
        if (result == pcclSuccess) {
            checkReduced(&tensor, pcclSum);
        } else {
            if (result != pcclRankConnectionLost)
                FAIL("pcclAwaitAsyncReduce: %s", resultName(result));
            checkContribution(&tensor, peer->index);
            CHECK(groupSize(peer->communicator) == 1);
        }
    }
    free(tensor.memory);
    join(peer);
    reduceOnce(peer, 1, pcclFloat, pcclSum, 1000, true);
}

static void optimise(Peer *peer) {
    phase(peer, "the topology is optimised");
    Tensor tensor = makeContribution(pcclFloat, 100003, peer->index);
    pcclReduceDescriptor_t descriptor = reduction(5, tensor.count, tensor.type, pcclSum);
    pcclAsyncReduceOp_t handle;
    EXPECT(pcclSuccess, pcclAllReduceAsync(tensor.elements, tensor.elements, &descriptor, peer->communicator, &handle));
    EXPECT(pcclTopologyOptimizationFailed, pcclOptimizeTopology(peer->communicator));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handle, NULL));
    checkReduced(&tensor, pcclSum);
    free(tensor.memory);
    for (int i = 0; i < 2; i++) {
        EXPECT(pcclSuccess, pcclOptimizeTopology(peer->communicator));
        CHECK(groupSize(peer->communicator) == 2);
        reduceOnce(peer, 6, pcclFloat, pcclSum, 1000, true);
    }
}

// Peer 1 never enters, so no success is possible. Peer 0 has launched before the other leaves; otherwise it would be
// alone at once and be told that instead.
static void leaveInsteadOfTheOperation(Peer *peer) {
    phase(peer, "a member leaves while the other waits in an all-reduce");
    if (peer->index == 1) {
        meet();
        leave(peer);
    } else {
        Tensor inPlace = makeContribution(pcclFloat, 1000003, peer->index);
        Tensor send = makeContribution(pcclInt16, 77, peer->index), receive = makeTensor(pcclInt16, 77);
        pcclReduceDescriptor_t large = reduction(1, inPlace.count, inPlace.type, pcclSum);
        pcclReduceDescriptor_t small = reduction(2, send.count, send.type, pcclSum);
        pcclAsyncReduceOp_t handles[2];
        EXPECT(pcclSuccess,
               pcclAllReduceAsync(inPlace.elements, inPlace.elements, &large, peer->communicator, &handles[0]));
        EXPECT(pcclSuccess,
               pcclAllReduceAsync(send.elements, receive.elements, &small, peer->communicator, &handles[1]));
        meet();
        EXPECT(pcclRankConnectionLost, pcclAwaitAsyncReduce(&handles[0], NULL));
        CHECK(groupSize(peer->communicator) == 1);
        CHECK(attribute(peer->communicator, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE) == 1);
        EXPECT(pcclRankConnectionLost, pcclAwaitAsyncReduce(&handles[1], NULL));
        checkContribution(&inPlace, peer->index);
        checkContribution(&send, peer->index);
        checkFences(&receive);
        EXPECT(pcclTooFewPeers, pcclAllReduce(inPlace.elements, inPlace.elements, &large, peer->communicator, NULL));
        checkContribution(&inPlace, peer->index);
        free(inPlace.memory);
        free(send.memory);
        free(receive.memory);
    }
    join(peer);
    reduceOnce(peer, 1, pcclFloat, pcclSum, 1000, true);
}

// Peer 1 takes part in the first tensor only, and was told that it is done: then it is done for peer 0 too. The others
// have one contribution and can never be done.
static void leaveBetweenTensors(Peer *peer) {
    phase(peer, "a member leaves when the first of several tensors is done");
    enum { operations = 3 };
    Tensor tensors[operations];
    pcclReduceOpDescriptor_t descriptors[operations];
    for (int i = 0; i < operations; i++) {
        tensors[i] = makeContribution(pcclDouble, 10007, peer->index);
        descriptors[i].sendbuf = tensors[i].elements;
        descriptors[i].recvbuf = tensors[i].elements;
        descriptors[i].descriptor = reduction((uint64_t)i, tensors[i].count, pcclDouble, pcclProd);
    }
    if (peer->index == 1) {
        EXPECT(pcclSuccess, pcclAllReduce(tensors[0].elements, tensors[0].elements, &descriptors[0].descriptor,
                                          peer->communicator, NULL));
        leave(peer);
        checkReduced(&tensors[0], pcclProd);
    } else {
        EXPECT(pcclTooFewPeers,
               pcclAllReduceMultipleWithRetry(descriptors, operations, peer->communicator, NULL, operations));
        CHECK(groupSize(peer->communicator) == 1);
        checkReduced(&tensors[0], pcclProd);
        checkContribution(&tensors[1], peer->index);
        checkContribution(&tensors[2], peer->index);
        leave(peer);
    }
    for (int i = 0; i < operations; i++)
        free(tensors[i].memory);
}

static void *live(void *argument) {
    Peer *peer = argument;
    phase(peer, "joining");
    join(peer);
    checkAttributes(peer);
    everyTypeAndOperation(peer);
    largeTensor(peer);
    specialNumbers(peer);
    notANumberWins(peer);
    asynchronous(peer);
    twoWaiters(peer);
    severalWithRetry(peer);
    partsOfResults(peer);
    localMistakes(peer);
    mistakesBetweenPeers(peer);
    optimise(peer);
    leaveDuringTheOperation(peer);
    leaveInsteadOfTheOperation(peer);
    leaveBetweenTensors(peer);
    return NULL;
}

int main(void) {
    startWatchdog();
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    EXPECT(pcclSuccess, pcclInit());
    CHECK(pthread_barrier_init(&bothPeers, NULL, 2) == 0);
    Peer peers[2] = {{0, port, NULL}, {1, port, NULL}};
    // Peer 0 is the first of the group: connected before the other begins, so that its join points admit the other.
    pcclCommCreateParams_t parameters = parametersFor(port);
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &peers[0].communicator));
    EXPECT(pcclSuccess, pcclConnect(peers[0].communicator));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, live, &peers[i]) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    testing_phase = "the end";
    stopMaster(master);
    printf("two_peers: every result as documented\n");
    return 0;
}
