// Two processes, or some more, with buffers on one device: collectives and shared states against what they must give,
// how long they take beside the same on the host, and a member that is killed in the midst of them.
//
//     peers [MEBIBYTES [KILLS [MEMBERS]]]     of the largest buffer (256), how often a member is killed (5, and none if
//                                             there are more than two), and how many there are (2)

#define _GNU_SOURCE
#include "../ABITests/testing.h"
#include "device.h"

#include <math.h>
#include <sys/wait.h>

enum { MOST_MEMBERS = 8, TURNS = 7, LEAST_BYTES = 4096, SHARED_FLOATS = (5 << 18) + 33 };

static int members = 2;

static float value_of(int member, size_t i) { return 1.25f * (float)(member + 1) + 0.37f * (float)(i % 1009); }

// ---- A member -----------------------------------------------------------------------------------------

static pcclComm_t *join(uint16_t port) {
    pcclCommCreateParams_t parameters = parametersFor(port);
    pcclComm_t *communicator = NULL;
    EXPECT(pcclSuccess, pcclCreateCommunicator(&parameters, &communicator));
    EXPECT(pcclSuccess, pcclConnect(communicator));
    return communicator;
}

static void gather(pcclComm_t *communicator) {
    while (groupSize(communicator) < members) {
        bool arePending = false;
        EXPECT(pcclSuccess, pcclArePeersPending(communicator, &arePending));
        if (arePending)
            EXPECT(pcclSuccess, pcclUpdateTopology(communicator));
    }
}

typedef struct buffers {
    float *host, *host_result, *read;
    pccl_cuda_pointer device, device_result;
    size_t count;
} buffers;

static pcclReduceDescriptor_t sum_of(size_t count, uint64_t tag) { return reduction(tag, count, pcclFloat, pcclSum); }

static double time_reductions(const pcclComm_t *communicator, const void *from, void *to, size_t count,
                              pcclCodec_t codec) {
    double took[TURNS];
    for (int turn = -1; turn < TURNS; turn++) {
        pcclReduceDescriptor_t descriptor = sum_of(count, 1);
        pcclReduceOptions_t options = {0};
        options.struct_size = sizeof options;
        options.codec = codec;
        double start = seconds();
        EXPECT(pcclSuccess,
               pcclAllReduceWithOptions(from, to, &descriptor, communicator, &options, NULL, NULL, 0, NULL));
        if (turn >= 0)
            took[turn] = seconds() - start;
    }
    return median(took, TURNS);
}

static void compare_reductions(const pcclComm_t *communicator, buffers *b, bool speaks) {
    if (speaks)
        printf("| bytes | codec | host ms | device ms | ratio |\n|---|---|---|---|---|\n");
    const struct {
        pcclCodec_t codec;
        const char *name;
    } codecs[] = {{pcclCodecOfDescriptor, "none"}, {pcclCodecMinMax8, "min-max 8"}, {pcclCodecE3M0, "E3M0"}};
    for (size_t count = LEAST_BYTES / sizeof(float); count <= b->count; count *= 8)
        for (size_t c = 0; c < sizeof codecs / sizeof *codecs; c++) {
            testing_phase = codecs[c].name;
            void *device = (void *)(uintptr_t)b->device, *result = (void *)(uintptr_t)b->device_result;
            double host = time_reductions(communicator, b->host, b->host_result, count, codecs[c].codec);
            double on_device = time_reductions(communicator, device, result, count, codecs[c].codec);
            read_device(b->read, b->device_result, count * sizeof(float));
            CHECK(memcmp(b->read, b->host_result, count * sizeof(float)) == 0);
            read_device(b->read, b->device, count * sizeof(float));
            CHECK(memcmp(b->read, b->host, count * sizeof(float)) == 0);
            float sum = 0;
            for (int member = 0; member < members; member++)
                sum += value_of(member, count - 1);
            // Of more than two the order of summands is that of the ranks, which is nobody's business here.
            if (codecs[c].codec == pcclCodecOfDescriptor)
                CHECK(fabsf(b->host_result[count - 1] - sum) <= (members == 2 ? 0 : 1e-5f * sum));
            if (speaks)
                printf("| %zu | %s | %.3f | %.3f | %.2f |\n", count * sizeof(float), codecs[c].name, host * 1e3,
                       on_device * 1e3, on_device / host);
        }
}

static void share(const pcclComm_t *communicator, int member, bool speaks) {
    testing_phase = "shared state";
    float *values = malloc(SHARED_FLOATS * sizeof(float));
    for (size_t i = 0; i < SHARED_FLOATS; i++)
        values[i] = value_of(member, i);
    pccl_cuda_pointer device = device_memory(SHARED_FLOATS * sizeof(float));
    write_device(device, values, SHARED_FLOATS * sizeof(float));
    pcclTensorInfo_t info;
    memset(&info, 0, sizeof info);
    info.name = "weights";
    // The second member has it on the host.
    info.data = member == 0 ? (void *)(uintptr_t)device : (void *)values;
    info.count = SHARED_FLOATS;
    info.datatype = pcclFloat;
    pcclSharedState_t state = {1, 1, &info};
    pcclSharedStateSyncStrategy_t strategy =
        member == 0 ? PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY : PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY;
    pcclSharedStateSyncInfo_t moved;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &moved));
    for (size_t i = 0; member == 1 && i < SHARED_FLOATS; i++)
        CHECK(values[i] == value_of(0, i));
    state.revision = 2;
    EXPECT(pcclSuccess, pcclSynchronizeSharedState(communicator, &state, strategy, &moved));
    CHECK(moved.tx_bytes == 0 && moved.rx_bytes == 0);
    if (speaks)
        printf("\nshared state: a device and a host agree on %d bytes\n", (int)(SHARED_FLOATS * sizeof(float)));
    MUST(pccl_cuda_device_free(device));
    free(values);
}

