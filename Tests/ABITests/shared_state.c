// Three members of one process synchronise a shared state: every data type at any alignment, of any size, in any order
// of keys; who differs ends with what the others hold, and what nobody may touch stays. Who does not go with the others
// is told so, and they go on.

#define _DEFAULT_SOURCE

#include "calls.h"

enum { MEMBERS = 3, TYPES = 12 };

static pcclComm_t *members[MEMBERS];

static const size_t sizes[TYPES] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
// In elements; the first has two chunks and a bit, the last nothing.
static const size_t counts[TYPES] = {2200000, 1, 3, 1000, 77, 5, 0, 131072, 1, 9, 262144, 0};
static const char *names[TYPES] = {"m", "l", "k", "j", "i", "h", "g", "f", "e", "d", "c", "b"};

// A member's tensors, each one byte off an aligned address, with a guard on either side; and one that may differ.
typedef struct State {
    unsigned char *memory[TYPES];
    unsigned char own[100];
    pcclTensorInfo_t infos[TYPES + 1];
    pcclSharedState_t state;
} State;

static unsigned char byteAt(int type, size_t index, int content) {
    return (unsigned char)(index * 31 + (size_t)type * 7 + (size_t)content * 101 + index / 1000);
}

static void fill(State *state, int member, int content, uint64_t revision) {
    for (int type = 0; type < TYPES; type++) {
        const size_t bytes = counts[type] * sizes[type];
        state->memory[type] = malloc(bytes + 3);
        CHECK(state->memory[type] != NULL);
        state->memory[type][0] = 0xa5;
        state->memory[type][bytes + 1] = 0xa5;
        for (size_t i = 0; i < bytes; i++)
            state->memory[type][1 + i] = byteAt(type, i, content);
    }
    memset(state->own, member + 1, sizeof(state->own));
    for (int i = 0; i <= TYPES; i++) {
        // Each member lists them in an order of its own.
        const int type = (i * (member == 1 ? 12 : 1) + member) % (TYPES + 1);
        const pcclTensorInfo_t tensor = {
            names[type % TYPES],  type == TYPES ? NULL : state->memory[type] + 1,
            counts[type % TYPES], (pcclDataType_t)(type % TYPES),
            pcclDeviceCpu,        false,
        };
        const pcclTensorInfo_t own = {"own", state->own, sizeof(state->own), pcclUint8, pcclDeviceCpu, true};
        state->infos[i] = type == TYPES ? own : tensor;
    }
    state->state.revision = revision;
    state->state.count = TYPES + 1;
    state->state.infos = state->infos;
}

static void drop(State *state) {
    for (int type = 0; type < TYPES; type++)
        free(state->memory[type]);
}

static void checkHolds(const State *state, int member, int content) {
    for (int type = 0; type < TYPES; type++) {
        const size_t bytes = counts[type] * sizes[type];
        CHECK(state->memory[type][0] == 0xa5 && state->memory[type][bytes + 1] == 0xa5);
        for (size_t i = 0; i < bytes; i++)
            if (state->memory[type][1 + i] != byteAt(type, i, content))
                FAIL("member %d, type %d: byte %zu of %zu is not the elected one", member, type, i, bytes);
    }
    for (size_t i = 0; i < sizeof(state->own); i++)
        CHECK(state->own[i] == member + 1);
}

typedef struct Synchronisation {
    int member;
    State *state;
    pcclSharedStateSyncStrategy_t strategy;
    pcclSharedStateSyncInfo_t info;
    pcclResult_t result;
    pthread_t thread;
} Synchronisation;

static void *run(void *argument) {
    Synchronisation *it = argument;
    it->result = pcclSynchronizeSharedState(members[it->member], &it->state->state, it->strategy, &it->info);
    return NULL;
}

static void synchroniseAll(Synchronisation *all, State *states, const pcclSharedStateSyncStrategy_t *strategies) {
    for (int i = 0; i < MEMBERS; i++) {
        all[i].member = i;
        all[i].state = &states[i];
        all[i].strategy = strategies[i];
        memset(&all[i].info, 0, sizeof(all[i].info));
        CHECK(pthread_create(&all[i].thread, NULL, run, &all[i]) == 0);
    }
    for (int i = 0; i < MEMBERS; i++)
        CHECK(pthread_join(all[i].thread, NULL) == 0);
}

static const pcclSharedStateSyncStrategy_t popular[MEMBERS] = {PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR,
                                                               PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR,
                                                               PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR};
static const pcclSharedStateSyncStrategy_t oneSender[MEMBERS] = {PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY,
                                                                 PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY,
                                                                 PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY};

