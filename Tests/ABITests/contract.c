// The results that pccl.h lists for each function, in every phase of a communicator: while it connects, alone, while it
// waits in each of the calls that wait, with operations in flight, after the loss of a member and after the master's
// death. One thread drives all peers. No step waits for time to pass, but for two: members that wait for each other in
// different calls are told after a part of the time-out.
#define _POSIX_C_SOURCE 200809L
#include "calls.h"

#include <sys/wait.h>

static Answers with(Answers answers, int connect) {
    answers.connect = connect;
    return answers;
}

/* ---- Before pcclInit ---- */

// It is the first check of all: before null pointers and wrong values are looked at.
static void nullBeforeInit(void) {
    testing_phase = "null pointers before pcclInit";
    pcclComm_t *made = NULL;
    EXPECT(pcclNotInitialized, pcclCreateCommunicator(NULL, &made));
    EXPECT(pcclNotInitialized, pcclGetAttribute(NULL, (pcclAttribute_t)0, NULL));
    EXPECT(pcclNotInitialized, pcclConnect(NULL));
    EXPECT(pcclNotInitialized, pcclUpdateTopology(NULL));
    EXPECT(pcclNotInitialized, pcclArePeersPending(NULL, NULL));
    EXPECT(pcclNotInitialized, pcclOptimizeTopology(NULL));
    EXPECT(pcclNotInitialized, pcclAllReduce(NULL, NULL, NULL, NULL, NULL));
    EXPECT(pcclNotInitialized, pcclAllReduceAsync(NULL, NULL, NULL, NULL, NULL));
    EXPECT(pcclNotInitialized, pcclAwaitAsyncReduce(NULL, NULL));
    EXPECT(pcclNotInitialized, pcclAllReduceMultipleWithRetry(NULL, 0, NULL, NULL, 0));
    EXPECT(pcclNotInitialized,
           pcclSynchronizeSharedState(NULL, NULL, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL));
    EXPECT(pcclNotInitialized, pcclDestroyCommunicator(NULL));
    CHECK(made == NULL);
    EXPECT(pcclInvalidArgument, pcclRunMaster(NULL));
    EXPECT(pcclInvalidArgument, pcclInterruptMaster(NULL));
    EXPECT(pcclInvalidArgument, pcclMasterAwaitTermination(NULL));
    EXPECT(pcclInvalidArgument, pcclDestroyMaster(NULL));
}

/* ---- Masters ---- */

typedef struct Awaiter {
    pcclMasterInstance_t *master;
    bool hasReturned;
} Awaiter;

static void *awaitTermination(void *argument) {
    Awaiter *awaiter = argument;
    EXPECT(pcclSuccess, pcclMasterAwaitTermination(awaiter->master));
    __atomic_store_n(&awaiter->hasReturned, true, __ATOMIC_SEQ_CST);
    return NULL;
}

// It serves peers all the while; two threads wait for its end, and when they return its port is free. False if somebody
// else has taken the port at once, which is possible once in a while and not again and again.
static bool awaitAMasterThatServes(void) {
    testing_phase = "awaiting a master that serves";
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    Awaiter awaiters[2] = {{master, false}, {master, false}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, awaitTermination, &awaiters[i]) == 0);
    for (int turn = 0; turn < 20; turn++) {
        pcclComm_t *communicator = created(port, 0);
        EXPECT(pcclSuccess, pcclConnect(communicator));
        EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    }
    for (int i = 0; i < 2; i++)
        CHECK(!__atomic_load_n(&awaiters[i].hasReturned, __ATOMIC_SEQ_CST));
    EXPECT(pcclInvalidUsage, pcclRunMaster(master));
    EXPECT(pcclSuccess, pcclInterruptMaster(master));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pcclMasterInstance_t *next = NULL;
    EXPECT(pcclSuccess, pcclCreateMaster(loopback(port), &next));
    pcclResult_t result = pcclRunMaster(next);
    EXPECT(pcclSuccess, pcclDestroyMaster(next));
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
    if (result != pcclSuccess && result != pcclInvalidUsage)
        FAIL("pcclRunMaster: %s", resultName(result));
    return result == pcclSuccess;
}

static void masterOverIPv6(void) {
    testing_phase = "a master and two peers over IPv6";
    int listener = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 address;
    socklen_t length = sizeof(address);
    memset(&address, 0, sizeof(address));
    address.sin6_family = AF_INET6;
    address.sin6_addr.s6_addr[15] = 1;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0) {
        printf("contract: no IPv6 loopback here, so it is not tested\n");
        close(listener);
        return;
    }
    CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    close(listener);
    pcclCommCreateParams_t parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.master_address.inet.protocol = inetIPv6;
    parameters.master_address.inet.ipv6.data[15] = 1;
    parameters.master_address.port = ntohs(address.sin6_port);
    pcclMasterInstance_t *master = NULL;
    EXPECT(pcclSuccess, pcclCreateMaster(parameters.master_address, &master));
    EXPECT(pcclSuccess, pcclRunMaster(master));
    pcclComm_t *members[2];
    for (int i = 0; i < 2; i++) {
        EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &members[i]));
        admit(members, i);
    }
    checkThatAllReduce(members, 2, 1);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
    stopMaster(master);
}

