/* One rank of MPI for `pccl bench --vs mpi`, which compiles this with mpicc and starts it under mpirun:
 *
 *     mpi_peer SOCKET
 *
 * It does what a peer of our own does (Sources/pccl/Bench/Peer), so that both are measured alike: the same numbers, the
 * same turns, the same moments at which a clock is read. The lines that pass over the socket are explained in
 * ControlLine.swift. Between turns it sleeps: an MPI call would spin and take a core from what is measured then. */
#define _GNU_SOURCE
#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD = 1021, LARGEST_VALUE = 10, LITTLE = 64, UNWRITTEN = 0xA5, MOST_TAGS = 1024 };

struct type {
    const char *name;
    size_t bytes;
    int is_signed;
    double epsilon; /* 0 for integers */
};

static const struct type types[] = {
    {"uint8", 1, 0, 0},         {"int8", 1, 1, 0},          {"uint16", 2, 0, 0}, {"int16", 2, 1, 0},
    {"uint32", 4, 0, 0},        {"int32", 4, 1, 0},         {"uint64", 8, 0, 0}, {"int64", 8, 1, 0},
    {"float32", 4, 1, 0x1p-23}, {"float64", 8, 1, 0x1p-52},
};

static int parent;
static const struct type *type;
static MPI_Datatype mpi_type;
static char operation_name[8];
static MPI_Op operation;
static int rank, peers, in_place, tags;

/* ---- the parent */

static void say(const char *format, ...) {
    char line[4096];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length] = '\n';
    for (int sent = 0; sent <= length;) {
        ssize_t count = send(parent, line + sent, length + 1 - sent, MSG_NOSIGNAL);
        if (count <= 0)
            _exit(2);
        sent += count;
    }
}

static void fail(const char *text) {
    say("failed text=%s", text);
    _exit(1);
}

/* Ends this process with its parent, also in the middle of a reduction. */
static void *watch(void *unused) {
    (void)unused;
    for (;;) {
        struct pollfd wait = {.fd = parent, .events = POLLRDHUP};
        if (poll(&wait, 1, -1) > 0 && wait.revents)
            _exit(2);
    }
}

static void connect_to_parent(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    parent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t thread;
    if (connect(parent, (struct sockaddr *)&address, sizeof address) || pthread_create(&thread, NULL, watch, NULL)) {
        perror("mpi_peer");
        _exit(1);
    }
}

/* MPI moves bytes only inside its calls, and a rank may have returned from a reduction while some of what it sent waits
 * in user space: so a rank that has nothing to do looks after them a hundred times a second. */
enum { REST_MILLISECONDS = 10 };

static void look_after_messages(void) {
    int has_message;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &has_message, MPI_STATUS_IGNORE);
}

/* The next line, or the end of this process. */
static void hear(char *line, size_t size) {
    size_t length = 0;
    for (;;) {
        char byte;
        struct pollfd wait = {.fd = parent, .events = POLLIN};
        while (poll(&wait, 1, REST_MILLISECONDS) == 0)
            look_after_messages();
        if (read(parent, &byte, 1) != 1)
            _exit(2);
        if (byte == '\n')
            break;
        if (length + 1 < size)
            line[length++] = byte;
    }
    line[length] = 0;
}

/* The value of a key, up to the next space. */
static const char *value_of(const char *line, const char *key, char *value, size_t size) {
    char pattern[32];
    snprintf(pattern, sizeof pattern, " %s=", key);
    const char *found = strstr(line, pattern);
    if (!found)
        fail("a key is missing in a line from pccl bench");
    found += strlen(pattern);
    size_t length = strcspn(found, " ");
    snprintf(value, size, "%.*s", (int)length, found);
    return value;
}

static long long number_of(const char *line, const char *key) {
    char value[32];
    return atoll(value_of(line, key, value, sizeof value));
}

/* ---- what is measured */

static uint64_t monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

static uint64_t processor_nanoseconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * UINT64_C(1000000000) +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * UINT64_C(1000);
}

static void pause_for(long long milliseconds) {
    uint64_t end = monotonic_nanoseconds() + milliseconds * UINT64_C(1000000);
    for (uint64_t now; (now = monotonic_nanoseconds()) < end;) {
        long long left = (end - now + 999999) / 1000000;
        poll(NULL, 0, left < REST_MILLISECONDS ? left : REST_MILLISECONDS);
        look_after_messages();
    }
}

static long long status_bytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kilobytes = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, key, strlen(key)))
            kilobytes = atoll(line + strlen(key));
    }
    if (file)
        fclose(file);
    return kilobytes * 1024;
}

static void forget_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return;
    fputs("5", file);
    fclose(file);
}

/* ---- numbers */

static int64_t value(int index, int of_rank) {
    int mixed = (index * 7 + of_rank * 13 + index / 11) % (LARGEST_VALUE + 1);
    if (!strcmp(operation_name, "prod"))
        return mixed == 0 ? 2 : 1;
    return type->is_signed ? mixed - 5 : mixed;
}

