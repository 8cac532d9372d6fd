// Creating, connecting and destroying leaves nothing behind: no descriptor and no thread.

#define _DEFAULT_SOURCE

#include "testing.h"

#define PEERS 3
#define TURNS 10

struct peer {
    ccoip_socket_address_t master;
    pthread_t thread;
};

static void *live(void *argument) {
    struct peer *peer = argument;
    pcclCommCreateParams_t parameters = {peer->master, 0, 4};
    pcclComm_t *communicator;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    // A newcomer looks first: the members whose join point it came in by go on to reduce, and so must it.
    int size;
    EXPECT(pcclSuccess, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size));
    while (size < PEERS) {
        bool pending;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &pending));
        if (pending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
        EXPECT(pcclSuccess, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size));
    }
    float values[1000] = {1};
    pcclReduceDescriptor_t sum;
    memset(&sum, 0, sizeof(sum));
    sum.count = 1000;
    sum.op = pcclSum;
    sum.src_descriptor.datatype = pcclFloat;
    // Another peer may have left already: then this one is reduced by fewer, or told that it is alone.
    pcclResult_t result;
    do
        result = pcclAllReduce(values, values, &sum, communicator, NULL);
    while (result == pcclRankConnectionLost);
    if (result != pcclSuccess && result != pcclTooFewPeers)
        FAIL("pcclAllReduce: %s", resultName(result));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

static void oneTurn(void) {
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    struct peer peers[PEERS];
    for (int i = 0; i < PEERS; i++) {
        peers[i].master = loopback(port);
        CHECK(pthread_create(&peers[i].thread, NULL, live, &peers[i]) == 0);
    }
    for (int i = 0; i < PEERS; i++)
        pthread_join(peers[i].thread, NULL);
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
}

int main(void) {
    startWatchdog();
    setenv("PCCL_LOG_LEVEL", "ERROR", 0);
    EXPECT(pcclSuccess, pcclInit());
    // The first turn opens what stays open: the C library's own, and the run time's.
    oneTurn();
    int descriptors = countEntries("/proc/self/fd");
    int threads = countEntries("/proc/self/task");
    for (int i = 0; i < TURNS; i++)
        oneTurn();
    testing_phase = "counting";
    if (countEntries("/proc/self/fd") > descriptors)
        FAIL("%d descriptors were open, now %d", descriptors, countEntries("/proc/self/fd"));
    if (countEntries("/proc/self/task") > threads)
        FAIL("%d threads were running, now %d", threads, countEntries("/proc/self/task"));
    return 0;
}
