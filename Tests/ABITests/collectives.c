// The collectives beside the all-reduce, and a DiLoCo, of two peers on threads of their own: what they give, and what
// they refuse.
#define _POSIX_C_SOURCE 200809L
#include "testing.h"

#define COUNT 1000

typedef struct Peer {
    int index;
    uint16_t port;
} Peer;

static pthread_barrier_t bothPeers;

static pcclCollectiveDescriptor_t describe(size_t count, pcclDataType_t type, uint64_t tag) {
    pcclCollectiveDescriptor_t descriptor;
    memset(&descriptor, 0, sizeof(descriptor));
    descriptor.struct_size = sizeof(descriptor);
    descriptor.count = count;
    descriptor.datatype = type;
    descriptor.tag = tag;
    return descriptor;
}

static void join(pcclComm_t *communicator) {
    EXPECT(pcclSuccess, pcclConnect(communicator));
    int worldSize = 0;
    EXPECT(pcclSuccess, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &worldSize));
    while (worldSize < 2) {
        bool arePending = false;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &arePending));
        if (arePending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
        EXPECT(pcclSuccess, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &worldSize));
    }
}

static void checkCollectives(const pcclComm_t *communicator) {
    testing_phase = "collectives";
    uint32_t rank = 9, worldSize = 0;
    EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, &worldSize));
    CHECK(rank < 2 && worldSize == 2);
    EXPECT(pcclSuccess, pcclGetRank(communicator, NULL, NULL));

    static __thread int32_t block[COUNT], all[2 * COUNT];
    for (int i = 0; i < COUNT; i++)
        block[i] = i + 10000 * (int32_t)rank;
    pcclReduceInfo_t info;
    pcclCollectiveDescriptor_t descriptor = describe(COUNT, pcclInt32, 1);
    EXPECT(pcclSuccess, pcclAllGather(block, all, &descriptor, communicator, &info));
    CHECK(info.local_world_size == 2 && info.tx_bytes == sizeof(block) && info.rx_bytes == sizeof(block));
    for (int i = 0; i < 2 * COUNT; i++)
        CHECK(all[i] == i % COUNT + 10000 * (i / COUNT));

    descriptor.op = pcclMax;
    descriptor.world_size = 2;
    EXPECT(pcclSuccess, pcclReduceScatter(all, block, &descriptor, communicator, NULL));
    for (int i = 0; i < COUNT; i++)
        CHECK(block[i] == i + 10000 * (int32_t)rank);
    // In place.
    EXPECT(pcclSuccess, pcclReduceScatter(all, all + rank * COUNT, &descriptor, communicator, NULL));
    for (int i = 0; i < COUNT; i++)
        CHECK(all[rank * COUNT + i] == i + 10000 * (int32_t)rank);

    descriptor.root = 1;
    EXPECT(pcclSuccess, pcclBroadcast(block, &descriptor, communicator, NULL));
    for (int i = 0; i < COUNT; i++)
        CHECK(block[i] == i + 10000);
    EXPECT(pcclSuccess, pcclBarrier(7, communicator, &info));
    CHECK(info.local_world_size == 2 && info.tx_bytes == 0);

    pcclAsyncReduceOp_t handles[3];
    EXPECT(pcclSuccess, pcclAllGatherAsync(block, all, &descriptor, communicator, &handles[0]));
    EXPECT(pcclInvalidArgument, pcclBroadcastAsync(block, &descriptor, communicator, &handles[1]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[0], NULL));
    CHECK(all[0] == 10000 && all[2 * COUNT - 1] == COUNT - 1 + 10000);
    float halves[8], half[4];
    for (int i = 0; i < 8; i++)
        halves[i] = (float)i;
    descriptor = describe(4, pcclFloat, 2);
    descriptor.op = pcclAvg;
    pcclReduceOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.codec = pcclCodecBFloat16;
    descriptor.options = &options;
    EXPECT(pcclSuccess, pcclReduceScatterAsync(halves, half, &descriptor, communicator, &handles[2]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[2], &info));
    CHECK(info.tx_bytes == 8 && half[0] == 4.0f * (float)rank && half[3] == 4.0f * (float)rank + 3);
}