// Until this process is killed, or, for the one that survives, until the other one was.
static void reduce_until_lost(const pcclComm_t *communicator, buffers *b) {
    testing_phase = "a member that is killed";
    for (;;) {
        pcclReduceDescriptor_t descriptor = sum_of(b->count, 7);
        void *device = (void *)(uintptr_t)b->device;
        // In place: the input is what it was after a failure.
        pcclResult_t result = pcclAllReduce(device, device, &descriptor, communicator, NULL);
        read_device(b->read, b->device, b->count * sizeof(float));
        if (result == pcclSuccess) {
            for (size_t i = 0; i < b->count; i += 997)
                CHECK(b->read[i] == value_of(0, i) + value_of(1, i));
            write_device(b->device, b->host, b->count * sizeof(float));
            continue;
        }
        CHECK(result == pcclRankConnectionLost || result == pcclTooFewPeers);
        CHECK(memcmp(b->read, b->host, b->count * sizeof(float)) == 0);
        return;
    }
}

static void make_buffers(buffers *b, size_t bytes, int member) {
    b->count = bytes / sizeof(float);
    b->host = malloc(bytes);
    b->host_result = malloc(bytes);
    b->read = malloc(bytes);
    for (size_t i = 0; i < b->count; i++)
        b->host[i] = value_of(member, i);
    b->device = device_memory(bytes);
    b->device_result = device_memory(bytes);
    write_device(b->device, b->host, bytes);
}

static int survive(uint16_t port, size_t bytes, int kills, const char *self) {
    start_device();
    buffers b;
    make_buffers(&b, bytes, 0);
    pcclComm_t *communicator = join(port);
    size_t before = 0, after, total;
    for (int kill_number = 0; kill_number <= kills; kill_number++) {
        char number[16], size[24], first[2] = {kill_number == 0 ? '1' : '0', 0};
        snprintf(number, sizeof number, "%d", port);
        snprintf(size, sizeof size, "%zu", bytes);
        pid_t children[MOST_MEMBERS];
        for (int member = 1; member < members; member++) {
            char which[] = {(char)('0' + member), 0}, of[] = {(char)('0' + members), 0};
            children[member] = fork();
            if (children[member] == 0)
                execl(self, self, "victim", number, size, first, which, of, (char *)NULL);
        }
        pid_t child = children[1];
        gather(communicator);
        if (kill_number == 0) {
            compare_reductions(communicator, &b, true);
            if (members == 2)
                share(communicator, 0, true);
        }
        if (kill_number == kills) {
            for (int member = 1; member < members; member++) {
                kill(children[member], SIGKILL);
                waitpid(children[member], NULL, 0);
            }
            break;
        }
        // Somewhere in the midst of operations that follow each other.
        pid_t killer = fork();
        if (killer == 0) {
            usleep(50000 + (unsigned)(rand() % 100000) + (unsigned)kill_number * 1000);
            kill(child, SIGKILL);
            _exit(0);
        }
        reduce_until_lost(communicator, &b);
        waitpid(killer, NULL, 0);
        waitpid(child, NULL, 0);
        MUST(pccl_cuda_memory_info(&after, &total));
        if (kill_number == 0)
            before = after;
        CHECK(after >= before);
        printf("kill %d: noticed, input whole, %zu MiB of the device free\n", kill_number + 1, after >> 20);
    }
    EXPECT(pcclSuccess, pcclDestroyCommunicator(communicator));
    return 0;
}

static int be_victim(uint16_t port, size_t bytes, bool is_first, int member) {
    start_device();
    buffers b;
    make_buffers(&b, bytes, member);
    pcclComm_t *communicator = join(port);
    gather(communicator);
    if (is_first) {
        compare_reductions(communicator, &b, false);
        if (members == 2)
            share(communicator, 1, false);
    }
    reduce_until_lost(communicator, &b);
    return 0;
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("PCCL_LOG_LEVEL", "error", 0);
    EXPECT(pcclSuccess, pcclInit());
    if (count > 6 && strcmp(arguments[1], "victim") == 0) {
        members = atoi(arguments[6]);
        return be_victim((uint16_t)atoi(arguments[2]), (size_t)atoll(arguments[3]), arguments[4][0] == '1',
                         atoi(arguments[5]));
    }
    size_t bytes = (size_t)(count > 1 ? atol(arguments[1]) : 256) << 20;
    members = count > 3 ? atoi(arguments[3]) : 2;
    int kills = members > 2 ? 0 : count > 2 ? atoi(arguments[2]) : 5;
    if (members < 2 || members > MOST_MEMBERS)
        FAIL("%d members", members);
    uint16_t port;
    pcclMasterInstance_t *master = startMaster(&port);
    int status = survive(port, bytes, kills, "/proc/self/exe");
    stopMaster(master);
    printf("ok peers\n");
    return status;
}