/* ---- Not connected, connecting, alone ---- */

static void notConnected(void) {
    testing_phase = "a communicator that was never connected, then refused";
    pcclComm_t *communicator = created(freePort(), 0);
    checkAnswers(communicator, notConnectedAnswers, 1);
    EXPECT(pcclMasterConnectionFailed, pcclConnect(communicator));
    checkAnswers(communicator, notConnectedAnswers, 1);

    testing_phase = "being connected is looked at before the arguments are";
    pcclAsyncReduceOp_t handle;
    float values[4] = {1, 2, 3, 4};
    pcclReduceDescriptor_t wrong = reduction(1, 0, (pcclDataType_t)12, (pcclRedOp_t)5);
    EXPECT(pcclInvalidUsage, pcclAllReduceAsync(NULL, NULL, NULL, communicator, NULL));
    EXPECT(pcclInvalidUsage, pcclAllReduceAsync(values, values, &wrong, communicator, &handle));
    EXPECT(pcclInvalidUsage, pcclAllReduce(NULL, NULL, NULL, communicator, NULL));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
}

static void newcomerThatWaits(uint16_t port) {
    testing_phase = "alone in the group";
    pcclComm_t *members[3] = {created(port, 1), created(port, 1), created(port, 1)};
    admit(members, 0);
    checkAnswers(members[0], aloneAnswers, 1);

    testing_phase = "arguments are looked at before the number of members is, and what is missing after them";
    float values[4] = {1, 2, 3, 4};
    pcclReduceDescriptor_t wrong = reduction(1, 0, pcclFloat, pcclSum);
    wrong.quantization_options.algorithm = pcclQuantMinMax;
    EXPECT(pcclInvalidArgument, pcclAllReduce(values, values, &wrong, members[0], NULL));
    wrong.count = 4;
    EXPECT(pcclTooFewPeers, pcclAllReduce(values, values, &wrong, members[0], NULL));

    testing_phase = "a newcomer waits: it counts nowhere, and every call on it is refused";
    Call call;
    beginToConnect(&call, members[1], members, 1);
    checkAnswers(members[1], with(notConnectedAnswers, pcclInvalidUsage), 1);
    int attributes[4];
    lookAtAttributes(members[0], attributes);
    for (int i = 0; i < 4; i++)
        CHECK(attributes[i] == 1);
    // It is no member yet, so its group has one.
    pcclReduceDescriptor_t sum = reduction(1, 4, pcclFloat, pcclSum);
    EXPECT(pcclTooFewPeers, pcclAllReduce(values, values, &sum, members[0], NULL));
    EXPECT(pcclInvalidUsage, pcclOptimizeTopology(members[0]));
    bool pending = false;
    EXPECT(pcclSuccess, pcclArePeersPending(members[0], &pending));
    CHECK(pending && !isDone(&call));

    testing_phase = "the join point lets it in, and it is a member when pcclConnect returns";
    EXPECT(pcclSuccess, pcclUpdateTopology(members[0]));
    CHECK(groupSize(members[0]) == 2);
    EXPECT(pcclSuccess, end(&call));
    lookAtAttributes(members[1], attributes);
    CHECK(attributes[0] == 2 && attributes[1] == 2 && attributes[2] == 1 && attributes[3] == 2);
    checkThatAllReduce(members, 2, 1);

    testing_phase = "to optimise the topology admits nobody";
    beginToConnect(&call, members[2], members, 2);
    together(optimising, members, 2);
    CHECK(!isDone(&call) && groupSize(members[0]) == 2 && groupSize(members[1]) == 2);
    CHECK(together(asking, members, 2));
    together(updating, members, 2);
    EXPECT(pcclSuccess, end(&call));
    checkThatAllReduce(members, 3, 1);

    testing_phase = "leaving";
    for (int i = 0; i < 3; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
}

/* ---- One thread waits, and another calls ---- */

// Of two threads that make the same joint call one is refused at once. The other waits for the other member from then
// on: that is the event after which everything else is tried.
static void whileOneWaits(uint16_t port, CallKind kind, const char *name) {
    testing_phase = name;
    pcclComm_t *members[2];
    makeGroup(members, 2, port, 2);
    sem_t ended;
    CHECK(sem_init(&ended, 0, 0) == 0);
    Call calls[2];
    for (int i = 0; i < 2; i++) {
        memset(&calls[i], 0, sizeof(calls[i]));
        calls[i].kind = kind;
        calls[i].communicator = members[0];
        calls[i].ended = &ended;
        beginCall(&calls[i]);
    }
    CHECK(sem_wait(&ended) == 0);
    Call *refused = isDone(&calls[0]) ? &calls[0] : &calls[1], *waiting = refused == &calls[0] ? &calls[1] : &calls[0];
    EXPECT(pcclInvalidUsage, end(refused));
    CHECK(!isDone(waiting));

    Answers answers = {pcclInvalidUsage, pcclSuccess,      pcclInvalidUsage, pcclInvalidUsage,
                       pcclInvalidUsage, pcclInvalidUsage, NOT_CALLED,       pcclInvalidUsage};
    if (kind == asking)
        answers.allReduce = answers.multiple = NOT_CALLED;
    checkAnswers(members[0], answers, 1);
    if (kind == asking) {
        // Reductions are allowed, and go on while the question waits for its answer.
        checkThatAllReduce(members, 2, 1);
        uint64_t values[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
        pcclReduceDescriptor_t descriptor = reduction(2, 4, pcclUint64, pcclSum);
        pcclAsyncReduceOp_t handles[2];
        for (int i = 0; i < 2; i++)
            EXPECT(pcclSuccess, pcclAllReduceAsync(values[i], values[i], &descriptor, members[i], &handles[i]));
        EXPECT(pcclPendingAsyncOps, pcclUpdateTopology(members[0]));
        for (int i = 0; i < 2; i++) {
            EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[i], NULL));
            CHECK(values[i][0] == 6 && values[i][3] == 12);
        }
    } else {
        float values[4] = {1, 2, 3, 4};
        pcclReduceDescriptor_t descriptor = reduction(2, 4, pcclFloat, pcclSum);
        pcclAsyncReduceOp_t handle;
        EXPECT(pcclSuccess, pcclAllReduceAsync(values, values, &descriptor, members[0], &handle));
        EXPECT(pcclInvalidUsage, pcclAwaitAsyncReduce(&handle, NULL));
        EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handle, NULL));
        for (int i = 0; i < 4; i++)
            CHECK(values[i] == (float)(1 + i));
    }
    CHECK(!isDone(waiting) && groupSize(members[0]) == 2);

    // The other member's call is all that it has waited for.
    together(kind, members + 1, 1);
    EXPECT(pcclSuccess, end(waiting));
    checkThatAllReduce(members, 2, 2);

    // When the other leaves instead, the call is finished by who is left.
    begin(waiting, kind, members[0]);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[1]));
    pcclResult_t result = end(waiting);
    // To optimise alone is refused, should the loss come before the call.
    if (result != pcclSuccess && !(kind == optimising && result == pcclInvalidUsage))
        FAIL("the other member left: %s", resultName(result));
    CHECK(groupSize(members[0]) == 1 && !waiting->pending);
    checkAnswers(members[0], aloneAnswers, 1);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[0]));
    sem_destroy(&ended);
}