static void checkRefusals(const pcclComm_t *communicator) {
    testing_phase = "refusals";
    int32_t block[4] = {0}, all[8] = {0};
    pcclCollectiveDescriptor_t descriptor = describe(4, pcclInt32, 1);
    EXPECT(pcclInvalidArgument, pcclAllGather(NULL, all, &descriptor, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllGather(block, NULL, &descriptor, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllGather(block, all, NULL, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclAllGather(block, all, &descriptor, NULL, NULL));
    EXPECT(pcclInvalidArgument, pcclAllGather(all + 1, all, &descriptor, communicator, NULL));
    descriptor.count = 0;
    EXPECT(pcclInvalidArgument, pcclAllGather(block, all, &descriptor, communicator, NULL));
    descriptor.count = SIZE_MAX / 8;
    EXPECT(pcclInvalidArgument, pcclReduceScatter(block, all, &descriptor, communicator, NULL));
    descriptor = describe(4, (pcclDataType_t)12, 1);
    EXPECT(pcclInvalidArgument, pcclBroadcast(block, &descriptor, communicator, NULL));
    descriptor = describe(4, pcclInt32, 1);
    descriptor.op = (pcclRedOp_t)5;
    EXPECT(pcclInvalidArgument, pcclReduceScatter(all, block, &descriptor, communicator, NULL));
    descriptor = describe(4, pcclInt32, 1);
    descriptor.struct_size = 3;
    EXPECT(pcclInvalidArgument, pcclBroadcast(block, &descriptor, communicator, NULL));
    descriptor = describe(4, pcclInt32, 1);
    descriptor.root = 2;
    EXPECT(pcclInvalidArgument, pcclBroadcast(block, &descriptor, communicator, NULL));
    descriptor.root = 0;
    descriptor.world_size = 1;
    EXPECT(pcclInvalidArgument, pcclBroadcast(block, &descriptor, communicator, NULL));
    // Whoever knows of more members has yet to learn of a loss.
    descriptor.world_size = 3;
    EXPECT(pcclRankConnectionLost, pcclBroadcast(block, &descriptor, communicator, NULL));
    EXPECT(pcclInvalidArgument, pcclBarrier(1, NULL, NULL));
}

static void checkDiLoCo(const Peer *peer, const pcclComm_t *communicator) {
    testing_phase = "DiLoCo";
    float weights[5], biases[3];
    for (int i = 0; i < 5; i++)
        weights[i] = (float)(i + 100 * peer->index);
    for (int i = 0; i < 3; i++)
        biases[i] = (float)-i;
    pcclDiLoCoTensor_t tensors[2] = {{"weights", weights, 5, pcclFloat, 0}, {"biases", biases, 3, pcclFloat, 0}};
    pcclDiLoCoOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.sync_every = 2;
    options.rule = pcclOuterDescent;
    pcclDiLoCo_t *diloco = NULL;
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, NULL, 2, &options, &diloco));
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, tensors, 0, &options, &diloco));
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, tensors, 2, NULL, &diloco));
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, tensors, 2, &options, NULL));
    options.mode = (pcclDiLoCoMode_t)3;
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, tensors, 2, &options, &diloco));
    options.mode = pcclDiLoCoSynchronous;
    options.sync_every = 0;
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, tensors, 2, &options, &diloco));
    options.sync_every = 2;
    EXPECT(pcclSuccess, pcclDiLoCoCreate(communicator, tensors, 2, &options, &diloco));
    EXPECT(pcclInvalidUsage, pcclDiLoCoStep(diloco, 1, NULL, 0, NULL));
    EXPECT(pcclSuccess, pcclDiLoCoBegin(diloco));
    EXPECT(pcclInvalidUsage, pcclDiLoCoBegin(diloco));
    float first = weights[0];
    CHECK(weights[4] == first + 4);

    bool touches = true;
    EXPECT(pcclSuccess, pcclDiLoCoTouchesNext(diloco, 0, &touches));
    CHECK(!touches);
    uint32_t fragment = 9;
    EXPECT(pcclSuccess, pcclDiLoCoFragmentOf(diloco, "biases", &fragment));
    CHECK(fragment == 0);
    EXPECT(pcclInvalidArgument, pcclDiLoCoFragmentOf(diloco, "none", &fragment));
    pcclDiLoCoRound_t rounds[1];
    size_t count = 9;
    for (int step = 0; step < 2; step++) {
        weights[0] += peer->index == 0 ? 1.0f : 3.0f;
        EXPECT(pcclSuccess, pcclDiLoCoStep(diloco, 1, rounds, 1, &count));
        CHECK(count == (step == 1 ? 1 : 0));
    }
    CHECK(rounds[0].round == 1 && rounds[0].world_size == 2 && rounds[0].tx_bytes > 0);
    CHECK(weights[0] == first + 4 && weights[1] == first + 1 && biases[2] == -2);

    pcclDiLoCoInfo_t info;
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &info));
    CHECK(info.round == 1 && info.parameter_count == 8 && info.fragment_count == 1);
    CHECK(strlen(info.parameters_hash) == 32);
    static char hashes[2][36];
    memcpy(hashes[peer->index], info.parameters_hash, sizeof(info.parameters_hash));
    pthread_barrier_wait(&bothPeers);
    CHECK(strcmp(hashes[0], hashes[1]) == 0);

    pcclSharedState_t state;
    EXPECT(pcclSuccess, pcclDiLoCoGetSharedState(diloco, &state));
    CHECK(state.count == 3 && state.revision > 0 && strcmp(state.infos[0].name, "outer/weights") == 0);
    CHECK(*(const float *)state.infos[0].data == weights[0]);
    EXPECT(pcclInvalidUsage, pcclDiLoCoRestore(diloco, 3));
    EXPECT(pcclSuccess, pcclDiLoCoEnd(diloco, NULL, 0, NULL));
    *(float *)state.infos[0].data = 77;
    EXPECT(pcclSuccess, pcclDiLoCoRestore(diloco, 3));
    CHECK(weights[0] == 77);
    EXPECT(pcclNoSharedStateAvailable, pcclDiLoCoLoad(diloco, "/nonexistent"));
    EXPECT(pcclSuccess, pcclDiLoCoDestroy(diloco));
    EXPECT(pcclInvalidArgument, pcclDiLoCoDestroy(diloco));
    EXPECT(pcclInvalidArgument, pcclDiLoCoBegin(NULL));
}

static void *runPeer(void *argument) {
    const Peer *peer = argument;
    pcclCommCreateParams_t parameters = parametersFor(peer->port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    pcclCollectiveDescriptor_t descriptor = describe(1, pcclUint8, 0);
    uint8_t byte = 0;
    EXPECT(pcclInvalidUsage, pcclBroadcast(&byte, &descriptor, communicator, NULL));
    EXPECT(pcclInvalidUsage, pcclGetRank(communicator, NULL, NULL));
    join(communicator);
    checkCollectives(communicator);
    checkRefusals(communicator);
    checkDiLoCo(peer, communicator);
    pthread_barrier_wait(&bothPeers);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return NULL;
}

int main(void) {
    startWatchdog();
    EXPECT(pcclNotInitialized, pcclBarrier(0, NULL, NULL));
    EXPECT(pcclSuccess, pcclInit());
    CHECK(pthread_barrier_init(&bothPeers, NULL, 2) == 0);
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    Peer peers[2] = {{0, port}, {1, port}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, runPeer, &peers[i]) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    stopMaster(master);
    return 0;
}
