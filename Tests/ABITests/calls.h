// Calls on threads of their own, so that one thread can drive several peers: it begins what blocks, looks at what is
// promised meanwhile, and ends it. And what every function must answer in a state of its communicator.
#ifndef PCCL_ABI_CALLS_H
#define PCCL_ABI_CALLS_H

#include "testing.h"

#include <semaphore.h>

enum { VALUES = 1000 };

typedef enum CallKind { connecting, updating, asking, optimising, reducing, multiple, awaiting } CallKind;

typedef struct Call {
    CallKind kind;
    pcclComm_t *communicator;
    pthread_t thread;
    pcclResult_t result;
    bool isDone;
    // Posted when the call has ended, if it is there.
    sem_t *ended;
    // The answer of an asking call.
    bool pending;
    // Of reductions, in place; of those with retry there is one tensor.
    pcclReduceDescriptor_t descriptor;
    void *buffer;
    pcclReduceInfo_t info;
    pcclAsyncReduceOp_t handle;
    // What the attributes were when an awaiting call had returned.
    int attributes[4];
} Call;

static inline void lookAtAttributes(const pcclComm_t *communicator, int attributes[4]) {
    for (int i = 0; i < 4; i++)
        if (pcclGetAttribute(communicator, (pcclAttribute_t)(i + 1), &attributes[i]) != pcclSuccess)
            attributes[i] = -1;
}

static inline void *calls_run(void *argument) {
    Call *call = argument;
    pcclReduceOpDescriptor_t operation = {call->buffer, call->buffer, call->descriptor};
    switch (call->kind) {
    case connecting:
        call->result = pcclConnect(call->communicator);
        break;
    case updating:
        call->result = pcclUpdateTopology(call->communicator);
        break;
    case asking:
        call->result = pcclArePeersPending(call->communicator, &call->pending);
        break;
    case optimising:
        call->result = pcclOptimizeTopology(call->communicator);
        break;
    case reducing:
        call->result = pcclAllReduce(call->buffer, call->buffer, &call->descriptor, call->communicator, &call->info);
        break;
    case multiple:
        call->result = pcclAllReduceMultipleWithRetry(&operation, 1, call->communicator, &call->info, 1);
        break;
    case awaiting:
        call->result = pcclAwaitAsyncReduce(&call->handle, &call->info);
        lookAtAttributes(call->communicator, call->attributes);
        break;
    }
    __atomic_store_n(&call->isDone, true, __ATOMIC_SEQ_CST);
    if (call->ended != NULL)
        sem_post(call->ended);
    return NULL;
}

static inline bool isDone(const Call *call) { return __atomic_load_n(&call->isDone, __ATOMIC_SEQ_CST); }

static inline void beginCall(Call *call) { CHECK(pthread_create(&call->thread, NULL, calls_run, call) == 0); }

static inline void begin(Call *call, CallKind kind, pcclComm_t *communicator) {
    memset(call, 0, sizeof(*call));
    call->kind = kind;
    call->communicator = communicator;
    beginCall(call);
}

static inline void beginReduction(Call *call, CallKind kind, pcclComm_t *communicator,
                                  pcclReduceDescriptor_t descriptor, void *buffer) {
    memset(call, 0, sizeof(*call));
    call->kind = kind;
    call->communicator = communicator;
    call->descriptor = descriptor;
    call->buffer = buffer;
    beginCall(call);
}

static inline pcclResult_t end(Call *call) {
    CHECK(pthread_join(call->thread, NULL) == 0);
    return call->result;
}

/* ---- Peers ---- */

static inline pcclComm_t *created(uint16_t port, uint32_t group) {
    pcclCommCreateParams_t parameters = parametersFor(port);
    parameters.peer_group = group;
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    // The parameters are the caller's: nothing may look at them again.
    memset(&parameters, 0xFF, sizeof(parameters));
    return communicator;
}

enum { MOST_MEMBERS = 8 };

// The same joint call by all of them; asking gives all the same answer, which is returned.
static inline bool together(CallKind kind, pcclComm_t *const members[], int count) {
    Call calls[MOST_MEMBERS];
    CHECK(count >= 1 && count <= MOST_MEMBERS);
    memset(calls, 0, sizeof(calls));
    for (int i = 0; i < count; i++)
        begin(&calls[i], kind, members[i]);
    for (int i = 0; i < count; i++)
        EXPECT(pcclSuccess, end(&calls[i]));
    for (int i = 1; i < count; i++)
        CHECK(calls[i].pending == calls[0].pending);
    return calls[0].pending;
}

// Returns once the master knows of the newcomer, who waits in pcclConnect from then on.
static inline void beginToConnect(Call *call, pcclComm_t *newcomer, pcclComm_t *const members[], int count) {
    begin(call, connecting, newcomer);
    while (!together(asking, members, count))
        CHECK(!isDone(call));
}

// members has room for the newcomer, which is behind the others: it comes in.
static inline void admit(pcclComm_t *const members[], int count) {
    if (count == 0) {
        EXPECT(pcclSuccess, pcclConnect(members[0]));
        return;
    }
    Call call;
    beginToConnect(&call, members[count], members, count);
    together(updating, members, count);
    EXPECT(pcclSuccess, end(&call));
    for (int i = 0; i <= count; i++)
        CHECK(groupSize(members[i]) == count + 1);
}