static int64_t result(int index) {
    int64_t sum = 0, product = 1, largest = value(index, 0), smallest = largest;
    for (int other = 0; other < peers; other++) {
        int64_t one = value(index, other);
        sum += one;
        product = (int64_t)((uint64_t)product * (uint64_t)one);
        if (one > largest)
            largest = one;
        if (one < smallest)
            smallest = one;
    }
    if (operation == MPI_SUM)
        return sum;
    if (operation == MPI_PROD)
        return product;
    return operation == MPI_MAX ? largest : smallest;
}

static void put(char *place, int64_t whole, double real) {
    float single = real;
    if (type->epsilon == 0)
        memcpy(place, &whole, type->bytes); /* the low bytes come first on what this runs on */
    else if (type->bytes == 4)
        memcpy(place, &single, 4);
    else
        memcpy(place, &real, 8);
}

static double real_at(const char *place) {
    float single;
    double real;
    if (type->bytes == 4)
        return memcpy(&single, place, 4), single;
    return memcpy(&real, place, 8), real;
}

/* Blocks of one period: what this rank contributes, and the result after so many reductions in place. */
static char own[PERIOD * 8], expected[PERIOD * 8];
static double allowed[PERIOD];

static void prepare_own(void) {
    for (int index = 0; index < PERIOD; index++)
        put(own + index * type->bytes, value(index, rank), (double)value(index, rank));
}

static void prepare_expected(long long calls) {
    int64_t growth = 1;
    double real_growth = 1;
    for (long long call = 1; call < calls && operation == MPI_SUM; call++) {
        growth = (int64_t)((uint64_t)growth * (uint64_t)peers);
        real_growth *= peers;
    }
    for (int index = 0; index < PERIOD; index++) {
        int64_t whole = result(index);
        double magnitude = 0;
        for (int other = 0; other < peers; other++)
            magnitude += fabs((double)value(index, other));
        put(expected + index * type->bytes, (int64_t)((uint64_t)whole * (uint64_t)growth), whole * real_growth);
        allowed[index] = operation == MPI_SUM ? type->epsilon * (double)(peers + calls) * magnitude * real_growth : 0;
    }
}

static void fill(char *memory, size_t bytes) {
    size_t block = PERIOD * type->bytes;
    for (size_t offset = 0; offset < bytes; offset += block)
        memcpy(memory + offset, own, bytes - offset < block ? bytes - offset : block);
}

static long long wrong_elements(const char *memory, size_t bytes) {
    size_t block = PERIOD * type->bytes;
    long long wrong = 0;
    for (size_t offset = 0; offset < bytes; offset += block) {
        size_t length = bytes - offset < block ? bytes - offset : block;
        if (!memcmp(memory + offset, expected, length))
            continue;
        for (size_t element = 0; element < length; element += type->bytes) {
            const char *found = memory + offset + element, *wanted = expected + element;
            if (!memcmp(found, wanted, type->bytes))
                continue;
            /* It may have rounded each partial sum. */
            int is_close =
                type->epsilon > 0 && fabs(real_at(found) - real_at(wanted)) <= allowed[element / type->bytes];
            if (!is_close)
                wrong++;
        }
    }
    return wrong;
}

/* ---- turns */

static char *map(size_t bytes) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("no memory for a buffer");
    return memory;
}

static void reduce(char **sources, char **targets, int buffers, size_t bytes) {
    static MPI_Request requests[MOST_TAGS];
    int count = bytes / type->bytes;
    for (int tag = 0; tag < buffers; tag++) {
        const void *source = sources[tag] == targets[tag] ? MPI_IN_PLACE : sources[tag];
        if (buffers == 1)
            MPI_Allreduce(source, targets[tag], count, mpi_type, operation, MPI_COMM_WORLD);
        else
            MPI_Iallreduce(source, targets[tag], count, mpi_type, operation, MPI_COMM_WORLD, &requests[tag]);
    }
    if (buffers > 1)
        MPI_Waitall(buffers, requests, MPI_STATUSES_IGNORE);
}