/* ---- Operations in flight, mismatches, losses ---- */

static void whileAnOperationIsInFlight(uint16_t port) {
    testing_phase = "with an operation in flight";
    pcclComm_t *members[2];
    makeGroup(members, 2, port, 3);
    static uint64_t values[2][VALUES];
    memset(values, 0, sizeof(values));
    pcclReduceDescriptor_t descriptor = reduction(7, VALUES, pcclUint64, pcclSum);
    pcclAsyncReduceOp_t handles[2];
    EXPECT(pcclSuccess, pcclAllReduceAsync(values[0], values[0], &descriptor, members[0], &handles[0]));
    Answers answers = {
        pcclInvalidUsage,    pcclSuccess,         pcclPendingAsyncOps, NOT_CALLED, pcclTopologyOptimizationFailed,
        pcclInvalidArgument, pcclInvalidArgument, pcclInvalidArgument};
    checkAnswers(members[0], answers, 7);
    checkThatAllReduce(members, 2, 8);
    CHECK(!together(asking, members, 2));
    // The tag is in flight on the other communicator only.
    pcclAsyncReduceOp_t mixed = {members[1], 7};
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&mixed, NULL));
    EXPECT(pcclSuccess, pcclAllReduceAsync(values[1], values[1], &descriptor, members[1], &handles[1]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[1], NULL));

    testing_phase = "with an operation that is done and not awaited";
    EXPECT(pcclPendingAsyncOps, pcclUpdateTopology(members[0]));
    EXPECT(pcclTopologyOptimizationFailed, pcclOptimizeTopology(members[0]));
    EXPECT(pcclSuccess, pcclAwaitAsyncReduce(&handles[0], NULL));
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handles[0], NULL));
    together(updating, members, 2);

    testing_phase = "what is refused of several tensors touches none of them";
    float first[4] = {1, 2, 3, 4}, second[4] = {5, 6, 7, 8};
    pcclReduceOpDescriptor_t operations[2] = {{first, first, reduction(1, 4, pcclFloat, pcclSum)},
                                              {second, second, reduction(2, 0, pcclFloat, pcclSum)}};
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(operations, 2, members[0], NULL, 2));
    operations[1].descriptor.count = 3;
    operations[1].recvbuf = second + 1;
    EXPECT(pcclInvalidArgument, pcclAllReduceMultipleWithRetry(operations, 2, members[0], NULL, 1));
    for (int i = 0; i < 4; i++)
        CHECK(first[i] == (float)(1 + i) && second[i] == (float)(5 + i));

    testing_phase = "descriptors differ in a call with retry, and in an asynchronous one";
    Call calls[2];
    for (int i = 0; i < 2; i++)
        beginReduction(&calls[i], multiple, members[i],
                       reduction(3, VALUES - (size_t)i, pcclUint64, i == 0 ? pcclSum : pcclAvg), values[i]);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclInvalidArgument, end(&calls[i]));
    for (int i = 0; i < 2; i++) {
        descriptor = reduction(3, VALUES, i == 0 ? pcclUint64 : pcclInt64, pcclSum);
        EXPECT(pcclSuccess, pcclAllReduceAsync(values[i], values[i], &descriptor, members[i], &handles[i]));
    }
    for (int i = 0; i < 2; i++)
        EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handles[i], NULL));
    checkThatAllReduce(members, 2, 3);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
}

