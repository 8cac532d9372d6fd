// Three processes with buffers on one device, of which one after the other is killed, by a signal at any moment or by
// its driver in the midst of a call, or loses its context there and ends: whoever is left has the right result or the
// same error as the others, its input whole, and no more memory and descriptors than before; and a new one takes the
// place.
//
//     kills [KILLS [SEED]]     so many (50), with this seed (1)
//
// On the driver that stands in for one, PCCL_DEVICE_ROUND makes rounds small, and FAKE_CUDA_JITTER lets them overlap.

#define _GNU_SOURCE
#include "../ABITests/testing.h"
#include "device.h"

#include <errno.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { MEMBERS = 3, OPERATIONS = 6, KEPT_LOOPS = 64, MOST_MAPPINGS = 40, MOST_DESCRIPTORS = 64 };

// A loop of a member is these, one after the other.
static const size_t counts[OPERATIONS] = {77003, 1025, 12800, 30011, 250007, 16411};
enum { IN_PLACE, APART, SCATTERED, GATHERED, BROADCAST, CODED };

typedef struct report {
    int32_t slot;
    uint32_t loop;
    uint8_t operation, result, world, unused;
    int32_t process;
    // When its call returned.
    double time;
} report;

// ---- A member ------------------------------------------------------------------------------------------

static int slot, reports;
static float *host, *got;
static pccl_cuda_pointer device, other;

static float value(size_t i) { return (float)(1 << slot) * (float)(1 + i % 13); }

static void tell(uint32_t loop, int operation, pcclResult_t result, uint32_t world) {
    report said = {slot, loop, (uint8_t)operation, (uint8_t)result, (uint8_t)world, 0, getpid(), seconds()};
    CHECK(write(reports, &said, sizeof said) == (ssize_t)sizeof said);
}

// Whoever waits to be let in is: all members call it together.
static void admit(pcclComm_t *communicator) {
    bool arePending = false;
    pcclResult_t result = pcclArePeersPending(communicator, &arePending);
    CHECK(result == pcclSuccess || result == pcclTooFewPeers);
    if (result == pcclSuccess && arePending)
        EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    else
        usleep(1000);
}

// The same members' contributions in all elements, this one's among them.
static void check_sum(const float *values, size_t count, uint32_t world) {
    float members = values[0];
    CHECK(members == (float)(int)members && (((int)members >> slot) & 1) == 1);
    CHECK((uint32_t)__builtin_popcount((unsigned)members) == world);
    for (size_t i = 0; i < count; i++)
        CHECK(values[i] == members * (float)(1 + i % 13));
}

static void *at(pccl_cuda_pointer place, size_t floats) { return (void *)(uintptr_t)(place + floats * sizeof(float)); }

// Only this one's: the others are told of a loss.
static void end_if_device_fails(pcclResult_t result) {
    if (result == pcclInternalError && getenv("FAKE_CUDA_FAIL"))
        exit(ERROR_STATUS);
}

