// DiLoCo of parameters in the memory of a CUDA device, with a driver that stands in for a real one (Tests/FakeCUDA):
// two peers, of which none, one or both have a device, hold the same after the same steps, bit for bit, in every mode
// and with parameters of every type; what cannot be is refused, and a device that fails ends the step and nothing else.
//
// device_diloco LIBCUDA: with this driver.
#define _GNU_SOURCE
#include "fake_device.h"

#include <math.h>

enum { PEERS = 2, TENSORS = 4 };

// Of each type, odd counts, so that those behind the first one are not where sixteen bytes can be loaded at once.
static const pcclDataType_t types[TENSORS] = {pcclFloat, pcclFloat16, pcclBFloat16, pcclDouble};
static const size_t widths[TENSORS] = {4, 2, 2, 8};
static const char *const names[TENSORS] = {"float", "half", "brain", "double"};
static size_t counts[TENSORS] = {3001, 517, 259, 77};

enum { MOST_BYTES = 5 << 20 };

typedef struct Model {
    bool isOnDevice[TENSORS];
    void *places[TENSORS];
    pcclDiLoCoTensor_t tensors[TENSORS];
    uint8_t *room; // For what is read of a tensor. (Threads of the library have too little room for much of their own.)
} Model;

static void readTensor(const Model *model, int t, void *to) {
    if (model->isOnDevice[t])
        deviceRead(to, model->places[t], counts[t] * widths[t]);
    else
        memcpy(to, model->places[t], counts[t] * widths[t]);
}

static void writeTensor(Model *model, int t, const void *from) {
    if (model->isOnDevice[t])
        deviceWrite(model->places[t], from, counts[t] * widths[t]);
    else
        memcpy(model->places[t], from, counts[t] * widths[t]);
}

// Numbers between a half and two, or their negatives.
static uint64_t firstBits(int t, size_t i) {
    uint64_t noise = (i + 1) * 0x9e3779b97f4a7c15u * (uint64_t)(t + 1);
    switch (types[t]) {
    case pcclFloat:
        return ((noise >> 32 & 0x80000000u) | 0x3f000000u) + (noise >> 40 & 0xffffffu);
    case pcclFloat16:
        return ((noise >> 48 & 0x8000u) | 0x3800u) + (noise >> 53 & 0x7ffu);
    case pcclBFloat16:
        return ((noise >> 48 & 0x8000u) | 0x3f00u) + (noise >> 56 & 0xffu);
    default:
        return ((noise & 0x8000000000000000u) | 0x3fe0000000000000u) + (noise >> 11 & 0x1fffffffffffffu);
    }
}

static void makeModel(Model *model, unsigned onDevice) {
    uint8_t *room = model->room = malloc(MOST_BYTES);
    for (int t = 0; t < TENSORS; t++) {
        size_t bytes = counts[t] * widths[t];
        model->isOnDevice[t] = onDevice >> t & 1;
        model->places[t] = model->isOnDevice[t] ? deviceAlloc(bytes) : malloc(bytes);
        for (size_t i = 0; i < counts[t]; i++) {
            uint64_t bits = firstBits(t, i);
            memcpy(room + i * widths[t], &bits, widths[t]);
        }
        writeTensor(model, t, room);
        model->tensors[t] = (pcclDiLoCoTensor_t){names[t], model->places[t], counts[t], types[t], 0};
    }
}

static void freeModel(Model *model) {
    free(model->room);
    for (int t = 0; t < TENSORS; t++) {
        if (model->isOnDevice[t])
            deviceFree(model->places[t]);
        else
            free(model->places[t]);
    }
}

// An inner step: some of the bits behind the first ones turn over, others at each peer.
static void train(Model *model, int index, int step) {
    uint8_t *room = model->room;
    for (int t = 0; t < TENSORS; t++) {
        readTensor(model, t, room);
        int shift = widths[t] == 2 ? 0 : widths[t] == 4 ? 12 : 40;
        for (size_t i = 0; i < counts[t]; i++) {
            uint64_t noise = (i * 31 + (size_t)step) * 0xbf58476d1ce4e5b9u * (uint64_t)(index + 1), bits = 0;
            memcpy(&bits, room + i * widths[t], widths[t]);
            bits ^= (noise >> 40 & 15) << shift;
            memcpy(room + i * widths[t], &bits, widths[t]);
        }
        writeTensor(model, t, room);
    }
}