// The same tensors one after the other, and with retry: the traffic of the latter is the sum.
static void trafficOfSeveral(uint16_t port) {
    testing_phase = "the traffic of several tensors is added up";
    enum { tensors = 5 };
    pcclComm_t *members[2];
    makeGroup(members, 2, port, 3);
    static uint64_t values[2][tensors][VALUES];
    Call calls[2];
    uint64_t sent[2] = {0, 0}, received[2] = {0, 0};
    for (int t = 0; t < tensors; t++) {
        size_t count = (size_t)(t + 1) * 100;
        for (int i = 0; i < 2; i++)
            beginReduction(&calls[i], reducing, members[i], reduction(1, count, pcclUint64, pcclSum), values[i][t]);
        for (int i = 0; i < 2; i++) {
            EXPECT(pcclSuccess, end(&calls[i]));
            CHECK(calls[i].info.tx_bytes >= count * 4 && calls[i].info.rx_bytes >= count * 4);
            sent[i] += calls[i].info.tx_bytes;
            received[i] += calls[i].info.rx_bytes;
        }
    }
    pcclReduceOpDescriptor_t operations[2][tensors];
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < tensors; t++) {
            pcclReduceOpDescriptor_t operation = {values[i][t], values[i][t],
                                                  reduction((uint64_t)t, (size_t)(t + 1) * 100, pcclUint64, pcclSum)};
            operations[i][t] = operation;
        }
    // The other member has a call with retry for each of the tensors, all at once.
    pcclReduceInfo_t info;
    Call others[tensors];
    for (int t = 0; t < tensors; t++)
        beginReduction(&others[t], multiple, members[1], operations[1][t].descriptor, values[1][t]);
    EXPECT(pcclSuccess, pcclAllReduceMultipleWithRetry(operations[0], tensors, members[0], &info, tensors));
    uint64_t othersSent = 0, othersReceived = 0;
    for (int t = 0; t < tensors; t++) {
        EXPECT(pcclSuccess, end(&others[t]));
        othersSent += others[t].info.tx_bytes;
        othersReceived += others[t].info.rx_bytes;
    }
    CHECK(info.local_world_size == 2 && info.tx_bytes == sent[0] && info.rx_bytes == received[0]);
    CHECK(othersSent == sent[1] && othersReceived == received[1]);
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
}

