// What an evicted peer is told by every function, and that it may come again. The master has a straggler deadline here,
// so a member that others wait for in vain is evicted while its process is well.
#define _POSIX_C_SOURCE 200809L
#include "calls.h"

// Peer 1 never makes the call that peer 0 waits for. Returns once it knows that it is evicted.
static void evict(pcclComm_t *const members[2]) {
    static uint64_t values[VALUES];
    for (int k = 0; k < VALUES; k++)
        values[k] = (uint64_t)k;
    Call call;
    beginReduction(&call, reducing, members[0], reduction(1, VALUES, pcclUint64, pcclSum), values);
    EXPECT(pcclRankConnectionLost, end(&call));
    CHECK(groupSize(members[0]) == 1);
    for (int k = 0; k < VALUES; k++)
        CHECK(values[k] == (uint64_t)k);
    int size;
    pcclResult_t result;
    while ((result = pcclGetAttribute(members[1], PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size)) == pcclSuccess)
        sched_yield();
    EXPECT(pcclInvalidUsage, result);
}

int main(void) {
    startWatchdog();
    CHECK(setenv("PCCL_STRAGGLER_DEADLINE", "1", 1) == 0);
    CHECK(setenv("PCCL_LOG_LEVEL", "ERROR", 0) == 0);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pcclComm_t *members[2];
    makeGroup(members, 2, port, 0);

    testing_phase = "evicted";
    evict(members);
    Answers answers = {NOT_CALLED,
                       pcclInvalidUsage,
                       pcclUpdateTopologyFailed,
                       pcclInvalidUsage,
                       pcclTopologyOptimizationFailed,
                       pcclMasterConnectionFailed,
                       NOT_CALLED,
                       pcclMasterConnectionFailed};
    checkAnswers(members[1], answers, 1);
    checkAnswers(members[0], aloneAnswers, 1);

    testing_phase = "the evicted peer comes again, on the same communicator";
    admit(members, 1);
    checkThatAllReduce(members, 2, 1);

    testing_phase = "evicted once more, and destroyed";
    evict(members);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[1]));

    testing_phase = "evicted, and the master is gone when it comes again";
    members[1] = created(port, 0);
    admit(members, 1);
    evict(members);
    stopMaster(master);
    EXPECT(pcclMasterConnectionFailed, pcclConnect(members[1]));
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
    printf("evicted: every result as documented\n");
    return 0;
}
