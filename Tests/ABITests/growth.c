// Fifteen hundred members come and go, thirty thousand operations run, all in this process with its master: afterwards
// it has no more descriptors, threads and memory than after the first three hundred.

#define _DEFAULT_SOURCE

#include "testing.h"

#include <malloc.h>

enum { MEMBERS = 2, JOINS = 1500, SETTLED = 300, SAMPLES = 20, OPERATIONS = 20, LARGEST = 1 << 15 };

static ccoip_socket_address_t masterAddress;
static pthread_barrier_t turns;

static pcclComm_t *connected(void) {
    pcclCommCreateParams_t parameters = {masterAddress, 0, 0};
    pcclComm_t *communicator;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    return communicator;
}

static int worldSize(pcclComm_t *communicator) {
    int size;
    EXPECT(pcclSuccess, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size));
    return size;
}

// Members that are left go on with it, whoever leaves meanwhile.
static void reduce(pcclComm_t *communicator, float *values, size_t count, int number) {
    pcclReduceDescriptor_t descriptor;
    memset(&descriptor, 0, sizeof(descriptor));
    descriptor.count = count;
    descriptor.op = number % 2 == 0 ? pcclAvg : pcclMax;
    descriptor.src_descriptor.datatype = pcclFloat;
    descriptor.tag = (uint64_t)number;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)number;
    pcclResult_t result;
    do
        result = pcclAllReduceWithOptions(values, values, &descriptor, communicator, onLoss((pcclOnLoss_t)(number % 3)),
                                          NULL, NULL, 0, NULL);
    while (result == pcclRankConnectionLost);
    if (result != pcclSuccess)
        FAIL("all-reduce %d: %s", number, resultName(result));
    CHECK(values[0] == (float)number && values[count - 1] == (float)number);
}

static void *stay(void *argument) {
    (void)argument;
    pcclComm_t *communicator = connected();
    float *values = malloc(LARGEST * sizeof(float));
    while (worldSize(communicator) < MEMBERS) {
        bool pending;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &pending));
        if (pending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    }
    // Or the first guest would be admitted with the second member.
    pthread_barrier_wait(&turns);
    for (int turn = 0; turn < JOINS; turn++) {
        bool pending = false;
        while (!pending)
            EXPECT(pcclSuccess, pcclArePeersPending(communicator, &pending));
        EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
        // The guest takes part in the first of these, and leaves in the middle of the others.
        for (int i = 0; i < OPERATIONS; i++)
            reduce(communicator, values, i % 5 == 0 ? LARGEST : 1 + (size_t)i * 37, i);
        pthread_barrier_wait(&turns);
        pthread_barrier_wait(&turns);
    }
    free(values);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

static void *visit(void *argument) {
    (void)argument;
    float *values = malloc(LARGEST * sizeof(float));
    pcclComm_t *communicator = connected();
    reduce(communicator, values, LARGEST, 0);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    free(values);
    return NULL;
}

typedef struct Use {
    int descriptors;
    int threads;
    size_t bytes;
} Use;

static int least(int a, int b) { return a < b ? a : b; }

// The least of several looks: a guest may still be leaving, and buffers come and go.
static void look(Use *use, bool isFirst) {
    struct mallinfo2 heap = mallinfo2();
    size_t bytes = heap.uordblks + heap.hblkhd;
    int descriptors = countEntries("/proc/self/fd"), threads = countEntries("/proc/self/task");
    use->descriptors = isFirst ? descriptors : least(use->descriptors, descriptors);
    use->threads = isFirst ? threads : least(use->threads, threads);
    use->bytes = isFirst || bytes < use->bytes ? bytes : use->bytes;
}

int main(void) {
    startWatchdog();
    alarm(10 * WATCHDOG_SECONDS);
    setenv("PCCL_LOG_LEVEL", "ERROR", 0);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    masterAddress = loopback(port);
    CHECK(pthread_barrier_init(&turns, NULL, MEMBERS + 1) == 0);
    pthread_t members[MEMBERS];
    for (int i = 0; i < MEMBERS; i++)
        CHECK(pthread_create(&members[i], NULL, stay, NULL) == 0);
    pthread_barrier_wait(&turns);
    Use settled = {0, 0, 0}, now = {0, 0, 0};
    for (int turn = 0; turn < JOINS; turn++) {
        pthread_t guest;
        CHECK(pthread_create(&guest, NULL, visit, NULL) == 0);
        pthread_join(guest, NULL);
        // Members have done their operations; nothing is in flight.
        pthread_barrier_wait(&turns);
        if (turn >= SETTLED - SAMPLES && turn < SETTLED)
            look(&settled, turn == SETTLED - SAMPLES);
        if (turn >= JOINS - SAMPLES)
            look(&now, turn == JOINS - SAMPLES);
        pthread_barrier_wait(&turns);
    }
    for (int i = 0; i < MEMBERS; i++)
        pthread_join(members[i], NULL);
    EXPECT(pcclSuccess, pcclDestroyMaster(master));

    testing_phase = "counting";
    printf("after %d joins: %d descriptors, %d threads, %zu bytes; after %d: %d, %d, %zu\n", SETTLED,
           settled.descriptors, settled.threads, settled.bytes, JOINS, now.descriptors, now.threads, now.bytes);
    if (now.descriptors > settled.descriptors)
        FAIL("descriptors grow");
    if (now.threads > settled.threads)
        FAIL("threads grow");
    // Some buffers come to their size late: 30 KiB were seen. Forty bytes for each join would be more.
    if (now.bytes > settled.bytes + (JOINS - SETTLED) * 40)
        FAIL("memory grows");
    return 0;
}