// A parameter becomes what is no number, with bits that no arithmetic gives.
static void spoil(Model *model, uint32_t bits) {
    uint8_t *room = model->room;
    readTensor(model, 0, room);
    memcpy(room + 4 * 5, &bits, 4);
    writeTensor(model, 0, room);
}

// ---- The same run on the host and on devices ----------------------------------------------------------

typedef struct Scenario {
    const char *name;
    pcclDiLoCoOptions_t options;
    int steps;
    float weights[PEERS];
    uint32_t spoilt; // What a parameter of peer 1 becomes after the fourth step; 0: nothing.
} Scenario;

// What a peer has at the end.
typedef struct Outcome {
    uint8_t *tensors[TENSORS];
    char hash[36];
    size_t rounds;
} Outcome;

typedef struct Peer {
    int index;
    uint16_t port;
    const Scenario *scenario;
    unsigned onDevice; // A bit for each tensor.
    Outcome outcome;
} Peer;

static pcclComm_t *makeCommunicator(uint16_t port) {
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    return communicator;
}

static void *runPeer(void *argument) {
    Peer *peer = argument;
    const Scenario *scenario = peer->scenario;
    Model model;
    makeModel(&model, peer->onDevice);
    pcclComm_t *communicator = makeCommunicator(peer->port);
    pcclDiLoCo_t *diloco = NULL;
    EXPECT(pcclSuccess, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &scenario->options, &diloco));
    EXPECT(pcclSuccess, pcclDiLoCoBegin(diloco));
    for (int step = 1; step <= scenario->steps; step++) {
        train(&model, peer->index, step);
        if (peer->index == 1 && step == 4 && scenario->spoilt != 0)
            spoil(&model, scenario->spoilt);
        size_t count = 0;
        EXPECT(pcclSuccess, pcclDiLoCoStep(diloco, scenario->weights[peer->index], NULL, 0, &count));
        peer->outcome.rounds += count;
    }
    // Before what is on its way is taken in, and the outer parameters replace all others.
    for (int t = 0; t < TENSORS; t++) {
        peer->outcome.tensors[t] = malloc(2 * counts[t] * widths[t]);
        readTensor(&model, t, peer->outcome.tensors[t]);
    }
    size_t count = 0;
    EXPECT(pcclSuccess, pcclDiLoCoEnd(diloco, NULL, 0, &count));
    peer->outcome.rounds += count;
    for (int t = 0; t < TENSORS; t++)
        readTensor(&model, t, peer->outcome.tensors[t] + counts[t] * widths[t]);
    pcclDiLoCoInfo_t info;
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &info));
    memcpy(peer->outcome.hash, info.parameters_hash, sizeof(info.parameters_hash));
    EXPECT(pcclSuccess, pcclDiLoCoDestroy(diloco));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    freeModel(&model);
    return NULL;
}

static void runBoth(const Scenario *scenario, const unsigned onDevice[PEERS], Outcome outcomes[PEERS]) {
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    Peer peers[PEERS];
    pthread_t threads[PEERS];
    for (int i = 0; i < PEERS; i++) {
        memset(&peers[i], 0, sizeof(peers[i]));
        peers[i] = (Peer){.index = i, .port = port, .scenario = scenario, .onDevice = onDevice[i]};
        CHECK(pthread_create(&threads[i], NULL, runPeer, &peers[i]) == 0);
    }
    for (int i = 0; i < PEERS; i++) {
        pthread_join(threads[i], NULL);
        outcomes[i] = peers[i].outcome;
    }
    stopMaster(master);
    CHECK(strcmp(outcomes[0].hash, outcomes[1].hash) == 0);
}

static void freeOutcome(Outcome *outcome) {
    for (int t = 0; t < TENSORS; t++)
        free(outcome->tensors[t]);
}