static inline void makeGroup(pcclComm_t *members[], int count, uint16_t port, uint32_t group) {
    for (int i = 0; i < count; i++) {
        members[i] = created(port, group);
        admit(members, i);
    }
}

// A sum that tells whose contributions are in it.
static inline void checkThatAllReduce(pcclComm_t *const members[], int count, uint64_t tag) {
    static uint64_t values[MOST_MEMBERS][VALUES];
    Call calls[MOST_MEMBERS];
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < VALUES; k++)
            values[i][k] = ((uint64_t)k << 8) + (UINT64_C(1) << i);
        beginReduction(&calls[i], reducing, members[i], reduction(tag, VALUES, pcclUint64, pcclSum), values[i]);
    }
    for (int i = 0; i < count; i++) {
        EXPECT(pcclSuccess, end(&calls[i]));
        CHECK(calls[i].info.local_world_size == (uint32_t)count);
        for (int k = 0; k < VALUES; k++)
            CHECK(values[i][k] == (uint64_t)count * ((uint64_t)k << 8) + (UINT64_C(1) << count) - 1);
    }
}

/* ---- What every function answers in a state ---- */

// Results by function; NOT_CALLED where the state does not say, or the call would wait for others.
enum { NOT_CALLED = -1 };

typedef struct Answers {
    int connect;
    int attribute;
    int update;
    int pending;
    int optimise;
    int allReduce;
    int launch;
    int multiple;
} Answers;

#define ANSWER(expected, call)                                                                                         \
    do {                                                                                                               \
        if ((expected) != NOT_CALLED)                                                                                  \
            EXPECT((pcclResult_t)(expected), call);                                                                    \
    } while (0)

// The reductions have this tag. Where they fail, buffers are whole, and nothing that a function gives is written.
static inline void checkAnswers(pcclComm_t *communicator, Answers answers, uint64_t tag) {
    int number = 77;
    bool pending = true;
    float send[4] = {1, 2, 3, 4}, receive[4] = {5, 6, 7, 8};
    pcclReduceDescriptor_t descriptor = reduction(tag, 4, pcclFloat, pcclSum);
    pcclReduceOpDescriptor_t operation = {send, receive, descriptor}, inPlace = {send, send, descriptor};
    pcclReduceInfo_t info = {70, 71, 72};
    pcclAsyncReduceOp_t handle = {NULL, 73};

    ANSWER(answers.connect, pcclConnect(communicator));
    for (int which = PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE; which <= PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE; which++) {
        number = 77;
        ANSWER(answers.attribute, pcclGetAttribute(communicator, (pcclAttribute_t)which, &number));
        CHECK(answers.attribute == pcclSuccess ? number >= 1 && number != 77 : number == 77);
    }
    static const int unknown[] = {0, 5, -1, INT32_MAX};
    for (int i = 0; i < 4; i++)
        EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, (pcclAttribute_t)unknown[i], &number));
    EXPECT(pcclInvalidArgument, pcclGetAttribute(communicator, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, NULL));
    EXPECT(pcclInvalidArgument, pcclArePeersPending(communicator, NULL));

    ANSWER(answers.update, pcclUpdateTopology(communicator));
    ANSWER(answers.pending, pcclArePeersPending(communicator, &pending));
    CHECK(answers.pending == NOT_CALLED || pending == (answers.pending != pcclSuccess));
    ANSWER(answers.optimise, pcclOptimizeTopology(communicator));

    ANSWER(answers.allReduce, pcclAllReduce(send, receive, &descriptor, communicator, &info));
    ANSWER(answers.allReduce, pcclAllReduce(send, send, &descriptor, communicator, NULL));
    ANSWER(answers.launch, pcclAllReduceAsync(send, receive, &descriptor, communicator, &handle));
    ANSWER(answers.multiple, pcclAllReduceMultipleWithRetry(&operation, 1, communicator, &info, 1));
    ANSWER(answers.multiple, pcclAllReduceMultipleWithRetry(&inPlace, 1, communicator, NULL, 3));
    CHECK(info.local_world_size == 70 && info.tx_bytes == 71 && info.rx_bytes == 72);
    CHECK(handle.comm == NULL && handle.tag == 73);
    for (int i = 0; i < 4; i++)
        CHECK(send[i] == (float)(1 + i) && receive[i] == (float)(5 + i));

    pcclAsyncReduceOp_t neverLaunched = {communicator, tag + 1000000};
    EXPECT(pcclInvalidArgument, pcclAwaitAsyncReduce(&neverLaunched, &info));
    CHECK(info.local_world_size == 70);
}

static const Answers notConnectedAnswers = {NOT_CALLED,       pcclInvalidUsage, pcclInvalidUsage, pcclInvalidUsage,
                                            pcclInvalidUsage, pcclInvalidUsage, pcclInvalidUsage, pcclInvalidUsage};
static const Answers aloneAnswers = {pcclInvalidUsage, pcclSuccess,     pcclSuccess,     pcclSuccess,
                                     pcclInvalidUsage, pcclTooFewPeers, pcclTooFewPeers, pcclTooFewPeers};

#endif