// False if a member was lost.
static bool operate(const pcclComm_t *communicator, uint32_t loop, int operation) {
    const size_t count = counts[operation], bytes = count * sizeof(float);
    uint32_t rank = 0, world = MEMBERS;
    pcclReduceDescriptor_t reduction_of = reduction(10 + (uint64_t)operation, count, pcclFloat, pcclSum);
    pcclCollectiveDescriptor_t of;
    memset(&of, 0, sizeof of);
    of.struct_size = sizeof of;
    of.tag = 20 + (uint64_t)operation;
    of.datatype = pcclFloat;
    of.op = pcclSum;
    // Of a loss that others know of already this one is told then.
    of.world_size = MEMBERS;
    of.count = count / MEMBERS;
    pcclReduceInfo_t info = {0};
    pcclReduceOptions_t options = {0};
    options.struct_size = sizeof options;
    options.on_loss = pcclOnLossResumeWhole;
    pcclResult_t result;
    EXPECT(pcclSuccess, pcclGetRank(communicator, &rank, NULL));
    for (size_t i = 0; i < count; i++)
        host[i] = value(i);
    write_device(device, host, bytes);
    switch (operation) {
    case IN_PLACE:
        result = pcclAllReduce(at(device, 0), at(device, 0), &reduction_of, communicator, &info);
        break;
    case APART:
        // Survivors go on, with the contributions of the same members in all elements.
        result = pcclAllReduceWithOptions(at(device, 0), at(other, 0), &reduction_of, communicator, &options, &info,
                                          NULL, 0, NULL);
        break;
    case SCATTERED:
        result = pcclReduceScatter(at(device, 0), at(device, rank * of.count), &of, communicator, NULL);
        break;
    case GATHERED:
        result = pcclAllGather(at(device, 0), at(other, 0), &of, communicator, NULL);
        break;
    case CODED:
        // Sums of these are the same in 16 bits.
        options.codec = pcclCodecBFloat16;
        result = pcclAllReduceWithOptions(at(device, 0), at(device, 0), &reduction_of, communicator, &options, &info,
                                          NULL, 0, NULL);
        break;
    default:
        of.count = count;
        of.root = loop % MEMBERS;
        result = pcclBroadcast(at(device, 0), &of, communicator, NULL);
    }
    if (result == pcclTooFewPeers)
        return false;
    end_if_device_fails(result);
    CHECK(result == pcclSuccess || result == pcclRankConnectionLost);
    if (result == pcclSuccess && (operation <= APART || operation == CODED))
        world = info.local_world_size;
    tell(loop, operation, result, result == pcclSuccess ? world : 0);
    read_device(got, operation == APART || (operation == GATHERED && result == pcclSuccess) ? other : device, bytes);
    if (result != pcclSuccess) {
        read_device(got, device, bytes);
        // What a broadcast receives is no input.
        CHECK(operation == BROADCAST || memcmp(got, host, bytes) == 0);
        return false;
    }
    switch (operation) {
    case IN_PLACE:
    case APART:
    case CODED:
        check_sum(got, count, world);
        break;
    case SCATTERED:
        for (size_t i = 0; i < of.count * MEMBERS; i++) {
            float factor = i / of.count == rank ? (float)((1 << MEMBERS) - 1) : (float)(1 << slot);
            CHECK(got[i] == factor * (float)(1 + i % 13));
        }
        break;
    case GATHERED:
        for (size_t block = 0; block < MEMBERS; block++)
            for (size_t i = 0; i < of.count; i++)
                CHECK(got[block * of.count + i] == got[block * of.count] * (float)(1 + i % 13));
        CHECK(got[rank * of.count] == (float)(1 << slot));
        break;
    default:
        CHECK(got[0] == 1 || got[0] == 2 || got[0] == 4);
        for (size_t i = 0; i < count; i++)
            CHECK(got[i] == got[0] * (float)(1 + i % 13));
    }
    return world == MEMBERS;
}

// Of memory that processes share, in this one.
static int mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    while (maps && fgets(line, sizeof line, maps))
        count += strstr(line, "fake-cuda-shared") != NULL;
    if (maps)
        fclose(maps);
    return count;
}

static int be_member(uint16_t port) {
    start_device();
    size_t most = 0;
    for (int i = 0; i < OPERATIONS; i++)
        most = counts[i] > most ? counts[i] : most;
    host = malloc(most * sizeof(float));
    got = malloc(most * sizeof(float));
    device = device_memory(most * sizeof(float));
    other = device_memory(most * sizeof(float));
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    // A number that none has had, though all who knew the last one be dead.
    for (uint32_t loop = (uint32_t)(seconds() * 1000);;) {
        // All begin the same loop, and see the same number of members: who asked the attributes instead might know of a
        // loss before the others do, and wait in another call than they.
        testing_phase = "beginning a loop";
        pcclReduceDescriptor_t latest = reduction(1, 1, pcclUint32, pcclMax);
        pcclReduceInfo_t info = {0};
        pcclResult_t result = pcclAllReduce(&loop, &loop, &latest, communicator, &info);
        end_if_device_fails(result);
        CHECK(result == pcclSuccess || result == pcclRankConnectionLost || result == pcclTooFewPeers);
        if (result == pcclRankConnectionLost)
            continue;
        if (result == pcclTooFewPeers || info.local_world_size < MEMBERS) {
            admit(communicator);
            continue;
        }
        loop++;
        testing_phase = "operations";
        for (int operation = 0; operation < OPERATIONS; operation++)
            if (!operate(communicator, loop, operation))
                break;
        CHECK(mappings() <= MOST_MAPPINGS);
        CHECK(countEntries("/proc/self/fd") <= MOST_DESCRIPTORS);
    }
}