static void compareRuns(const Scenario *scenario, const unsigned (*placements)[PEERS], int count) {
    static char phase[80];
    Outcome expected[PEERS], found[PEERS];
    snprintf(phase, sizeof(phase), "%s, on the host", scenario->name);
    testing_phase = phase;
    runBoth(scenario, (const unsigned[PEERS]){0, 0}, expected);
    CHECK(expected[0].rounds > 1);
    // Something was learnt, or all that is alike would be what they began with.
    uint64_t first = firstBits(0, 7);
    CHECK(memcmp(expected[0].tensors[0] + (counts[0] + 7) * 4, &first, 4) != 0);
    for (int p = 0; p < count; p++) {
        snprintf(phase, sizeof(phase), "%s, on devices %#x %#x", scenario->name, placements[p][0], placements[p][1]);
        runBoth(scenario, placements[p], found);
        CHECK(strcmp(found[0].hash, expected[0].hash) == 0);
        for (int i = 0; i < PEERS; i++) {
            CHECK(found[i].rounds == expected[i].rounds);
            for (int t = 0; t < TENSORS; t++)
                CHECK(memcmp(found[i].tensors[t], expected[i].tensors[t], 2 * counts[t] * widths[t]) == 0);
            freeOutcome(&found[i]);
        }
    }
    for (int i = 0; i < PEERS; i++)
        freeOutcome(&expected[i]);
}

static pcclDiLoCoOptions_t optionsFor(pcclDiLoCoMode_t mode, uint32_t syncEvery) {
    pcclDiLoCoOptions_t options;
    memset(&options, 0, sizeof(options));
    options.struct_size = sizeof(options);
    options.mode = mode;
    options.sync_every = syncEvery;
    return options;
}

static void checkModes(void) {
    enum { ALL = 15, FIRST_HALF = 1 };
    static const unsigned one[][PEERS] = {{ALL, 0}}, both[][PEERS] = {{ALL, 0}, {ALL, ALL}};
    Scenario plain = {"synchronous", optionsFor(pcclDiLoCoSynchronous, 2), 6, {1, 1}, 0};
    compareRuns(&plain, both, 2);

    Scenario coded = {
        "synchronous, coded, with a limit", optionsFor(pcclDiLoCoSynchronous, 2), 6, {1, 0.5f}, 0x7f800000};
    coded.options.rule = pcclOuterMomentum;
    coded.options.momentum_limit = 0.01f;
    coded.options.codec = pcclCodecE3M0;
    coded.options.error_feedback = 1;
    compareRuns(&coded, one, 1);

    Scenario delayed = {"delayed", optionsFor(pcclDiLoCoDelayed, 2), 8, {1, 0.5f}, 0};
    delayed.options.staleness_penalty = 0.5f;
    compareRuns(&delayed, both, 2);

    // One fragment of the two is on the device, in the last run.
    static const unsigned parts[][PEERS] = {{ALL, 0}, {ALL, ALL}, {FIRST_HALF, 0}};
    Scenario streaming = {"streaming", optionsFor(pcclDiLoCoStreaming, 4), 12, {1, 1}, 0xffabcdef};
    streaming.options.fragments = 2;
    streaming.options.overlap = 1;
    streaming.options.mixing = 0.25f;
    compareRuns(&streaming, parts, 3);

    Scenario average = {"streaming, the average", optionsFor(pcclDiLoCoStreaming, 3), 9, {1, 2}, 0};
    average.options.fragments = 3;
    average.options.overlap = 2;
    average.options.rule = pcclOuterDescent;
    compareRuns(&average, one, 1);

    // Sums of squares of several pieces.
    size_t usual = counts[0];
    counts[0] = (1 << 20) + 4099;
    Scenario large = {"delayed, of a million", optionsFor(pcclDiLoCoDelayed, 1), 2, {1, 1}, 0};
    large.options.staleness_penalty = 1;
    large.options.momentum_limit = 0.5f;
    compareRuns(&large, one, 1);
    counts[0] = usual;
}

// ---- What is refused -----------------------------------------------------------------------------------

