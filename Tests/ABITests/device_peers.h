// Peers in threads of one process, with buffers on a device, and what collectives must give them: what they give on the
// host, bit for bit.
#ifndef PCCL_ABI_DEVICE_PEERS_H
#define PCCL_ABI_DEVICE_PEERS_H

#include "fake_device.h"

enum { PEERS = 3 };

static pthread_barrier_t allPeers;

static inline int waitForAll(void) { return pthread_barrier_wait(&allPeers) == PTHREAD_BARRIER_SERIAL_THREAD; }

// Returns when there are so many.
static inline pcclComm_t *joinSome(uint16_t port, int count) {
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    while (groupSize(communicator) < count) {
        bool arePending = false;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &arePending));
        if (arePending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    }
    return communicator;
}

static inline pcclComm_t *join(uint16_t port) { return joinSome(port, PEERS); }

// Bytes that are anything, where floats are concerned, too: no number, infinite, subnormal.
static inline void scramble(uint8_t *bytes, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};

static inline size_t sizeOf(pcclDataType_t type) { return sizes[type]; }

static inline bool isNotANumber(pcclDataType_t type, const uint8_t *element) {
    uint64_t bits = 0;
    memcpy(&bits, element, sizeOf(type));
    switch (type) {
    case pcclFloat16:
        return (bits & 0x7fff) > 0x7c00;
    case pcclBFloat16:
        return (bits & 0x7fff) > 0x7f80;
    case pcclFloat:
        return (bits & 0x7fffffff) > 0x7f800000;
    case pcclDouble:
        return (bits & 0x7fffffffffffffffull) > 0x7ff0000000000000ull;
    default:
        return false;
    }
}

// Which NaN it is nobody promises.
static inline void checkSame(pcclDataType_t type, const uint8_t *got, const uint8_t *expected, size_t count) {
    size_t size = sizeOf(type);
    if (memcmp(got, expected, count * size) == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *a = got + i * size, *b = expected + i * size;
        if (memcmp(a, b, size) != 0 && !(isNotANumber(type, a) && isNotANumber(type, b)))
            FAIL("type %d: element %zu of %zu differs", type, i, count);
    }
}

typedef struct Buffers {
    uint8_t *host, *expected, *got;
    uint8_t *device, *target;
} Buffers;

static inline Buffers makeBuffers(size_t bytes) {
    Buffers b = {malloc(bytes), malloc(bytes), malloc(bytes), deviceAlloc(bytes), deviceAlloc(bytes)};
    return b;
}

static inline void freeBuffers(Buffers *b) {
    free(b->host);
    free(b->expected);
    free(b->got);
    deviceFree(b->device);
    deviceFree(b->target);
}

// Each peer's elements begin `shift` bytes after what a device likes.
static inline void checkReduction(int index, const pcclComm_t *communicator, Buffers *b, pcclDataType_t type,
                                  pcclRedOp_t op, size_t count, size_t shift) {
    size_t bytes = count * sizeOf(type);
    pcclReduceDescriptor_t descriptor = reduction(2, count, type, op);
    scramble(b->host, bytes, (uint64_t)(index * 1000 + (int)type * 10 + (int)op) + count);
    EXPECT(pcclSuccess, pcclAllReduce(b->host, b->expected, &descriptor, communicator, NULL));
    deviceWrite(b->device + shift, b->host, bytes);
    EXPECT(pcclSuccess, pcclAllReduce(b->device + shift, b->target + shift, &descriptor, communicator, NULL));
    deviceRead(b->got, b->target + shift, bytes);
    checkSame(type, b->got, b->expected, count);
    deviceRead(b->got, b->device + shift, bytes);
    CHECK(memcmp(b->got, b->host, bytes) == 0);
    EXPECT(pcclSuccess, pcclAllReduce(b->device + shift, b->device + shift, &descriptor, communicator, NULL));
    deviceRead(b->got, b->device + shift, bytes);
    checkSame(type, b->got, b->expected, count);
}

static inline pcclCollectiveDescriptor_t collective(uint64_t tag, size_t count, pcclDataType_t type) {
    pcclCollectiveDescriptor_t descriptor;
    memset(&descriptor, 0, sizeof(descriptor));
    descriptor.struct_size = sizeof(descriptor);
    descriptor.count = count;
    descriptor.datatype = type;
    descriptor.op = pcclSum;
    descriptor.tag = tag;
    return descriptor;
}

// On the device and on the host, the same.
static inline void checkCollectives(int index, const pcclComm_t *communicator, size_t count) {
    testing_phase = "other collectives";
    uint32_t rank = 9;
    EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, NULL));
    size_t bytes = count * sizeof(float), whole = PEERS * bytes;
    Buffers b = makeBuffers(whole);
    pcclCollectiveDescriptor_t descriptor = collective(3, count, pcclInt32);
    scramble(b.host, whole, (uint64_t)index + count);
    EXPECT(pcclSuccess, pcclAllGather(b.host, b.expected, &descriptor, communicator, NULL));
    deviceWrite(b.device, b.host, whole);
    EXPECT(pcclSuccess, pcclAllGather(b.device, b.target, &descriptor, communicator, NULL));
    deviceRead(b.got, b.target, whole);
    CHECK(memcmp(b.got, b.expected, whole) == 0);
    deviceWrite(b.target, b.host, whole);
    deviceWrite(b.target + rank * bytes, b.host, bytes);
    EXPECT(pcclSuccess, pcclAllGather(b.target + rank * bytes, b.target, &descriptor, communicator, NULL));
    deviceRead(b.got, b.target, whole);
    CHECK(memcmp(b.got, b.expected, whole) == 0);

    EXPECT(pcclSuccess, pcclReduceScatter(b.host, b.expected, &descriptor, communicator, NULL));
    EXPECT(pcclSuccess, pcclReduceScatter(b.device, b.target, &descriptor, communicator, NULL));
    deviceRead(b.got, b.target, bytes);
    CHECK(memcmp(b.got, b.expected, bytes) == 0);
    EXPECT(pcclSuccess, pcclReduceScatter(b.device, b.device + rank * bytes, &descriptor, communicator, NULL));
    deviceRead(b.got, b.device, whole);
    CHECK(memcmp(b.got + rank * bytes, b.expected, bytes) == 0);
    for (uint32_t other = 0; other < PEERS; other++)
        CHECK(other == rank || memcmp(b.got + other * bytes, b.host + other * bytes, bytes) == 0);

    for (descriptor.root = 0; descriptor.root < PEERS; descriptor.root++) {
        memcpy(b.expected, b.host, bytes);
        EXPECT(pcclSuccess, pcclBroadcast(b.expected, &descriptor, communicator, NULL));
        deviceWrite(b.device, b.host, bytes);
        EXPECT(pcclSuccess, pcclBroadcast(b.device, &descriptor, communicator, NULL));
        deviceRead(b.got, b.device, bytes);
        CHECK(memcmp(b.got, b.expected, bytes) == 0);
    }
    freeBuffers(&b);
}

#endif