// Three members of one group, and one of another. The third never enters the operation that the others wait for, and
// leaves. If they knew of each other's entry they are all told of the loss; else it begins again, and is done by two.
static void waitersOfALostOperation(uint16_t port) {
    testing_phase = "several threads wait for an operation whose member leaves";
    enum { waiters = 4, rounds = 10 };
    pcclComm_t *stranger = created(port, 5);
    EXPECT(pcclSuccess, pcclConnect(stranger));
    pcclComm_t *members[3];
    makeGroup(members, 2, port, 4);
    int shared = 0, aborted = 0;
    for (int round = 0; round < rounds; round++) {
        members[2] = created(port, 4);
        admit(members, 2);
        static uint64_t values[2][VALUES];
        pcclReduceDescriptor_t descriptor = reduction(1, VALUES, pcclUint64, pcclSum);
        pcclAsyncReduceOp_t handles[2];
        Call calls[2][waiters];
        for (int i = 0; i < 2; i++) {
            for (int k = 0; k < VALUES; k++)
                values[i][k] = (uint64_t)(k + i);
            EXPECT(pcclSuccess, pcclAllReduceAsync(values[i], values[i], &descriptor, members[i], &handles[i]));
            memset(calls[i], 0, sizeof(calls[i]));
            for (int w = 0; w < waiters; w++) {
                calls[i][w].kind = awaiting;
                calls[i][w].communicator = members[i];
                calls[i][w].handle = handles[i];
                beginCall(&calls[i][w]);
            }
        }
        // What both do after they have entered tells each of the other's entry.
        if (round > 0)
            checkThatAllReduce(members, 3, 2);
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[2]));
        pcclResult_t verdicts[2] = {pcclInternalError, pcclInternalError};
        for (int i = 0; i < 2; i++) {
            int told = 0;
            for (int w = 0; w < waiters; w++) {
                Call *call = &calls[i][w];
                pcclResult_t result = end(call);
                // Who comes when another has taken the result is told that the handle is used up.
                if (result == pcclInvalidArgument)
                    continue;
                if (result != pcclRankConnectionLost && result != pcclSuccess)
                    FAIL("a waiter got: %s", resultName(result));
                CHECK(told == 0 || result == verdicts[i]);
                verdicts[i] = result;
                told++;
                // The stranger, and who is left, as of the moment at which the call returned.
                CHECK(call->attributes[0] == 3 && call->attributes[1] == 2);
                CHECK(call->attributes[2] == 2 && call->attributes[3] == 2);
                CHECK(call->info.local_world_size == (result == pcclSuccess ? 2 : 0));
                for (int k = 0; k < VALUES; k++)
                    CHECK(values[i][k] == (uint64_t)(result == pcclSuccess ? 2 * k + 1 : k + i));
            }
            CHECK(told >= 1);
            shared += told - 1;
            EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&handles[i], NULL));
        }
        CHECK(verdicts[0] == verdicts[1]);
        aborted += verdicts[0] == pcclRankConnectionLost;
        checkThatAllReduce(members, 2, 1);
    }
    if (shared == 0 || aborted == 0)
        FAIL("%d of %d operations were aborted, and %d waiters got a result that another had got", aborted, rounds,
             shared);

    testing_phase = "an operation that was aborted has to be awaited as well";
    float values[4] = {1, 2, 3, 4};
    pcclReduceDescriptor_t descriptor = reduction(1, 4, pcclFloat, pcclSum);
    pcclAsyncReduceOp_t handle;
    EXPECT(pcclSuccess, pcclAllReduceAsync(values, values, &descriptor, members[0], &handle));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[1]));
    while (groupSize(members[0]) == 2)
        sched_yield();
    EXPECT(pcclPendingAsyncOps, pcclUpdateTopology(members[0]));
    EXPECT(pcclInvalidUsage, pcclConnect(members[0]));
    EXPECT(pcclRankConnectionLost, pcclAwaitAsyncReduce(&handle, NULL));
    checkAnswers(members[0], aloneAnswers, 1);

    testing_phase = "destroyed with an operation that was aborted and not awaited";
    members[1] = created(port, 4);
    admit(members, 1);
    EXPECT(pcclSuccess, pcclAllReduceAsync(values, values, &descriptor, members[0], &handle));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[1]));
    while (groupSize(members[0]) == 2)
        sched_yield();
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[0]));
    CHECK(values[0] == 1 && values[3] == 4);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(stranger));
}

/* ---- Different calls ---- */