static void checkRefusals(void) {
    testing_phase = "what is refused";
    pcclComm_t *communicator = makeCommunicator(freePort());
    pcclDiLoCoOptions_t options = optionsFor(pcclDiLoCoSynchronous, 1);
    pcclDiLoCo_t *diloco = NULL;
    Model model;
    makeModel(&model, 15 & ~4u);
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
    freeModel(&model);
    makeModel(&model, 15);
    model.tensors[1].data = (char *)model.places[1] + 1;
    model.tensors[1].count--;
    EXPECT(pcclInvalidArgument, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
    model.tensors[1].data = model.places[1];
    // No memory for each of what is held there; and what fills it.
    const char *const failing[] = {"cuMemAlloc_v2", "cuLaunchKernel", "cuStreamSynchronize", "cuPointerGetAttribute"};
    for (int f = 0; f < 4; f++)
        for (int n = 1; n <= 4; n++) {
            deviceFail(failing[f], n, 2);
            EXPECT(pcclInternalError, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
            deviceRecover();
        }
    CHECK(diloco == NULL);
    freeModel(&model);
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
}

// ---- What is held, in files ---------------------------------------------------------------------------

static void checkState(void) {
    testing_phase = "what is held";
    pcclComm_t *communicator = makeCommunicator(freePort());
    pcclDiLoCoOptions_t options = optionsFor(pcclDiLoCoSynchronous, 1);
    pcclDiLoCo_t *diloco = NULL;
    Model model;
    makeModel(&model, 15);
    EXPECT(pcclSuccess, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
    pcclSharedState_t state;
    EXPECT(pcclSuccess, pcclDiLoCoGetSharedState(diloco, &state));
    CHECK(state.count == 2 * TENSORS + 1);
    float outer = 0, momentum = 1;
    uint64_t progress[3] = {1, 1, 1};
    for (size_t i = 0; i < state.count; i++) {
        bool isCount = strcmp(state.infos[i].name, "diloco/progress") == 0;
        if (isCount)
            EXPECT(pcclSuccess, pcclReadTensor(&state.infos[i], progress));
        CHECK(state.infos[i].device_type == (isCount ? pcclDeviceCpu : pcclDeviceCuda));
        if (strcmp(state.infos[i].name, "outer/float") == 0) {
            float *read = malloc(counts[0] * sizeof(float)), *whole = malloc(counts[0] * sizeof(float));
            deviceRead(whole, state.infos[i].data, counts[0] * sizeof(float));
            EXPECT(pcclSuccess, pcclReadTensor(&state.infos[i], read));
            CHECK(memcmp(read, whole, counts[0] * sizeof(float)) == 0);
            outer = read[0];
            read[1] += 1;
            EXPECT(pcclSuccess, pcclWriteTensor(&state.infos[i], read));
            deviceRead(whole, state.infos[i].data, counts[0] * sizeof(float));
            CHECK(memcmp(read, whole, counts[0] * sizeof(float)) == 0);
            EXPECT(pcclInvalidArgument, pcclReadTensor(&state.infos[i], NULL));
            EXPECT(pcclInvalidArgument, pcclWriteTensor(NULL, read));
            deviceFail("cuMemcpyDtoHAsync_v2", 1, 2);
            EXPECT(pcclInternalError, pcclReadTensor(&state.infos[i], read));
            deviceRecover();
            free(read);
            free(whole);
        }
        if (strcmp(state.infos[i].name, "momentum/float") == 0)
            deviceRead(&momentum, state.infos[i].data, sizeof(momentum));
    }
    float first;
    deviceRead(&first, model.places[0], sizeof(first));
    CHECK(outer == first && momentum == 0 && progress[0] == 0 && progress[2] == 0);

    char folder[] = "/tmp/pccl-device-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    pcclDiLoCoInfo_t before, after;
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &before));
    pcclSaveOptions_t saving = {0};
    saving.struct_size = sizeof(saving);
    saving.foreground = 1;
    EXPECT(pcclSuccess, pcclSaveSharedState(&state, folder, &saving, NULL));
    // Something else is there when it is read.
    float other = 17;
    for (size_t i = 0; i < state.count; i++)
        if (strncmp(state.infos[i].name, "outer/", 6) == 0)
            deviceWrite(state.infos[i].data, &other, sizeof(other));
    deviceWrite(model.places[0], &other, sizeof(other));
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &after));
    CHECK(strcmp(before.parameters_hash, after.parameters_hash) != 0);
    EXPECT(pcclSuccess, pcclDiLoCoLoad(diloco, folder));
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &after));
    CHECK(strcmp(before.parameters_hash, after.parameters_hash) == 0);
    float again;
    deviceRead(&again, model.places[0], sizeof(again));
    CHECK(again == first);
    char file[80];
    snprintf(file, sizeof(file), "%s/snapshot-%020d.safetensors", folder, (int)state.revision);
    CHECK(unlink(file) == 0 && rmdir(folder) == 0);
    EXPECT(pcclSuccess, pcclDiLoCoDestroy(diloco));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    freeModel(&model);
}