// ---- Who starts and kills them --------------------------------------------------------------------------

static pid_t members[MEMBERS];
static uint32_t wholeLoops[MEMBERS];
static struct {
    uint32_t loop;
    bool isKnown[OPERATIONS];
    report first[OPERATIONS];
    uint8_t result[OPERATIONS], world[OPERATIONS];
} outcomes[KEPT_LOOPS];
static bool mayFail[MEMBERS];
static int failures, successes, contexts_lost;

static unsigned pick(unsigned below) { return (unsigned)rand() % below; }

// `death`: where its driver kills it, or, with a code, fails.
static void start(int at_slot, uint16_t port, int pipe_end, const char *death) {
    const bool fails = death && strchr(death, ':') != strrchr(death, ':');
    fflush(stdout);
    mayFail[at_slot] = fails;
    pid_t child = fork();
    if (child != 0) {
        members[at_slot] = child;
        wholeLoops[at_slot] = 0;
        return;
    }
    // Nobody stays behind when the test fails.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char number[16], end[16], place[16];
    snprintf(number, sizeof number, "%d", port);
    snprintf(end, sizeof end, "%d", pipe_end);
    snprintf(place, sizeof place, "%d", at_slot);
    unsetenv("FAKE_CUDA_KILL");
    unsetenv("FAKE_CUDA_FAIL");
    if (death)
        setenv(fails ? "FAKE_CUDA_FAIL" : "FAKE_CUDA_KILL", death, 1);
    execl("/proc/self/exe", "kills", "member", number, place, end, (char *)NULL);
    _exit(127);
}

// Of an operation of a loop all say the same.
static void take(const report *said) {
    size_t place = said->loop % KEPT_LOOPS;
    if (outcomes[place].loop != said->loop) {
        // From one who is far behind: nothing is known of it any more.
        if (outcomes[place].loop > said->loop)
            return;
        memset(&outcomes[place], 0, sizeof outcomes[place]);
        outcomes[place].loop = said->loop;
    }
    int operation = said->operation;
    if (!outcomes[place].isKnown[operation]) {
        outcomes[place].isKnown[operation] = true;
        outcomes[place].first[operation] = *said;
        outcomes[place].result[operation] = said->result;
        outcomes[place].world[operation] = said->world;
        *(said->result == pcclSuccess ? &successes : &failures) += 1;
    } else if (outcomes[place].result[operation] != said->result || outcomes[place].world[operation] != said->world) {
        FAIL("operation %d of loop %u: %s with %d and %s with %d members, say processes %d at %.6f and %d at %.6f",
             operation, said->loop, resultName((pcclResult_t)outcomes[place].result[operation]),
             outcomes[place].world[operation], resultName((pcclResult_t)said->result), said->world,
             outcomes[place].first[operation].process, outcomes[place].first[operation].time, said->process,
             said->time);
    }
    if (operation == OPERATIONS - 1 && said->result == pcclSuccess)
        wholeLoops[said->slot]++;
}