static void take_turn(const char *line, long long bytes_before) {
    static char *sources[MOST_TAGS], *targets[MOST_TAGS];
    size_t bytes = number_of(line, "bytes");
    if (bytes / type->bytes > INT_MAX)
        fail("MPI counts no more elements than an int does");
    long long warm_ups = number_of(line, "warmups"), calls = number_of(line, "calls");
    long long per_fill = number_of(line, "callsperfill"), pause = number_of(line, "pause");
    char *times = malloc(calls * 21 + 1), *end = times;
    uint64_t *batch_times = malloc((calls > warm_ups ? calls : warm_ups) * sizeof *batch_times);
    char *little = map(LITTLE), *little_target = map(LITTLE);
    if (!times || !batch_times)
        fail("no memory");
    fill(little, LITTLE);
    for (int tag = 0; tag < tags; tag++) {
        sources[tag] = map(bytes);
        targets[tag] = in_place ? sources[tag] : map(bytes);
        fill(sources[tag], bytes);
    }
    forget_peak();
    uint64_t processor = 0;
    long long wrong = 0;
    for (int is_timed = 0; is_timed < 2; is_timed++) {
        for (long long left = is_timed ? calls : warm_ups; left > 0;) {
            long long batch = in_place && per_fill > 0 && per_fill < left ? per_fill : left;
            left -= batch;
            for (int tag = 0; tag < tags; tag++) {
                if (in_place)
                    fill(sources[tag], bytes);
                else
                    memset(targets[tag], UNWRITTEN, bytes);
            }
            reduce(&little, &little_target, 1, LITTLE);
            uint64_t before = processor_nanoseconds();
            for (long long call = 0; call < batch; call++) {
                if (is_timed && pause > 0) {
                    uint64_t pause_before = processor_nanoseconds();
                    pause_for(pause);
                    before += processor_nanoseconds() - pause_before;
                }
                uint64_t start = monotonic_nanoseconds();
                reduce(sources, targets, tags, bytes);
                batch_times[call] = monotonic_nanoseconds() - start;
            }
            if (!is_timed)
                continue;
            processor += processor_nanoseconds() - before;
            for (long long call = 0; call < batch; call++)
                end += sprintf(end, end == times ? "%llu" : ",%llu", (unsigned long long)batch_times[call]);
            prepare_expected(in_place ? batch : 1);
            for (int tag = 0; tag < tags; tag++)
                wrong += wrong_elements(targets[tag], bytes);
        }
    }
    long long extra = status_bytes("VmHWM:") - (long long)bytes * tags * (in_place ? 1 : 2) - bytes_before;
    for (int tag = 0; tag < tags; tag++) {
        munmap(sources[tag], bytes);
        if (!in_place)
            munmap(targets[tag], bytes);
    }
    munmap(little, LITTLE);
    munmap(little_target, LITTLE);

    char head[128];
    int length =
        snprintf(head, sizeof head, "done cpu=%llu extra=%lld wrong=%lld times=", (unsigned long long)processor,
                 extra > 0 ? extra : 0, wrong);
    *end++ = '\n';
    struct {
        const char *bytes;
        size_t count;
    } parts[] = {{head, length}, {times, end - times}};
    for (int part = 0; part < 2; part++) {
        for (size_t sent = 0; sent < parts[part].count;) {
            ssize_t count = send(parent, parts[part].bytes + sent, parts[part].count - sent, MSG_NOSIGNAL);
            if (count <= 0)
                _exit(2);
            sent += count;
        }
    }
    free(times);
    free(batch_times);
}

static void choose(const char *line) {
    static const MPI_Datatype mpi_types[] = {
        MPI_UINT8_T, MPI_INT8_T,   MPI_UINT16_T, MPI_INT16_T, MPI_UINT32_T,
        MPI_INT32_T, MPI_UINT64_T, MPI_INT64_T,  MPI_FLOAT,   MPI_DOUBLE,
    };
    char name[32];
    value_of(line, "type", name, sizeof name);
    for (size_t index = 0; index < sizeof types / sizeof types[0]; index++) {
        if (strcmp(types[index].name, name))
            continue;
        type = &types[index];
        mpi_type = mpi_types[index];
    }
    value_of(line, "op", operation_name, sizeof operation_name);
    operation = !strcmp(operation_name, "sum")    ? MPI_SUM
                : !strcmp(operation_name, "prod") ? MPI_PROD
                : !strcmp(operation_name, "max")  ? MPI_MAX
                : !strcmp(operation_name, "min")  ? MPI_MIN
                                                  : MPI_OP_NULL;
    if (!type || operation == MPI_OP_NULL)
        fail("MPI cannot do this type and operation");
    in_place = number_of(line, "inplace");
    tags = number_of(line, "tags");
    if (tags > MOST_TAGS || peers != number_of(line, "peers"))
        fail("a begin that does not fit");
    prepare_own();
}

int main(int count, char **arguments) {
    long long bytes_before = status_bytes("VmRSS:");
    MPI_Init(&count, &arguments);
    if (count != 2)
        return 64;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &peers);
    connect_to_parent(arguments[1]);
    say("hello rank=%d", rank);

    char line[1024];
    hear(line, sizeof line);
    if (strncmp(line, "begin ", 6))
        _exit(2);
    choose(line);
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = 0;
    say("ready text=%s", version);
    for (;;) {
        hear(line, sizeof line);
        if (strncmp(line, "turn ", 5))
            break;
        take_turn(line, bytes_before);
    }
    MPI_Finalize();
    return 0;
}