// ---- A device that fails -------------------------------------------------------------------------------

static pthread_barrier_t bothPeers;

typedef struct Failure {
    const char *function;
    int call;         // From the beginning of the step on.
    bool isOfDevice;  // It is the outer arithmetic that fails, and nothing can be done with this DiLoCo.
    bool leavesModel; // Parameters are as they were.
} Failure;

typedef struct FailingPeer {
    int index;
    uint16_t port;
    const Failure *failure;
} FailingPeer;

static bool areAlike(const Model *a, const Model *b) {
    for (int t = 0; t < TENSORS; t++) {
        readTensor(a, t, a->room);
        readTensor(b, t, b->room);
        if (memcmp(a->room, b->room, counts[t] * widths[t]) != 0)
            return false;
    }
    return true;
}

static void copyModel(Model *to, const Model *from) {
    for (int t = 0; t < TENSORS; t++) {
        readTensor(from, t, from->room);
        writeTensor(to, t, from->room);
    }
}

static void failOnce(const FailingPeer *peer, Model *model, pcclDiLoCo_t *diloco) {
    const Failure *failure = peer->failure;
    Model before;
    makeModel(&before, 0);
    train(model, 0, 3);
    copyModel(&before, model);
    // Not one that stays, as those from 700 on do: the other peer is of the same process, and asks the same driver.
    deviceFail(failure->function, failure->call, 1);
    EXPECT(pcclInternalError, pcclDiLoCoStep(diloco, 1, NULL, 0, NULL));
    deviceRecover();
    CHECK(!failure->leavesModel || areAlike(model, &before));
    if (failure->isOfDevice) {
        copyModel(&before, model);
        EXPECT(pcclInvalidUsage, pcclDiLoCoStep(diloco, 1, NULL, 0, NULL));
        EXPECT(pcclSuccess, pcclDiLoCoEnd(diloco, NULL, 0, NULL));
        CHECK(areAlike(model, &before));
        EXPECT(pcclInvalidUsage, pcclDiLoCoBegin(diloco));
        EXPECT(pcclInvalidUsage, pcclDiLoCoRestore(diloco, 3));
    } else {
        EXPECT(pcclSuccess, pcclDiLoCoEnd(diloco, NULL, 0, NULL));
    }
    freeModel(&before);
}

