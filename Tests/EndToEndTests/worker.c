// One peer, driven from outside: it reads commands from standard input, one a line, and answers each with a line of
// NAME key=value ... on standard output, so that the driver waits for events and never for time to pass.
//
//     worker ID HOST PORT [GROUP [STRIPES]]
//
// What a worker contributes names it. An element is a bit that only this worker has, next to a number that depends on
// the element's place. So a sum tells by itself whose contributions are in it and whether each came to its place, and
// a worker can check all of it without knowing who took part.
#define _GNU_SOURCE
#include <pccl.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static int workerID;
static pcclCommCreateParams_t params;
static pcclComm_t *communicator;

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static void die(const char *what) {
    fprintf(stderr, "worker %d: %s\n", workerID, what);
    exit(3);
}

static int attribute(pcclAttribute_t which) {
    int value = -1;
    if (communicator == NULL || pcclGetAttribute(communicator, which, &value) != pcclSuccess)
        return -1;
    return value;
}

static int worldSize(void) { return attribute(PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE); }

static void pauseMicroseconds(long microseconds) {
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* ---- Commands ---- */

static char pendingInput[65536];
static size_t pendingInputBytes;

// Takes a line if a whole one is there. Waits for it if asked to; then false means that the driver is gone.
static bool takeLine(char *line, size_t size, bool wait) {
    for (;;) {
        char *end = memchr(pendingInput, '\n', pendingInputBytes);
        if (end != NULL) {
            size_t bytes = (size_t)(end - pendingInput);
            if (bytes >= size)
                die("a command is too long");
            memcpy(line, pendingInput, bytes);
            line[bytes] = 0;
            pendingInputBytes -= bytes + 1;
            memmove(pendingInput, end + 1, pendingInputBytes);
            return true;
        }
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        if (!wait && poll(&input, 1, 0) <= 0)
            return false;
        ssize_t count = read(STDIN_FILENO, pendingInput + pendingInputBytes, sizeof(pendingInput) - pendingInputBytes);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            exit(0);
        pendingInputBytes += (size_t)count;
    }
}

/* ---- Elements ---- */

typedef struct Kind {
    const char *name;
    pcclDataType_t type;
    size_t bytes;
    // A sum of up to maskBits contributions is exact: mask below, sum of places above.
    int maskBits;
    int placeBits;
} Kind;

static const Kind kinds[] = {
    {"u8", pcclUint8, 1, 2, 5},     {"u32", pcclUint32, 4, 16, 11}, {"i32", pcclInt32, 4, 16, 10},
    {"u64", pcclUint64, 8, 32, 16}, {"f32", pcclFloat, 4, 8, 10},   {"f64", pcclDouble, 8, 32, 16},
};

static const Kind *kindNamed(const char *name) {
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    die("no such type");
    return NULL;
}

static pcclRedOp_t opNamed(const char *name) {
    static const char *const names[] = {"sum", "avg", "prod", "max", "min"};
    for (int op = 0; op < 5; op++)
        if (strcmp(names[op], name) == 0)
            return (pcclRedOp_t)op;
    die("no such operation");
    return pcclSum;
}

static inline uint64_t scramble(size_t i, uint64_t seed) {
    uint64_t x = ((uint64_t)i + seed * 0x632BE59BD9B4E019u) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static inline uint64_t place(const Kind *kind, size_t i, uint64_t seed) {
    return (scramble(i, seed) >> 20 & ((1u << kind->placeBits) - 1)) << kind->maskBits;
}

static inline uint64_t load(const Kind *kind, const void *elements, size_t i) {
    switch (kind->type) {
    case pcclUint8:
        return ((const uint8_t *)elements)[i];
    case pcclUint32:
    case pcclInt32:
        return ((const uint32_t *)elements)[i];
    case pcclFloat:
        return (uint64_t)((const float *)elements)[i];
    case pcclDouble:
        return (uint64_t)((const double *)elements)[i];
    default:
        return ((const uint64_t *)elements)[i];
    }
}

static inline void store(const Kind *kind, void *elements, size_t i, uint64_t value) {
    switch (kind->type) {
    case pcclUint8:
        ((uint8_t *)elements)[i] = (uint8_t)value;
        break;
    case pcclUint32:
    case pcclInt32:
        ((uint32_t *)elements)[i] = (uint32_t)value;
        break;
    case pcclFloat:
        ((float *)elements)[i] = (float)value;
        break;
    case pcclDouble:
        ((double *)elements)[i] = (double)value;
        break;
    default:
        ((uint64_t *)elements)[i] = value;
    }
}

// Floating-point noise: sums depend on the order, so equal bits on all members are no accident.
static inline float noise(size_t i, uint64_t seed) {
    return (float)(int32_t)scramble(i, seed * 64 + (uint64_t)workerID) * 1.1e-7f;
}

typedef struct Input {
    const Kind *kind;
    size_t count;
    uint64_t seed;
    bool isNoise;
} Input;

static void fill(const Input *input, void *elements) {
    if (!input->isNoise && workerID >= input->kind->maskBits)
        die("this worker's id has no bit in this type");
    for (size_t i = 0; i < input->count; i++) {
        if (input->isNoise)
            ((float *)elements)[i] = noise(i, input->seed);
        else
            store(input->kind, elements, i, (uint64_t)1 << workerID | place(input->kind, i, input->seed));
    }
}

// How many elements are not this worker's contribution any more, bit by bit.
static size_t damageOfInput(const Input *input, const void *elements) {
    size_t damage = 0;
    for (size_t i = 0; i < input->count; i++) {
        if (input->isNoise) {
            float expected = noise(i, input->seed);
            damage += memcmp(&expected, (const float *)elements + i, sizeof(expected)) != 0;
        } else {
            unsigned char expected[8];
            store(input->kind, expected, 0, (uint64_t)1 << workerID | place(input->kind, i, input->seed));
            damage += memcmp(expected, (const char *)elements + i * input->kind->bytes, input->kind->bytes) != 0;
        }
    }
    return damage;
}

// Whose contributions are in the sum, by its first element, and how many elements are not the same members' sum.
static size_t damageOfSum(const Input *input, const void *elements, uint64_t *mask) {
    const Kind *kind = input->kind;
    *mask = load(kind, elements, 0) & (((uint64_t)1 << kind->maskBits) - 1);
    uint64_t members = (uint64_t)__builtin_popcountll(*mask);
    size_t damage = 0;
    for (size_t i = 0; i < input->count; i++) {
        unsigned char expected[8];
        store(kind, expected, 0, *mask + members * place(kind, i, input->seed));
        damage += memcmp(expected, (const char *)elements + i * kind->bytes, kind->bytes) != 0;
    }
    return damage;
}

static uint64_t hashOf(const void *memory, size_t bytes) {
    const unsigned char *next = memory;
    uint64_t hash = 0xcbf29ce484222325u ^ bytes;
    for (; bytes >= 8; bytes -= 8, next += 8) {
        uint64_t word;
        memcpy(&word, next, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    for (; bytes > 0; bytes--, next++)
        hash = (hash ^ *next) * 0x100000001b3u;
    return hash;
}

/* ---- Tensors: memory between two fences that show writes past the ends ---- */

#define FENCE_BYTES 64
#define FENCE 0xA5

typedef struct Tensor {
    unsigned char *memory;
    unsigned char *elements;
    size_t bytes;
    size_t capacity;
} Tensor;

static void resize(Tensor *tensor, size_t bytes) {
    if (tensor->capacity < bytes || tensor->memory == NULL) {
        free(tensor->memory);
        tensor->memory = malloc(bytes + 2 * FENCE_BYTES);
        if (tensor->memory == NULL)
            die("no memory");
        tensor->capacity = bytes;
    }
    tensor->bytes = bytes;
    tensor->elements = tensor->memory + FENCE_BYTES;
    memset(tensor->memory, FENCE, FENCE_BYTES);
    memset(tensor->elements + bytes, FENCE, FENCE_BYTES);
}

static bool areFencesWhole(const Tensor *tensor) {
    for (int i = 0; i < FENCE_BYTES; i++)
        if (tensor->memory[i] != FENCE || tensor->elements[tensor->bytes + (size_t)i] != FENCE)
            return false;
    return true;
}

static pcclReduceDescriptor_t descriptorOf(const Input *input, pcclRedOp_t op, uint64_t tag) {
    pcclReduceDescriptor_t descriptor = {
        .count = input->count,
        .op = op,
        .tag = tag,
        .src_descriptor = {.datatype = input->kind->type, .distribution_hint = pcclDistributionNone},
        .quantization_options = {.quantized_datatype = input->kind->type, .algorithm = pcclQuantNone},
    };
    return descriptor;
}

/* ---- Single reductions ---- */

// One reduction with all that has to be checked of it. An operation in flight keeps its slot.
typedef struct Slot {
    bool isUsed;
    Input input;
    pcclRedOp_t op;
    uint64_t tag;
    bool isInPlace;
    Tensor send;
    Tensor receive;
    pcclAsyncReduceOp_t handle;
} Slot;

static Slot slots[64];

// "COUNT TYPE OP TAG inplace|apart SEED sum|noise"
static const char *const slotFormat = "%zu %15s %15s %llu %15s %llu %15s%n";

static Slot *prepare(const char *arguments, int *used) {
    char type[16], op[16], where[16], pattern[16];
    size_t count;
    unsigned long long tag, seed;
    if (sscanf(arguments, slotFormat, &count, type, op, &tag, where, &seed, pattern, used) != 7)
        die("a reduction that cannot be read");
    Slot *slot = slots;
    while (slot->isUsed)
        if (++slot == slots + 64)
            die("too many operations in flight");
    slot->isUsed = true;
    slot->input = (Input){kindNamed(type), count, seed, strcmp(pattern, "noise") == 0};
    slot->op = opNamed(op);
    slot->tag = tag;
    slot->isInPlace = strcmp(where, "inplace") == 0;
    resize(&slot->send, count * slot->input.kind->bytes);
    if (!slot->isInPlace) {
        resize(&slot->receive, count * slot->input.kind->bytes);
        memset(slot->receive.elements, 0xEE, slot->receive.bytes);
    }
    fill(&slot->input, slot->send.elements);
    return slot;
}

static void report(const char *name, const Slot *slot, pcclResult_t result, const pcclReduceInfo_t *info, int losses) {
    const Tensor *target = slot->isInPlace ? &slot->send : &slot->receive;
    int size = worldSize();
    uint64_t mask = 0, hash = 0;
    size_t wrongInputs = 0, wrongResults = 0;
    if (result != pcclSuccess || !slot->isInPlace)
        wrongInputs = damageOfInput(&slot->input, slot->send.elements);
    if (result == pcclSuccess) {
        hash = hashOf(target->elements, target->bytes);
        if (slot->op == pcclSum && !slot->input.isNoise)
            wrongResults = damageOfSum(&slot->input, target->elements, &mask);
    }
    bool isFenced = areFencesWhole(&slot->send) && (slot->isInPlace || areFencesWhole(&slot->receive));
    say("%s rc=%d tag=%llu world=%u mask=%llx hash=%016llx wrong_results=%zu wrong_inputs=%zu fences=%s size=%d "
        "losses=%d tx=%llu rx=%llu",
        name, (int)result, (unsigned long long)slot->tag, info->local_world_size, (unsigned long long)mask,
        (unsigned long long)hash, wrongResults, wrongInputs, isFenced ? "whole" : "BROKEN", size, losses,
        (unsigned long long)info->tx_bytes, (unsigned long long)info->rx_bytes);
}

// reduce SLOT RETRIES: "calling" as the last thing before the call, "lost" after each loss, "reduce" at the end.
static void reduce(const char *arguments) {
    int used = 0, retries = 0;
    Slot *slot = prepare(arguments, &used);
    sscanf(arguments + used, "%d", &retries);
    const Tensor *target = slot->isInPlace ? &slot->send : &slot->receive;
    pcclReduceDescriptor_t descriptor = descriptorOf(&slot->input, slot->op, slot->tag);
    for (int losses = 0;; losses++) {
        pcclReduceInfo_t info = {0, 0, 0};
        if (losses == 0)
            say("calling tag=%llu", (unsigned long long)slot->tag);
        pcclResult_t result = pcclAllReduce(slot->send.elements, target->elements, &descriptor, communicator, &info);
        if (result == pcclRankConnectionLost && losses < retries) {
            report("lost", slot, result, &info, losses);
            continue;
        }
        report("reduce", slot, result, &info, losses);
        break;
    }
    slot->isUsed = false;
}

static void launch(const char *arguments) {
    int used = 0;
    Slot *slot = prepare(arguments, &used);
    const Tensor *target = slot->isInPlace ? &slot->send : &slot->receive;
    pcclReduceDescriptor_t descriptor = descriptorOf(&slot->input, slot->op, slot->tag);
    pcclResult_t result =
        pcclAllReduceAsync(slot->send.elements, target->elements, &descriptor, communicator, &slot->handle);
    slot->isUsed = result == pcclSuccess;
    say("launch rc=%d tag=%llu", (int)result, (unsigned long long)slot->tag);
}

static void await(const char *arguments) {
    unsigned long long tag = strtoull(arguments, NULL, 10);
    Slot *slot = slots;
    while (!slot->isUsed || slot->tag != tag)
        if (++slot == slots + 64)
            die("no operation with this tag is in flight");
    pcclReduceInfo_t info = {0, 0, 0};
    pcclResult_t result = pcclAwaitAsyncReduce(&slot->handle, &info);
    report("await", slot, result, &info, 0);
    slot->isUsed = false;
}

// tags FIRST COUNT: small reductions, each with a tag of its own.
static void manyTags(const char *arguments) {
    unsigned long long first, count, done = 0;
    if (sscanf(arguments, "%llu %llu", &first, &count) != 2)
        die("tags that cannot be read");
    Input input = {kindNamed("u64"), 16, first, false};
    uint64_t contribution[16], sum[16], mask;
    fill(&input, contribution);
    size_t damage = 0;
    pcclResult_t result = pcclSuccess;
    for (; done < count && result == pcclSuccess; done++) {
        pcclReduceDescriptor_t descriptor = descriptorOf(&input, pcclSum, first + done);
        result = pcclAllReduce(contribution, sum, &descriptor, communicator, NULL);
        if (result == pcclSuccess)
            damage += damageOfSum(&input, sum, &mask);
    }
    say("tags rc=%d done=%llu wrong_results=%zu", (int)result, done, damage);
}

// multi COUNT TENSORS IN_FLIGHT inplace|apart SEED: pcclAllReduceMultipleWithRetry over tensors of different sizes.
static void multi(const char *arguments) {
    size_t count, tensors;
    int inFlight;
    char where[16];
    unsigned long long seed;
    if (sscanf(arguments, "%zu %zu %d %15s %llu", &count, &tensors, &inFlight, where, &seed) != 5 || tensors > 1024)
        die("a multi that cannot be read");
    bool isInPlace = strcmp(where, "inplace") == 0;
    static Tensor sends[1024], receives[1024];
    static Input inputs[1024];
    static pcclReduceOpDescriptor_t operations[1024];
    for (size_t i = 0; i < tensors; i++) {
        inputs[i] = (Input){kindNamed("u64"), 1 + scramble(i, seed) % count, seed * 1024 + i, false};
        resize(&sends[i], inputs[i].count * 8);
        fill(&inputs[i], sends[i].elements);
        if (!isInPlace) {
            resize(&receives[i], inputs[i].count * 8);
            memset(receives[i].elements, 0xEE, receives[i].bytes);
        }
        operations[i].sendbuf = sends[i].elements;
        operations[i].recvbuf = isInPlace ? sends[i].elements : receives[i].elements;
        operations[i].descriptor = descriptorOf(&inputs[i], pcclSum, seed * 1024 + i);
    }
    pcclReduceInfo_t info = {0, 0, 0};
    say("calling tag=%llu", seed * 1024);
    pcclResult_t result = pcclAllReduceMultipleWithRetry(operations, tensors, communicator, &info, inFlight);
    int size = worldSize();
    size_t reduced = 0, untouched = 0, broken = 0, fences = 0, wrongInputs = 0;
    uint64_t hash = 0, union_ = 0, common = ~(uint64_t)0;
    for (size_t i = 0; i < tensors; i++) {
        uint64_t mask;
        // A tensor is either the whole sum of several members or, in place, still the input.
        if (damageOfSum(&inputs[i], operations[i].recvbuf, &mask) == 0 && __builtin_popcountll(mask) > 1) {
            reduced++;
            hash = hash * 31 + hashOf(operations[i].recvbuf, sends[i].bytes);
            union_ |= mask;
            common &= mask;
        } else if (damageOfInput(&inputs[i], sends[i].elements) == 0) {
            untouched++;
        } else {
            broken++;
        }
        if (!isInPlace)
            wrongInputs += damageOfInput(&inputs[i], sends[i].elements);
        fences += !areFencesWhole(&sends[i]) || (!isInPlace && !areFencesWhole(&receives[i]));
    }
    say("multi rc=%d reduced=%zu untouched=%zu broken=%zu fences=%s wrong_inputs=%zu hash=%016llx union=%llx "
        "common=%llx world=%u size=%d",
        (int)result, reduced, untouched, broken, fences == 0 ? "whole" : "BROKEN", wrongInputs,
        (unsigned long long)hash, (unsigned long long)union_, (unsigned long long)common, info.local_world_size, size);
}

// big COUNT: bytes, more than 2^32 of them. The input is one piece of memory, seen again and again, so that two
// workers need half the memory; its length is prime to 2^32, so that an offset that lost its upper bits shows.
static void big(const char *arguments) {
    size_t count = strtoull(arguments, NULL, 10), period = (size_t)61 << 20;
    const Kind *kind = kindNamed("u8");
    int file = memfd_create("input", 0);
    if (file < 0 || ftruncate(file, (off_t)period) != 0)
        die("no memory for the input");
    size_t mapped = (count + period - 1) / period * period;
    unsigned char *send =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t at = 0; send != MAP_FAILED && at < mapped; at += period)
        if (mmap(send + at, period, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
            send = MAP_FAILED;
    unsigned char *receive = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (send == MAP_FAILED || receive == MAP_FAILED)
        die("no memory for the tensors");
    Input input = {kind, period, 1, false};
    fill(&input, send);
    input.count = count;
    pcclReduceDescriptor_t descriptor = descriptorOf(&input, pcclSum, 1);
    pcclReduceInfo_t info = {0, 0, 0};
    pcclResult_t result = pcclAllReduce(send, receive, &descriptor, communicator, &info);
    input.count = period;
    uint64_t mask = 0;
    size_t damage = damageOfSum(&input, receive, &mask);
    for (size_t at = period; at < count; at += period) {
        size_t bytes = count - at < period ? count - at : period;
        damage += memcmp(receive, receive + at, bytes) != 0;
    }
    for (size_t at = count; at < mapped; at++)
        damage += receive[at] != 0;
    damage += damageOfInput(&input, send);
    say("big rc=%d mask=%llx wrong_results=%zu tx=%llu rx=%llu", (int)result, (unsigned long long)mask, damage,
        (unsigned long long)info.tx_bytes, (unsigned long long)info.rx_bytes);
    munmap(send, mapped);
    munmap(receive, mapped);
    close(file);
}

/* ---- Membership ---- */

static void makeCommunicator(void) {
    pcclResult_t result = pcclInit();
    if (result == pcclSuccess && communicator == NULL)
        result = pcclCreateCommunicator(&params, &communicator);
    if (result != pcclSuccess)
        die("no communicator");
}

static void connectNow(void) {
    makeCommunicator();
    say("connecting");
    pcclResult_t result = pcclConnect(communicator);
    say("connect rc=%d size=%d", (int)result, worldSize());
}

// gather N: admits whoever comes until the group has N members. All members run it, so they vote at the same moments.
static void gather(const char *arguments) {
    int target = atoi(arguments);
    pcclResult_t result = pcclSuccess;
    while (result == pcclSuccess && worldSize() != target) {
        bool arePending = false;
        result = pcclArePeersPending(communicator, &arePending);
        if (result == pcclSuccess && arePending)
            result = pcclUpdateTopology(communicator);
        else
            pauseMicroseconds(1000);
    }
    say("gather rc=%d size=%d", (int)result, worldSize());
}

static void destroy(void) {
    pcclResult_t result = communicator == NULL ? pcclInvalidUsage : pcclDestroyCommunicator(communicator);
    communicator = NULL;
    for (int i = 0; i < 64; i++)
        slots[i].isUsed = false;
    say("destroy rc=%d", (int)result);
}

/* ---- A training loop ---- */

enum { controlStop, controlStep, controlWords };

typedef struct Loop {
    Input input;
    bool isInPlace;
    bool usesPending;
    bool usesUpdate;
    uint64_t step;
    unsigned long losses;
    Tensor send;
    Tensor receive;
} Loop;

// All members learn whether to stop, and newcomers at which step the run is: the greatest of all contributions.
static pcclResult_t agree(Loop *loop, uint64_t control[controlWords]) {
    Input words = {kindNamed("u64"), controlWords, 0, false};
    pcclReduceDescriptor_t descriptor = descriptorOf(&words, pcclMax, 1);
    uint64_t before[controlWords];
    memcpy(before, control, sizeof(before));
    for (;;) {
        pcclResult_t result = pcclAllReduce(control, control, &descriptor, communicator, NULL);
        if (result == pcclSuccess)
            return result;
        if (memcmp(before, control, sizeof(before)) != 0)
            say("DAMAGE control words changed by a call that failed with %d", (int)result);
        if (result != pcclRankConnectionLost)
            return result;
        loop->losses++;
    }
}

// One line for each call; the members' lines for a step must be the same.
static pcclResult_t train(Loop *loop) {
    loop->input.seed = loop->step;
    const Tensor *target = loop->isInPlace ? &loop->send : &loop->receive;
    fill(&loop->input, loop->send.elements);
    pcclReduceDescriptor_t descriptor = descriptorOf(&loop->input, pcclSum, 2);
    for (int attempt = 0;; attempt++) {
        pcclReduceInfo_t info = {0, 0, 0};
        pcclResult_t result = pcclAllReduce(loop->send.elements, target->elements, &descriptor, communicator, &info);
        int size = worldSize();
        uint64_t mask = 0, hash = 0;
        size_t wrongInputs = 0, wrongResults = 0;
        if (result != pcclSuccess || !loop->isInPlace)
            wrongInputs = damageOfInput(&loop->input, loop->send.elements);
        if (result == pcclSuccess) {
            wrongResults = damageOfSum(&loop->input, target->elements, &mask);
            hash = hashOf(target->elements, target->bytes);
        }
        say("step n=%llu attempt=%d rc=%d mask=%llx hash=%016llx world=%u wrong_results=%zu wrong_inputs=%zu size=%d",
            (unsigned long long)loop->step, attempt, (int)result, (unsigned long long)mask, (unsigned long long)hash,
            info.local_world_size, wrongResults, wrongInputs, size);
        if (result != pcclRankConnectionLost)
            return result;
        loop->losses++;
    }
}

// loop COUNT TYPE inplace|apart pending|update|none PAUSE_MICROSECONDS: a run, until one member was told "stop". A
// member told "leave" destroys its communicator between two steps.
static void runLoop(const char *arguments) {
    char type[16], where[16], mode[16], line[256];
    long pause;
    static Loop loop;
    size_t count;
    if (sscanf(arguments, "%zu %15s %15s %15s %ld", &count, type, where, mode, &pause) != 5)
        die("a loop that cannot be read");
    loop.input = (Input){kindNamed(type), count, 0, false};
    loop.isInPlace = strcmp(where, "inplace") == 0;
    loop.usesPending = strcmp(mode, "pending") == 0;
    loop.usesUpdate = strcmp(mode, "update") == 0;
    loop.losses = 0;
    resize(&loop.send, count * loop.input.kind->bytes);
    resize(&loop.receive, count * loop.input.kind->bytes);
    // Whoever begins a loop comes from a join point, newcomer or not.
    bool isFresh = true, mayStop = false;
    const char *at = "nowhere";
    pcclResult_t result = pcclSuccess;
    while (result == pcclSuccess) {
        while (takeLine(line, sizeof(line), false)) {
            if (strcmp(line, "stop") == 0) {
                mayStop = true;
            } else if (strcmp(line, "leave") == 0) {
                destroy();
                return;
            } else {
                die("a command that does not fit into a loop");
            }
        }
        bool arePending = loop.usesUpdate;
        if (!isFresh && loop.usesPending) {
            at = "pending";
            if ((result = pcclArePeersPending(communicator, &arePending)) != pcclSuccess)
                break;
        }
        if (!isFresh && arePending) {
            at = "update";
            if ((result = pcclUpdateTopology(communicator)) != pcclSuccess)
                break;
        }
        isFresh = false;
        uint64_t control[controlWords] = {mayStop, loop.step};
        at = "control";
        result = agree(&loop, control);
        if (result == pcclSuccess) {
            loop.step = control[controlStep] + 1;
            if (control[controlStop] != 0)
                break;
            at = "step";
            result = train(&loop);
        }
        if (result == pcclTooFewPeers) {
            if (mayStop)
                break;
            // A step that was left unfinished is not done again under the same number.
            loop.step++;
            result = pcclSuccess;
            say("alone n=%llu", (unsigned long long)loop.step);
            pauseMicroseconds(2000);
        }
        pauseMicroseconds(pause);
    }
    say("loop rc=%d at=%s n=%llu losses=%lu size=%d", (int)result, result == pcclSuccess ? "stop" : at,
        (unsigned long long)loop.step, loop.losses, worldSize());
}

/* ---- A child that does not exec, as Python's multiprocessing makes them ---- */

static void forkChild(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return;
    // A call that would wait for ever in the child is a failure of the case.
    alarm(30);
    bool arePending = false;
    pcclResult_t pending = pcclArePeersPending(communicator, &arePending);
    pcclResult_t update = pcclUpdateTopology(communicator);
    pcclResult_t destroyed = pcclDestroyCommunicator(communicator);
    say("child pending=%d update=%d destroy=%d pid=%d", (int)pending, (int)update, (int)destroyed, (int)getpid());
    // It outlives its parent, and holds nothing of it.
    close(0);
    close(1);
    close(2);
    pause();
    _exit(0);
}

/* ---- The commands ---- */

static void obey(const char *line) {
    char name[16] = "";
    int used = 0;
    sscanf(line, "%15s%n", name, &used);
    const char *arguments = line + used;
    if (strcmp(name, "create") == 0) {
        makeCommunicator();
        say("create rc=%d", (int)pcclSuccess);
    } else if (strcmp(name, "connect") == 0) {
        connectNow();
    } else if (strcmp(name, "gather") == 0) {
        gather(arguments);
    } else if (strcmp(name, "update") == 0) {
        say("calling update");
        pcclResult_t result = pcclUpdateTopology(communicator);
        say("update rc=%d size=%d", (int)result, worldSize());
    } else if (strcmp(name, "pending") == 0) {
        bool arePending = false;
        say("calling pending");
        pcclResult_t result = pcclArePeersPending(communicator, &arePending);
        say("pending rc=%d pending=%d", (int)result, (int)arePending);
    } else if (strcmp(name, "optimise") == 0) {
        say("calling optimise");
        pcclResult_t result = pcclOptimizeTopology(communicator);
        say("optimise rc=%d size=%d", (int)result, worldSize());
    } else if (strcmp(name, "attributes") == 0) {
        say("attributes size=%d global=%d groups=%d largest=%d", worldSize(),
            attribute(PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE), attribute(PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS),
            attribute(PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE));
    } else if (strcmp(name, "reduce") == 0) {
        reduce(arguments);
    } else if (strcmp(name, "launch") == 0) {
        launch(arguments);
    } else if (strcmp(name, "await") == 0) {
        await(arguments);
    } else if (strcmp(name, "multi") == 0) {
        multi(arguments);
    } else if (strcmp(name, "tags") == 0) {
        manyTags(arguments);
    } else if (strcmp(name, "big") == 0) {
        big(arguments);
    } else if (strcmp(name, "loop") == 0) {
        runLoop(arguments);
    } else if (strcmp(name, "stop") == 0 || strcmp(name, "leave") == 0) {
        // The loop that it was meant for has just ended.
    } else if (strcmp(name, "destroy") == 0) {
        destroy();
    } else if (strcmp(name, "fork") == 0) {
        forkChild();
    } else {
        die("an unknown command");
    }
}

int main(int argc, char **argv) {
    // A worker does not outlive its driver.
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return 1;
    if (argc < 4)
        die("usage: worker ID HOST PORT [GROUP [STRIPES]]");
    workerID = atoi(argv[1]);
    if (inet_pton(AF_INET, argv[2], params.master_address.inet.ipv4.data) == 1)
        params.master_address.inet.protocol = inetIPv4;
    else if (inet_pton(AF_INET6, argv[2], params.master_address.inet.ipv6.data) == 1)
        params.master_address.inet.protocol = inetIPv6;
    else
        die("the host is no address");
    params.master_address.port = (uint16_t)atoi(argv[3]);
    params.peer_group = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0;
    params.p2p_connection_pool_size = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0;
    char line[1024];
    while (takeLine(line, sizeof(line), true))
        obey(line);
    return 0;
}