static void differentCalls(uint16_t port) {
    pcclComm_t *members[2];
    makeGroup(members, 2, port, 6);
    static const struct {
        CallKind kinds[2];
        const char *name;
    } pairs[] = {{{optimising, updating}, "one optimises, the other is at a join point"},
                 {{optimising, asking}, "one optimises, the other asks for newcomers"},
                 {{optimising, reducing}, "one optimises, the other reduces"},
                 {{updating, multiple}, "one is at a join point, the other reduces with retry"}};
    for (size_t p = 0; p < sizeof(pairs) / sizeof(pairs[0]); p++) {
        testing_phase = pairs[p].name;
        static uint64_t values[VALUES];
        for (int k = 0; k < VALUES; k++)
            values[k] = (uint64_t)k;
        Call calls[2];
        for (int i = 0; i < 2; i++)
            beginReduction(&calls[i], pairs[p].kinds[i], members[i], reduction(1, VALUES, pcclUint64, pcclSum), values);
        for (int i = 0; i < 2; i++)
            EXPECT(pcclInvalidUsage, end(&calls[i]));
        for (int k = 0; k < VALUES; k++)
            CHECK(values[k] == (uint64_t)k);
        CHECK(groupSize(members[0]) == 2 && groupSize(members[1]) == 2);
        together(updating, members, 2);
        together(optimising, members, 2);
        checkThatAllReduce(members, 2, 1);
    }
    for (int i = 0; i < 2; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
}

/* ---- Arithmetic among three ---- */

typedef struct Arithmetic {
    const char *name;
    pcclDataType_t type;
    pcclRedOp_t op;
    uint64_t contributions[3];
    uint64_t result;
} Arithmetic;

static const Arithmetic arithmetic[] = {
    // An average is a sum in a wider type, and then one division that drops the fraction, towards zero.
    {"uint8 average", pcclUint8, pcclAvg, {255, 255, 254}, 254},
    {"int8 average of negatives", pcclInt8, pcclAvg, {0xFF, 0xFF, 0}, 0},
    {"int8 average, -4 by 3", pcclInt8, pcclAvg, {0xFE, 0xFF, 0xFF}, 0xFF},
    {"int8 average of the least", pcclInt8, pcclAvg, {0x80, 0x80, 0x80}, 0x80},
    {"int16 average, -5 by 3", pcclInt16, pcclAvg, {0xFFFF, 0xFFFD, 0xFFFF}, 0xFFFF},
    {"int16 average of the least", pcclInt16, pcclAvg, {0x8000, 0x8000, 0x8001}, 0x8001},
    {"uint16 average", pcclUint16, pcclAvg, {65535, 65535, 65533}, 65534},
    {"uint32 average", pcclUint32, pcclAvg, {UINT32_MAX, UINT32_MAX, UINT32_MAX - 1}, UINT32_MAX - 1},
    {"int32 average, -5 by 3", pcclInt32, pcclAvg, {0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF}, 0xFFFFFFFF},
    {"int32 average of the least", pcclInt32, pcclAvg, {0x80000000, 0x80000000, 0x80000000}, 0x80000000},
    {"int64 average, -5 by 3", pcclInt64, pcclAvg, {UINT64_MAX, UINT64_MAX - 2, UINT64_MAX}, UINT64_MAX},
    {"int64 average of the least", pcclInt64, pcclAvg, {1ull << 63, 1ull << 63, 1ull << 63}, 1ull << 63},
    {"uint64 average", pcclUint64, pcclAvg, {UINT64_MAX, UINT64_MAX, UINT64_MAX - 2}, UINT64_MAX - 1},
    // Sums and products wrap.
    {"uint8 sum", pcclUint8, pcclSum, {200, 200, 200}, 88},
    {"int8 sum", pcclInt8, pcclSum, {0x7F, 0x7F, 0x7F}, 0x7D},
    {"int16 sum", pcclInt16, pcclSum, {0x7FFF, 1, 0}, 0x8000},
    {"uint16 sum", pcclUint16, pcclSum, {0xFFFF, 0xFFFF, 3}, 1},
    {"uint32 sum", pcclUint32, pcclSum, {UINT32_MAX, UINT32_MAX, 3}, 1},
    {"int32 sum", pcclInt32, pcclSum, {0x80000000, 0xFFFFFFFF, 0}, 0x7FFFFFFF},
    {"uint64 sum", pcclUint64, pcclSum, {UINT64_MAX, UINT64_MAX, 3}, 1},
    {"int64 sum", pcclInt64, pcclSum, {1ull << 63, UINT64_MAX, 0}, INT64_MAX},
    {"uint8 product", pcclUint8, pcclProd, {16, 16, 3}, 0},
    {"int8 product", pcclInt8, pcclProd, {100, 100, 3}, 0x30},
    {"int16 product", pcclInt16, pcclProd, {0x8000, 0xFFFF, 1}, 0x8000},
    {"uint16 product", pcclUint16, pcclProd, {0xFFFF, 0xFFFF, 0xFFFF}, 0xFFFF},
    {"uint32 product", pcclUint32, pcclProd, {65536, 65537, 1}, 65536},
    {"int32 product", pcclInt32, pcclProd, {0x80000000, 0xFFFFFFFF, 1}, 0x80000000},
    {"uint64 product", pcclUint64, pcclProd, {UINT64_MAX, UINT64_MAX, UINT64_MAX}, UINT64_MAX},
    {"int64 product", pcclInt64, pcclProd, {1ull << 63, UINT64_MAX, 1}, 1ull << 63},
    // 16-bit floats are accumulated in 32 bits: in their own, 2048 + 1 is 2048, and 65504 + 65504 infinite.
    {"half sum", pcclFloat16, pcclSum, {0x6800, 0x3C00, 0x3C00}, 0x6801},
    {"half sum beyond the largest, and back", pcclFloat16, pcclSum, {0x7BFF, 0x7BFF, 0xFBFF}, 0x7BFF},
    {"half product", pcclFloat16, pcclProd, {0x7BFF, 0x4000, 0x3800}, 0x7BFF},
    {"half average, 7 by 3", pcclFloat16, pcclAvg, {0x3C00, 0x4000, 0x4400}, 0x40AB},
    {"half average that no half sum has", pcclFloat16, pcclAvg, {0x7BFF, 0x7BFF, 0x7BFF}, 0x7BFF},
    {"bfloat sum", pcclBFloat16, pcclSum, {0x4380, 0x3F80, 0x3F80}, 0x4381},
    {"bfloat average, 7 by 3", pcclBFloat16, pcclAvg, {0x3F80, 0x4000, 0x4080}, 0x4015},
    {"float average, 7 by 3", pcclFloat, pcclAvg, {0x3F800000, 0x40000000, 0x40800000}, 0x40155555},
    {"double average, 7 by 3",
     pcclDouble,
     pcclAvg,
     {0x3FF0000000000000, 0x4000000000000000, 0x4010000000000000},
     0x4002AAAAAAAAAAAB},
    // -0 is less than +0.
    {"half maximum of zeros", pcclFloat16, pcclMax, {0x8000, 0, 0x8000}, 0},
    {"half minimum of zeros", pcclFloat16, pcclMin, {0, 0x8000, 0}, 0x8000},
    {"bfloat maximum of zeros", pcclBFloat16, pcclMax, {0x8000, 0x8000, 0}, 0},
    {"bfloat minimum of zeros", pcclBFloat16, pcclMin, {0, 0, 0x8000}, 0x8000},
    {"float maximum of zeros", pcclFloat, pcclMax, {0, 0x80000000, 0x80000000}, 0},
    {"float minimum of zeros", pcclFloat, pcclMin, {0x80000000, 0, 0}, 0x80000000},
    {"double maximum of zeros", pcclDouble, pcclMax, {1ull << 63, 0, 1ull << 63}, 0},
    {"double minimum of zeros", pcclDouble, pcclMin, {0, 0, 1ull << 63}, 1ull << 63},
    {"float maximum of -0 alone", pcclFloat, pcclMax, {0x80000000, 0x80000000, 0x80000000}, 0x80000000},
    // NaN wins over the infinities, whoever has it and whatever is in it, and comes out canonical.
    {"half maximum with NaN", pcclFloat16, pcclMax, {0x7C00, 0x7C01, 0x3C00}, 0x7E00},
    {"half minimum with NaN", pcclFloat16, pcclMin, {0xFE23, 0xFC00, 0x3C00}, 0x7E00},
    {"bfloat maximum with NaN", pcclBFloat16, pcclMax, {0x3F80, 0x7F80, 0xFFC1}, 0x7FC0},
    {"bfloat minimum with NaN", pcclBFloat16, pcclMin, {0x7F81, 0xFF80, 0x3F80}, 0x7FC0},
    {"float maximum with NaN", pcclFloat, pcclMax, {0x7F800000, 0xFFC00123, 0x3F800000}, 0x7FC00000},
    {"float minimum with a signalling NaN", pcclFloat, pcclMin, {0xFF800000, 0x3F800000, 0x7F800001}, 0x7FC00000},
    {"double maximum with NaN",
     pcclDouble,
     pcclMax,
     {0xFFF8000000000123, 0x7FF0000000000000, 0x3FF0000000000000},
     0x7FF8000000000000},
    {"double minimum with a signalling NaN",
     pcclDouble,
     pcclMin,
     {0x3FF0000000000000, 0x7FF0000000000001, 0xFFF0000000000000},
     0x7FF8000000000000},
    {"half sum of infinities", pcclFloat16, pcclSum, {0x7C00, 0xFC00, 0x3C00}, 0x7E00},
    {"bfloat average with NaN", pcclBFloat16, pcclAvg, {0xFFC1, 0x3F80, 0x3F80}, 0x7FC0},
    {"float product of infinity and zero", pcclFloat, pcclProd, {0x7F800000, 0, 0x3F800000}, 0x7FC00000},
    {"double sum with NaN",
     pcclDouble,
     pcclSum,
     {0x3FF0000000000000, 0xFFF8000000000123, 0x3FF0000000000000},
     0x7FF8000000000000},
};

// Few elements go to everybody at once, many to their owners only; both ways have the case, and every member has had
// each of the contributions.
static void arithmeticOfThree(uint16_t port) {
    testing_phase = "numbers at the edge, of three members";
    enum { most = 40000 };
    static const size_t bytes[12] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8}, counts[] = {3, most};
    pcclComm_t *members[3];
    makeGroup(members, 3, port, 7);
    static unsigned char values[3][most * 8];
    for (size_t n = 0; n < sizeof(arithmetic) / sizeof(arithmetic[0]); n++) {
        const Arithmetic *one = &arithmetic[n];
        size_t size = bytes[one->type];
        for (int c = 0; c < 2; c++) {
            Call calls[3];
            for (int i = 0; i < 3; i++) {
                // Sums and products of floats in one order only: theirs depends on it.
                bool turns = one->op != pcclSum && one->op != pcclProd;
                for (size_t k = 0; k < counts[c]; k++)
                    memcpy(values[i] + k * size, &one->contributions[turns ? ((size_t)i + k) % 3 : (size_t)i], size);
                beginReduction(&calls[i], reducing, members[i], reduction(n, counts[c], one->type, one->op), values[i]);
            }
            for (int i = 0; i < 3; i++)
                EXPECT(pcclSuccess, end(&calls[i]));
            for (int i = 0; i < 3; i++)
                for (size_t k = 0; k < counts[c]; k++)
                    if (memcmp(values[i] + k * size, &one->result, size) != 0) {
                        uint64_t seen = 0;
                        memcpy(&seen, values[i] + k * size, size);
                        FAIL("%s: element %zu of %zu is 0x%llx, expected 0x%llx", one->name, k, counts[c],
                             (unsigned long long)seen, (unsigned long long)one->result);
                    }
        }
    }
    for (int i = 0; i < 3; i++)
        EXPECT(pcclSuccess, pcclDestroyCommunicator(members[i]));
}