// Until all have gone through so many loops with all members, a member has died by itself, or the time is over.
// The slot of who died, or -1.
static int watch(int pipe_end, uint32_t loops, double limit) {
    for (double end = seconds() + limit; seconds() < end;) {
        struct pollfd ready = {pipe_end, POLLIN, 0};
        if (poll(&ready, 1, 5) > 0) {
            report said[64];
            ssize_t bytes = read(pipe_end, said, sizeof said);
            CHECK(bytes > 0 && bytes % (ssize_t)sizeof said[0] == 0);
            for (ssize_t i = 0; i < bytes / (ssize_t)sizeof said[0]; i++)
                take(&said[i]);
        }
        int status;
        for (int i = 0; i < MEMBERS; i++)
            if (waitpid(members[i], &status, WNOHANG) == members[i]) {
                if (mayFail[i] && WIFEXITED(status) && WEXITSTATUS(status) == ERROR_STATUS)
                    contexts_lost++;
                else if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
                    FAIL("member %d ended with status %d", i, status);
                return i;
            }
        bool isReached = true;
        for (int i = 0; i < MEMBERS; i++)
            isReached = isReached && wholeLoops[i] >= loops;
        if (isReached)
            return -1;
    }
    return -2;
}

static void supervise(uint16_t port, int kills) {
    static const char *const functions[] = {
        "cuMemcpyDtoDAsync_v2",
        "cuLaunchKernel",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuMemHostRegister_v2",
        "cuMemCreate",
        "cuMemExportToShareableHandle",
        "cuMemImportFromShareableHandle",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemUnmap",
        "cuModuleLoadData",
        "cuCtxPushCurrent_v2",
    };
    int ends[2], by_driver = 0;
    CHECK(pipe(ends) == 0);
    for (int i = 0; i < MEMBERS; i++)
        start(i, port, ends[1], NULL);
    for (int done = 0; done < kills; done++) {
        testing_phase = "all together";
        for (int i = 0; i < MEMBERS; i++)
            wholeLoops[i] = 0;
        int dead = watch(ends[0], 1 + pick(3), 60);
        if (dead == -2)
            FAIL("after %d kills nothing goes on", done);
        if (dead < 0)
            dead = watch(ends[0], UINT32_MAX, pick(40) * 0.001);
        by_driver += dead >= 0;
        if (dead < 0) {
            dead = (int)pick(MEMBERS);
            kill(members[dead], SIGKILL);
            // Its driver may have been faster.
            CHECK(waitpid(members[dead], NULL, 0) == members[dead]);
        }
        // Of those who come half are killed by their driver, and a quarter loses its context.
        char death[64];
        const unsigned function = pick(sizeof functions / sizeof *functions), turn = pick(4);
        snprintf(death, sizeof death, turn == 0 ? "%s:%u:700" : "%s:%u", functions[function],
                 1 + pick(function < 5 ? 400 : 12));
        start(dead, port, ends[1], turn < 3 ? death : NULL);
    }
    testing_phase = "all together at the end";
    for (int i = 0; i < MEMBERS; i++)
        wholeLoops[i] = 0;
    for (int dead; (dead = watch(ends[0], 2, 60)) != -1;) {
        CHECK(dead >= 0);
        start(dead, port, ends[1], NULL);
    }
    for (int i = 0; i < MEMBERS; i++) {
        kill(members[i], SIGKILL);
        waitpid(members[i], NULL, 0);
    }
    printf("%d killed, %d of them in a call of the driver, and %d that lost their context; %d operations failed, %d "
           "succeeded, all as one\n",
           kills - contexts_lost, by_driver - contexts_lost, contexts_lost, failures, successes);
    CHECK(kills < 20 || failures > 0);
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("PCCL_LOG_LEVEL", "error", 0);
    EXPECT(pcclSuccess, pcclInit());
    if (count > 4 && strcmp(arguments[1], "member") == 0) {
        slot = atoi(arguments[3]);
        reports = atoi(arguments[4]);
        return be_member((uint16_t)atoi(arguments[2]));
    }
    srand(count > 2 ? (unsigned)atoi(arguments[2]) : 1);
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    supervise(port, count > 1 ? atoi(arguments[1]) : 50);
    stopMaster(master);
    printf("ok kills\n");
    return 0;
}