static void everyType(void) {
    testing_phase = "every type";
    State states[MEMBERS];
    Synchronisation all[MEMBERS];
    uint64_t total = 0;
    for (int type = 0; type < TYPES; type++)
        total += counts[type] * sizes[type];
    for (int round = 0; round < 3; round++) {
        const int contents[3][MEMBERS] = {{1, 2, 2}, {3, 4, 3}, {5, 5, 5}};
        const int elected[3] = {2, 3, 5};
        for (int i = 0; i < MEMBERS; i++)
            fill(&states[i], i, contents[round][i], (uint64_t)round + 10);
        synchroniseAll(all, states, popular);
        uint64_t sent = 0, received = 0;
        for (int i = 0; i < MEMBERS; i++) {
            EXPECT(pcclSuccess, all[i].result);
            checkHolds(&states[i], i, elected[round]);
            CHECK(states[i].state.revision == (uint64_t)round + 10);
            sent += all[i].info.tx_bytes;
            received += all[i].info.rx_bytes;
            drop(&states[i]);
        }
        CHECK(sent == received);
        // One member lacks all of it, but not the empty tensors; hashes of chunks come on top.
        CHECK(round == 2 ? received == 0 : received >= total && received < total + 200);
    }
}

static void oneGives(void) {
    testing_phase = "one gives, the others take";
    State states[MEMBERS];
    Synchronisation all[MEMBERS];
    for (int i = 0; i < MEMBERS; i++)
        fill(&states[i], i, i, i == 1 ? 13 : 0);
    synchroniseAll(all, states, oneSender);
    for (int i = 0; i < MEMBERS; i++) {
        EXPECT(pcclSuccess, all[i].result);
        checkHolds(&states[i], i, 1);
        CHECK(states[i].state.revision == 13);
        drop(&states[i]);
    }
}

static void nobodyGives(void) {
    testing_phase = "nobody gives";
    State states[MEMBERS];
    Synchronisation all[MEMBERS];
    const pcclSharedStateSyncStrategy_t receivers[MEMBERS] = {oneSender[0], oneSender[0], oneSender[0]};
    for (int i = 0; i < MEMBERS; i++)
        fill(&states[i], i, i, 14);
    synchroniseAll(all, states, receivers);
    for (int i = 0; i < MEMBERS; i++) {
        EXPECT(pcclNoSharedStateAvailable, all[i].result);
        checkHolds(&states[i], i, i);
        states[i].state.revision = 13;
    }
    synchroniseAll(all, states, popular);
    for (int i = 0; i < MEMBERS; i++) {
        EXPECT(pcclNoSharedStateAvailable, all[i].result);
        drop(&states[i]);
    }
}

static void pending(void) {
    testing_phase = "operations in flight";
    float values[4] = {1, 2, 3, 4};
    pcclReduceDescriptor_t descriptor = reduction(9, 4, pcclFloat, pcclSum);
    pcclAsyncReduceOp_t operation;
    State state;
    fill(&state, 0, 0, 14);
    EXPECT(pcclSuccess, pcclAllReduceAsync(values, values, &descriptor, members[0], &operation));
    EXPECT(pcclPendingAsyncOps, pcclSynchronizeSharedState(members[0], &state.state, popular[0], NULL));
    Call calls[2];
    float others[2][4] = {{0}};
    for (int i = 0; i < 2; i++)
        beginReduction(&calls[i], reducing, members[i + 1], descriptor, others[i]);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, end(&calls[i]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&operation, NULL));
    drop(&state);
}

// The last phase: members are evicted.
static void evictions(void) {
    testing_phase = "evictions";
    State states[MEMBERS];
    Synchronisation all[MEMBERS];
    for (int i = 0; i < MEMBERS; i++)
        fill(&states[i], i, 7, i == 2 ? 15 : 14);
    synchroniseAll(all, states, popular);
    for (int i = 0; i < MEMBERS; i++) {
        EXPECT(i == 2 ? pcclInvalidUsage : pcclSuccess, all[i].result);
        drop(&states[i]);
    }
    int size = 0;
    EXPECT(pcclSuccess, pcclGetAttribute(members[0], PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &size));
    CHECK(size == 2);
}

int main(void) {
    startWatchdog();
    CHECK(setenv("PCCL_LOG_LEVEL", "FATAL", 0) == 0);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    makeGroup(members, MEMBERS, port, 0);
    everyType();
    oneGives();
    nobodyGives();
    pending();
    evictions();
    for (int i = 0; i < MEMBERS; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
    stopMaster(master);
    printf("shared_state: every type, any order; who differs gets it, who does not fit is told\n");
    return 0;
}