/* ---- The master's death ---- */

// With no grace, membership calls fail with their codes as soon as the master is gone; all else goes on.
static void masterDies(void) {
    testing_phase = "the master dies while members wait for each other";
    enum { groups = 3 };
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    pcclComm_t *members[groups][2], *newcomer = created(port, 0);
    for (int g = 0; g < groups; g++)
        makeGroup(members[g], 2, port, (uint32_t)g);
    Call calls[groups], connect;
    beginToConnect(&connect, newcomer, members[0], 2);
    // What they wait for never comes: whether they have begun to when the master goes does not matter.
    static const CallKind kinds[groups] = {updating, asking, optimising};
    for (int g = 0; g < groups; g++)
        begin(&calls[g], kinds[g], members[g][0]);
    EXPECT(pcclSuccess, pcclDestroyMaster(master));
    EXPECT(pcclUpdateTopologyFailed, end(&calls[0]));
    EXPECT(pcclInvalidUsage, end(&calls[1]));
    EXPECT(pcclTopologyOptimizationFailed, end(&calls[2]));
    EXPECT(pcclMasterConnectionFailed, end(&connect));
    checkAnswers(newcomer, notConnectedAnswers, 1);

    testing_phase = "after the master's death";
    Answers answers = {pcclInvalidUsage,
                       pcclSuccess,
                       pcclUpdateTopologyFailed,
                       pcclInvalidUsage,
                       pcclTopologyOptimizationFailed,
                       NOT_CALLED,
                       NOT_CALLED,
                       NOT_CALLED};
    for (int g = 0; g < groups; g++) {
        for (int turn = 0; turn < 2; turn++) {
            for (int i = 0; i < 2; i++)
                checkAnswers(members[g][i], answers, 1);
            checkThatAllReduce(members[g], 2, 1);
            static uint64_t values[2][VALUES];
            Call reductions[2];
            for (int i = 0; i < 2; i++)
                beginReduction(&reductions[i], multiple, members[g][i], reduction(1, VALUES, pcclUint64, pcclMax),
                               values[i]);
            for (int i = 0; i < 2; i++)
                EXPECT(pcclSuccess, end(&reductions[i]));
            CHECK(groupSize(members[g][0]) == 2 && groupSize(members[g][1]) == 2);
        }
    }
    EXPECT(pcclMasterConnectionFailed, pcclConnect(newcomer));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(newcomer));
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < 2; i++)
            EXPECT(pcclSuccess, pcclDestroyCommunicator(members[g][i]));
}