static void *runFailing(void *argument) {
    const FailingPeer *peer = argument;
    pcclDiLoCoOptions_t options = optionsFor(pcclDiLoCoSynchronous, 1);
    options.minimum_peers = 1;
    Model model;
    makeModel(&model, peer->index == 0 ? 15 : 0);
    pcclComm_t *communicator = makeCommunicator(peer->port);
    pcclDiLoCo_t *diloco = NULL;
    EXPECT(pcclSuccess, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
    if (peer->index == 1)
        pthread_barrier_wait(&bothPeers);
    EXPECT(pcclSuccess, pcclDiLoCoBegin(diloco));
    if (peer->index == 0)
        pthread_barrier_wait(&bothPeers);
    // The first one makes rounds alone until the second one is there.
    pcclDiLoCoRound_t round;
    size_t count = 0;
    for (int step = 1; count == 0 || round.world_size < PEERS; step++) {
        train(&model, peer->index, step);
        EXPECT(pcclSuccess, pcclDiLoCoStep(diloco, 1, &round, 1, &count));
    }
    if (peer->index == 0) {
        failOnce(peer, &model, diloco);
        EXPECT(pcclSuccess, pcclDiLoCoDestroy(diloco));
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        // As a newcomer it has what the others have.
        communicator = makeCommunicator(peer->port);
        EXPECT(pcclSuccess, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
        EXPECT(pcclSuccess, pcclDiLoCoBegin(diloco));
    } else {
        bool wasAlone = false;
        for (int step = 1; !wasAlone || round.world_size < PEERS; step++) {
            EXPECT(pcclSuccess, pcclDiLoCoStep(diloco, 1, &round, 1, &count));
            wasAlone |= round.world_size == 1;
        }
    }
    if (peer->index == 0)
        EXPECT(pcclSuccess, pcclDiLoCoStep(diloco, 1, &round, 1, &count));
    CHECK(round.world_size == PEERS);
    pcclDiLoCoInfo_t info;
    EXPECT(pcclSuccess, pcclDiLoCoGetInfo(diloco, &info));
    static char hashes[PEERS][sizeof(info.parameters_hash)];
    memcpy(hashes[peer->index], info.parameters_hash, sizeof(info.parameters_hash));
    pthread_barrier_wait(&bothPeers);
    CHECK(strcmp(hashes[0], hashes[1]) == 0);
    pthread_barrier_wait(&bothPeers);
    EXPECT(pcclSuccess, pcclDiLoCoEnd(diloco, NULL, 0, NULL));
    EXPECT(pcclSuccess, pcclDiLoCoDestroy(diloco));
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    freeModel(&model);
    return NULL;
}

static void checkFailures(void) {
    // A round launches a kernel for each tensor, one that looks for what is no number, one that fills in the weight;
    // then two for the outer step, and one for each tensor.
    static const Failure failures[] = {{"cuLaunchKernel", 1, true, true},
                                       {"cuLaunchKernel", TENSORS, true, true},
                                       {"cuLaunchKernel", TENSORS + 2, true, true},
                                       {"cuLaunchKernel", TENSORS + 3, true, true},
                                       {"cuLaunchKernel", TENSORS + 4, true, true},
                                       {"cuLaunchKernel", TENSORS + 6, true, false},
                                       {"cuStreamSynchronize", 1, true, true},
                                       {"cuStreamSynchronize", 2, true, true},
                                       // The first one is of the sums of squares, the second one of the all-reduce.
                                       {"cuMemcpyDtoHAsync_v2", 1, true, true},
                                       {"cuMemcpyDtoHAsync_v2", 2, false, true},
                                       {"cuMemcpyHtoDAsync_v2", 1, false, true},
                                       {"cuMemcpyDtoHAsync_v2", 3, true, true}};
    pthread_barrier_init(&bothPeers, NULL, PEERS);
    for (size_t f = 0; f < sizeof(failures) / sizeof(failures[0]); f++) {
        static char phase[80];
        snprintf(phase, sizeof(phase), "%s fails, call %d of a step", failures[f].function, failures[f].call);
        testing_phase = phase;
        uint16_t port;
        pcclMasterInstance_t *master = startMaster(&port);
        FailingPeer peers[PEERS] = {{0, port, &failures[f]}, {1, port, &failures[f]}};
        pthread_t threads[PEERS];
        for (int i = 0; i < PEERS; i++)
            CHECK(pthread_create(&threads[i], NULL, runFailing, &peers[i]) == 0);
        for (int i = 0; i < PEERS; i++)
            pthread_join(threads[i], NULL);
        stopMaster(master);
    }
}

// Of its memory on the device: so many pieces. Those that it failed to get are counted with the others, alike each
// time.
static int heldByLibrary(void) { return deviceCalls("cuMemAlloc_v2") - deviceCalls("cuMemFree_v2"); }

int main(int argc, char **argv) {
    startWatchdog();
    CHECK(argc == 2);
    findDriver(argv[1]);
    EXPECT(pcclSuccess, pcclInit());
    if (getenv("FAKE_CUDA_NO_KERNELS") != NULL) {
        testing_phase = "a device that runs no kernels";
        pcclComm_t *communicator = makeCommunicator(freePort());
        pcclDiLoCoOptions_t options = optionsFor(pcclDiLoCoSynchronous, 1);
        pcclDiLoCo_t *diloco = NULL;
        Model model;
        makeModel(&model, 15);
        EXPECT(pcclInternalError, pcclDiLoCoCreate(communicator, model.tensors, TENSORS, &options, &diloco));
        freeModel(&model);
        EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
        return 0;
    }
    checkRefusals();
    checkState();
    int held = heldByLibrary();
    checkModes();
    checkFailures();
    testing_phase = "what is left";
    CHECK(heldByLibrary() == held);
    return 0;
}