/* ---- Standard output ---- */

// A life with successes and failures, and everything in the log.
static void talkativeLife(void) {
    CHECK(setenv("PCCL_LOG_LEVEL", "TRACE", 1) == 0);
    EXPECT(pcclSuccess, pcclInit());
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    EXPECT(pcclInvalidUsage, pcclRunMaster(master));
    pcclComm_t *members[2], *lost = created(freePort(), 0);
    EXPECT(pcclMasterConnectionFailed, pcclConnect(lost));
    makeGroup(members, 2, port, 0);
    checkThatAllReduce(members, 2, 1);
    together(optimising, members, 2);
    EXPECT(pcclInvalidArgument, pcclAllReduce(NULL, NULL, NULL, members[0], NULL));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[1]));
    EXPECT(pcclSuccess, pcclUpdateTopology(members[0]));
    checkAnswers(members[0], aloneAnswers, 1);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(members[0]));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(lost));
    stopMaster(master);
}

// In a child, before this process has threads: what it writes to standard output comes here, and is nothing.
static void nothingGoesToStandardOutput(void) {
    testing_phase = "nothing goes to standard output";
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        startWatchdog();
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        talkativeLife();
        exit(0);
    }
    CHECK(child > 0);
    close(ends[1]);
    char text[1000];
    size_t length = 0;
    ssize_t count;
    while (length < sizeof(text) - 1 && (count = read(ends[0], text + length, sizeof(text) - 1 - length)) > 0)
        length += (size_t)count;
    text[length] = 0;
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    if (length > 0)
        FAIL("it said: %s", text);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
    startWatchdog();
    alarm(2 * WATCHDOG_SECONDS);
    nothingGoesToStandardOutput();
    CHECK(setenv("PCCL_TIMEOUT", "2", 1) == 0 && setenv("PCCL_MASTER_GRACE", "0", 1) == 0);
    CHECK(setenv("PCCL_LOG_LEVEL", "ERROR", 0) == 0);
    nullBeforeInit();
    EXPECT(pcclSuccess, pcclInit());
    int attempt = 0;
    while (!awaitAMasterThatServes())
        if (++attempt == 5)
            FAIL("the port of a master that has ended is not free");
    masterOverIPv6();
    notConnected();
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    newcomerThatWaits(port);
    whileOneWaits(port, updating, "one thread waits at a join point, and others call");
    whileOneWaits(port, asking, "one thread waits for an answer whether peers are pending, and others call");
    whileOneWaits(port, optimising, "one thread waits for others to optimise the topology, and others call");
    whileAnOperationIsInFlight(port);
    trafficOfSeveral(port);
    waitersOfALostOperation(port);
    differentCalls(port);
    arithmeticOfThree(port);
    stopMaster(master);
    masterDies();
    printf("contract: every result as documented\n");
    return 0;
}
