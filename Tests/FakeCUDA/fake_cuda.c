// A driver that stands in for libcuda.so.1 where there is no GPU, for tests: memory that the host cannot touch, streams
// that work later and on another thread, errors on request. What it accepts is what a driver accepts, so a test that
// passes here may fail on a real one, and one that fails here fails there too.
//
// FAKE_CUDA_DEVICES=n: so many devices, 1 if it is not set. FAKE_CUDA_PTX=file: a module that is loaded whose kernels
// that file has is taken from it instead. FAKE_CUDA_NO_KERNELS=1: no module is loaded, as on a device that is too old.
// FAKE_CUDA_VERBOSE=1: says why a module was not loaded, or what a kernel did wrong. FAKE_CUDA_DELAY=n: a copy or a
// kernel begins so many microseconds after what was before it, 300 if it is not set; FAKE_CUDA_JITTER=n: and up to so
// many more, at random; FAKE_CUDA_RATE=n: one between the device and the host takes a microsecond for each n bytes
// besides, which are so many MB/s. FAKE_CUDA_FAIL=function:n:code: as fake_cuda_fail. FAKE_CUDA_KILL=function:n: the
// process is killed at the n-th call. FAKE_CUDA_NO_PEER_ACCESS=1: nobody may use what another process exported.
#define _GNU_SOURCE
#include "fake_cuda.h"

#include "ptx.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_DEVICE = 209,
    INVALID_PTX = 218,
    INVALID_HANDLE = 400,
    NOT_SUPPORTED = 801,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    FUNCTIONS = 64,
    GRANULE = 2 << 20,
    BLOCKS = 256,
    DEPTH = 16,
    STREAMS = 32
};

enum { NO_ACCESS = 0, READ = 1, READ_WRITE = 3 };

typedef struct block {
    uint8_t *device; // What the caller has: mapped without any right.
    uint8_t *host;   // The same pages, for this driver.
    size_t bytes, mapped;
    int ordinal;
    int rights;
    bool is_imported, is_reserved;
    struct allocation *of;
} block;

// Memory without an address: what processes share, as a file.
typedef struct allocation {
    int file;
    size_t bytes;
    int ordinal;
    int holders; // Its handle, and each place where it is mapped.
    bool is_imported;
} allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block blocks[BLOCKS];
static struct {
    const char *name;
    int calls, fails_at, code, kills_at, holds_at;
} functions[FUNCTIONS];
static size_t created_bytes;
static int lost_with;
static bool is_initialised;
static pid_t owner;
static int contexts[8]; // Their addresses are the contexts, their values whether one is active.
static _Thread_local void *stack[DEPTH];
static _Thread_local int depth;

static int device_count(void) {
    const char *said = getenv("FAKE_CUDA_DEVICES");
    return said ? atoi(said) : 1;
}

static int index_of(const char *name);

// What the environment asks for, once.
static void plan_failure(void) {
    static bool is_planned;
    char name[64];
    int n, code;
    const char *said = is_planned ? NULL : getenv("FAKE_CUDA_FAIL");
    const char *death = is_planned ? NULL : getenv("FAKE_CUDA_KILL");
    is_planned = true;
    if (death && sscanf(death, "%63[^:]:%d", name, &n) == 2)
        functions[index_of(name)].kills_at = n;
    if (!said || sscanf(said, "%63[^:]:%d:%d", name, &n, &code) != 3)
        return;
    int i = index_of(name);
    functions[i].fails_at = n;
    functions[i].code = code;
}

static int index_of(const char *name) {
    int i = 0;
    while (i < FUNCTIONS && functions[i].name && strcmp(functions[i].name, name) != 0)
        i++;
    if (i == FUNCTIONS)
        abort();
    if (!functions[i].name)
        functions[i].name = strdup(name);
    return i;
}

// Counts a call, and tells with what it is to fail.
static int enter(const char *name) {
    pthread_mutex_lock(&lock);
    plan_failure();
    int i = index_of(name), code = lost_with;
    if (functions[i].calls + 1 == functions[i].kills_at)
        kill(getpid(), SIGKILL);
    if (++functions[i].calls == functions[i].fails_at) {
        code = functions[i].code;
        if (code >= 700)
            lost_with = code;
    }
    if (code == SUCCESS && strcmp(name, "cuInit") != 0 && (!is_initialised || owner != getpid()))
        code = NOT_INITIALIZED;
    pthread_mutex_unlock(&lock);
    return code;
}

#define ENTER                                                                                                          \
    do {                                                                                                               \
        int failure = enter(__func__);                                                                                 \
        if (failure != SUCCESS)                                                                                        \
            return failure;                                                                                            \
    } while (0)
#define ENTER_WITH_CONTEXT                                                                                             \
    do {                                                                                                               \
        ENTER;                                                                                                         \
        if (depth == 0)                                                                                                \
            return INVALID_CONTEXT;                                                                                    \
    } while (0)

static block *find(const void *address, size_t bytes) {
    const uint8_t *start = address;
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].device && start >= blocks[i].device && start + bytes <= blocks[i].device + blocks[i].bytes)
            return &blocks[i];
    return NULL;
}

static uint8_t *host_side(const void *address, size_t bytes, int rights) {
    pthread_mutex_lock(&lock);
    block *found = find(address, bytes);
    if (found && (found->rights & rights) != rights)
        found = NULL;
    uint8_t *host = found ? found->host + ((const uint8_t *)address - found->device) : NULL;
    pthread_mutex_unlock(&lock);
    return host;
}

static void add(block made) {
    int i = 0;
    while (blocks[i].device)
        if (++i == BLOCKS)
            abort();
    blocks[i] = made;
}

// ---- What tests ask for ---------------------------------------------------------------------------

void *fake_cuda_alloc(size_t bytes) {
    size_t mapped = (bytes + 4095) / 4096 * 4096;
    int file = memfd_create("fake-cuda", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)mapped) != 0)
        abort();
    block made = {mmap(NULL, mapped, PROT_NONE, MAP_SHARED, file, 0),
                  mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0),
                  .bytes = bytes,
                  .mapped = mapped,
                  .ordinal = device_count() - 1,
                  .rights = READ_WRITE};
    close(file);
    if (made.device == MAP_FAILED || made.host == MAP_FAILED)
        abort();
    pthread_mutex_lock(&lock);
    contexts[made.ordinal] = 1;
    add(made);
    pthread_mutex_unlock(&lock);
    return made.device;
}

void fake_cuda_free(void *memory) {
    pthread_mutex_lock(&lock);
    block *found = find(memory, 1);
    munmap(found->device, found->mapped);
    munmap(found->host, found->mapped);
    memset(found, 0, sizeof *found);
    pthread_mutex_unlock(&lock);
}

void fake_cuda_write(void *to, const void *from, size_t bytes) {
    memcpy(host_side(to, bytes, READ_WRITE), from, bytes);
}
void fake_cuda_read(void *to, const void *from, size_t bytes) { memcpy(to, host_side(from, bytes, READ), bytes); }

void fake_cuda_fail(const char *function, int n, int code) {
    pthread_mutex_lock(&lock);
    int i = index_of(function);
    functions[i].fails_at = functions[i].calls + n;
    functions[i].code = code;
    pthread_mutex_unlock(&lock);
}

static bool is_holding;
static void wake_streams(void);

void fake_cuda_hold(const char *function, int n) {
    pthread_mutex_lock(&lock);
    int i = index_of(function);
    functions[i].holds_at = functions[i].calls + n;
    is_holding = true;
    pthread_mutex_unlock(&lock);
}

void fake_cuda_let_go(void) {
    pthread_mutex_lock(&lock);
    is_holding = false;
    for (int i = 0; i < FUNCTIONS; i++)
        functions[i].holds_at = 0;
    pthread_mutex_unlock(&lock);
    wake_streams();
}

// Asked within the call itself, by the thread that has made it.
static bool is_held(const char *function) {
    pthread_mutex_lock(&lock);
    int i = index_of(function);
    bool held = is_holding && functions[i].holds_at > 0 && functions[i].calls >= functions[i].holds_at;
    pthread_mutex_unlock(&lock);
    return held;
}

static bool holds(void) {
    pthread_mutex_lock(&lock);
    bool held = is_holding;
    pthread_mutex_unlock(&lock);
    return held;
}

void fake_cuda_recover(void) { lost_with = SUCCESS; }

int fake_cuda_calls(const char *function) {
    pthread_mutex_lock(&lock);
    int calls = functions[index_of(function)].calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

// ---- Streams: copies and kernels in their order, some time later -------------------------------------

// A copy if it has no kernel.
typedef struct task {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
    const ptx_kernel *kernel;
    unsigned teams, threads;
    uint8_t *parameters;
    bool is_held;
    bool crosses; // The bus between the host and the device.
    struct task *next;
} task;

// The first one is the default stream; the others do not wait for it.
typedef struct stream {
    task *first, **last;
    bool is_running, is_made;
} stream;

static pthread_mutex_t stream_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stream_moved = PTHREAD_COND_INITIALIZER;
static stream streams[STREAMS] = {{.is_made = true}};

static void wake_streams(void) {
    pthread_mutex_lock(&stream_lock);
    pthread_cond_broadcast(&stream_moved);
    pthread_mutex_unlock(&stream_lock);
}

// Null if it is none, as a test's own are.
static stream *stream_of(void *handle) {
    if (!handle)
        return &streams[0];
    pthread_mutex_lock(&stream_lock);
    stream *found = NULL;
    for (int i = 1; i < STREAMS; i++)
        if (handle == &streams[i] && streams[i].is_made)
            found = &streams[i];
    pthread_mutex_unlock(&stream_lock);
    return found;
}

static void *kernel_memory(uint64_t address, size_t bytes, bool writes) {
    return host_side((const void *)(uintptr_t)address, bytes, writes ? READ_WRITE : READ);
}

static void run_kernel(const task *task) {
    static _Atomic uint32_t seed = 1;
    char error[PTX_ERROR_BYTES];
    if (ptx_run(task->kernel, task->teams, task->threads, task->parameters, kernel_memory, seed++, error))
        return;
    if (getenv("FAKE_CUDA_VERBOSE"))
        fprintf(stderr, "fake_cuda: %s\n", error);
    pthread_mutex_lock(&lock);
    lost_with = ILLEGAL_ADDRESS;
    pthread_mutex_unlock(&lock);
}

static long microseconds(const char *name, long usual) {
    const char *said = getenv(name);
    return said ? atol(said) : usual;
}

static void *run_stream(void *of) {
    stream *on = of;
    // Long enough for a caller that does not wait to be found out.
    const long least = microseconds("FAKE_CUDA_DELAY", 300), jitter = microseconds("FAKE_CUDA_JITTER", 0);
    const long rate = microseconds("FAKE_CUDA_RATE", 0);
    unsigned random = (unsigned)getpid() ^ (unsigned)(uintptr_t)of;
    pthread_mutex_lock(&stream_lock);
    for (;;) {
        while (!on->first)
            pthread_cond_wait(&stream_moved, &stream_lock);
        task *next = on->first;
        while (next->is_held && holds())
            pthread_cond_wait(&stream_moved, &stream_lock);
        pthread_mutex_unlock(&stream_lock);
        long delay = least + (jitter > 0 ? rand_r(&random) % jitter : 0);
        if (rate > 0 && next->crosses)
            delay += (long)next->bytes / rate;
        if (delay > 0)
            nanosleep(&(struct timespec){delay / 1000000, delay % 1000000 * 1000}, NULL);
        if (next->kernel)
            run_kernel(next);
        else
            memcpy(next->to, next->from, next->bytes);
        pthread_mutex_lock(&stream_lock);
        on->first = next->next;
        if (!on->first)
            on->last = &on->first;
        free(next->parameters);
        free(next);
        pthread_cond_broadcast(&stream_moved);
    }
    return NULL;
}

static int push(void *handle, task work) {
    stream *on = stream_of(handle);
    if (!on)
        return INVALID_HANDLE;
    pthread_mutex_lock(&stream_lock);
    if (!on->is_running) {
        pthread_t thread;
        on->last = &on->first;
        on->is_running = pthread_create(&thread, NULL, run_stream, on) == 0;
        pthread_detach(thread);
    }
    task *added = malloc(sizeof *added);
    *added = work;
    *on->last = added;
    on->last = &added->next;
    pthread_cond_broadcast(&stream_moved);
    pthread_mutex_unlock(&stream_lock);
    return SUCCESS;
}

// Returns when all that it was asked for is done.
static void drain(stream *on) {
    pthread_mutex_lock(&stream_lock);
    while (on->first)
        pthread_cond_wait(&stream_moved, &stream_lock);
    pthread_mutex_unlock(&stream_lock);
}

// ---- The driver -----------------------------------------------------------------------------------

int cuInit(unsigned flags) {
    ENTER;
    if (flags != 0)
        return INVALID_VALUE;
    if (device_count() == 0)
        return NO_DEVICE;
    owner = getpid();
    is_initialised = true;
    return SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 12040;
    return SUCCESS;
}

int cuGetErrorName(int code, const char **name) {
    static const struct {
        int code;
        const char *name;
    } names[] = {{1, "CUDA_ERROR_INVALID_VALUE"},   {2, "CUDA_ERROR_OUT_OF_MEMORY"},
                 {100, "CUDA_ERROR_NO_DEVICE"},     {201, "CUDA_ERROR_INVALID_CONTEXT"},
                 {218, "CUDA_ERROR_INVALID_PTX"},   {400, "CUDA_ERROR_INVALID_HANDLE"},
                 {500, "CUDA_ERROR_NOT_FOUND"},     {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                 {801, "CUDA_ERROR_NOT_SUPPORTED"}, {999, "CUDA_ERROR_UNKNOWN"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) {
            *name = names[i].name;
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int cuDeviceGetCount(int *count) {
    ENTER;
    *count = device_count();
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    ENTER;
    if (ordinal < 0 || ordinal >= device_count())
        return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int bytes, int device) {
    ENTER;
    snprintf(name, (size_t)bytes, "Fake %d", device);
    return SUCCESS;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    ENTER;
    *flags = 0;
    *is_active = contexts[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER;
    contexts[device] = 1;
    *context = &contexts[device];
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void *context) {
    ENTER;
    if (depth == DEPTH || !context)
        return INVALID_VALUE;
    stack[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context) {
    ENTER_WITH_CONTEXT;
    *context = stack[--depth];
    return SUCCESS;
}

int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags) {
    ENTER_WITH_CONTEXT;
    return memory && bytes > 0 && flags == 1 ? SUCCESS : INVALID_VALUE;
}

int cuMemHostUnregister(void *memory) {
    ENTER_WITH_CONTEXT;
    return memory ? SUCCESS : INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *memory, size_t bytes) {
    ENTER_WITH_CONTEXT;
    if (bytes == 0)
        return INVALID_VALUE;
    void *made = fake_cuda_alloc(bytes);
    pthread_mutex_lock(&lock);
    find(made, bytes)->ordinal = (int)((int *)stack[depth - 1] - contexts);
    pthread_mutex_unlock(&lock);
    *memory = (uint64_t)(uintptr_t)made;
    return SUCCESS;
}

// What was asked for before comes first.
int cuMemFree_v2(uint64_t memory) {
    ENTER_WITH_CONTEXT;
    if (!host_side((const void *)(uintptr_t)memory, 1, READ_WRITE))
        return INVALID_VALUE;
    for (int i = 0; i < STREAMS; i++)
        drain(&streams[i]);
    fake_cuda_free((void *)(uintptr_t)memory);
    return SUCCESS;
}

static _Atomic size_t crossed_bytes;

size_t fake_cuda_crossed(void) { return crossed_bytes; }

static task copy_over_bus(void *to, const void *from, size_t bytes, bool held) {
    crossed_bytes += bytes;
    return (task){.to = to, .from = from, .bytes = bytes, .is_held = held, .crosses = true};
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *on) {
    ENTER_WITH_CONTEXT;
    const uint8_t *source = host_side((const void *)(uintptr_t)from, bytes, READ);
    return source ? push(on, copy_over_bus(to, source, bytes, is_held(__func__))) : ILLEGAL_ADDRESS;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *on) {
    ENTER_WITH_CONTEXT;
    uint8_t *target = host_side((const void *)(uintptr_t)to, bytes, READ_WRITE);
    return target ? push(on, copy_over_bus(target, from, bytes, is_held(__func__))) : ILLEGAL_ADDRESS;
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *on) {
    ENTER_WITH_CONTEXT;
    uint8_t *target = host_side((const void *)(uintptr_t)to, bytes, READ_WRITE);
    const uint8_t *source = host_side((const void *)(uintptr_t)from, bytes, READ);
    return target && source ? push(on, (task){.to = target, .from = source, .bytes = bytes}) : ILLEGAL_ADDRESS;
}

int cuMemGetInfo_v2(size_t *left, size_t *total) {
    ENTER_WITH_CONTEXT;
    *left = *total = (size_t)1 << 30;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < BLOCKS; i++)
        *left -= blocks[i].device && !blocks[i].is_reserved ? blocks[i].mapped : 0;
    *left -= created_bytes;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

// ---- Memory that processes share -------------------------------------------------------------------

typedef struct properties {
    int type, handle_types, location_type, ordinal;
    void *unused;
    uint8_t flags[8];
} properties;

typedef struct access {
    int location_type, ordinal, rights;
} access_rights;

static bool is_proper(const properties *p) {
    static const uint8_t none[8];
    return p->type == 1 && p->handle_types == 1 && p->location_type == 1 && p->ordinal >= 0 &&
           p->ordinal < device_count() && !p->unused && memcmp(p->flags, none, sizeof none) == 0;
}

int cuMemGetAllocationGranularity(size_t *bytes, const properties *wanted, int which) {
    ENTER;
    if (!is_proper(wanted) || which != 0)
        return INVALID_VALUE;
    *bytes = GRANULE;
    return SUCCESS;
}

int cuMemCreate(uint64_t *handle, size_t bytes, const properties *wanted, unsigned long long flags) {
    ENTER;
    if (!is_proper(wanted) || flags != 0 || bytes == 0 || bytes % GRANULE != 0)
        return INVALID_VALUE;
    int file = memfd_create("fake-cuda-shared", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0)
        return OUT_OF_MEMORY;
    allocation *made = calloc(1, sizeof *made);
    *made = (allocation){file, bytes, wanted->ordinal, 1, false};
    pthread_mutex_lock(&lock);
    created_bytes += bytes;
    pthread_mutex_unlock(&lock);
    *handle = (uint64_t)(uintptr_t)made;
    return SUCCESS;
}

// With the lock.
static void let_go(allocation *of) {
    if (--of->holders > 0)
        return;
    if (!of->is_imported)
        created_bytes -= of->bytes;
    close(of->file);
    free(of);
}

int cuMemRelease(uint64_t handle) {
    ENTER;
    pthread_mutex_lock(&lock);
    let_go((allocation *)(uintptr_t)handle);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t wish, unsigned long long flags) {
    ENTER;
    if (bytes == 0 || bytes % GRANULE != 0 || alignment != 0 || wish != 0 || flags != 0)
        return INVALID_VALUE;
    void *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
        return OUT_OF_MEMORY;
    *address = (uint64_t)(uintptr_t)place;
    return SUCCESS;
}

int cuMemAddressFree(uint64_t address, size_t bytes) {
    ENTER;
    pthread_mutex_lock(&lock);
    bool is_mapped = find((const void *)(uintptr_t)address, 1) != NULL;
    pthread_mutex_unlock(&lock);
    return is_mapped || munmap((void *)(uintptr_t)address, bytes) != 0 ? INVALID_VALUE : SUCCESS;
}

int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, unsigned long long flags) {
    ENTER;
    allocation *of = (allocation *)(uintptr_t)handle;
    if (offset != 0 || flags != 0 || bytes != of->bytes)
        return INVALID_VALUE;
    void *place = (void *)(uintptr_t)address;
    block made = {mmap(place, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, of->file, 0),
                  mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, of->file, 0),
                  .bytes = bytes,
                  .mapped = bytes,
                  .ordinal = of->ordinal,
                  .rights = NO_ACCESS,
                  .is_imported = of->is_imported,
                  .is_reserved = true,
                  .of = of};
    if (made.device == MAP_FAILED || made.host == MAP_FAILED)
        return OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    of->holders++;
    add(made);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int cuMemSetAccess(uint64_t address, size_t bytes, const access_rights *wanted, size_t count) {
    ENTER;
    if (count != 1 || wanted->location_type != 1 || (wanted->rights != READ && wanted->rights != READ_WRITE))
        return INVALID_VALUE;
    int code = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    block *found = find((const void *)(uintptr_t)address, bytes);
    if (found && found->is_reserved && found->bytes == bytes) {
        code = found->is_imported && getenv("FAKE_CUDA_NO_PEER_ACCESS") ? NOT_SUPPORTED : SUCCESS;
        if (code == SUCCESS)
            found->rights = wanted->rights;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

// Whoever does it while the device works there loses what was to be done.
int cuMemUnmap(uint64_t address, size_t bytes) {
    ENTER;
    pthread_mutex_lock(&lock);
    block *found = find((const void *)(uintptr_t)address, bytes);
    bool is_right = found && found->is_reserved && found->bytes == bytes;
    if (is_right) {
        mmap(found->device, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        munmap(found->host, bytes);
        let_go(found->of);
        memset(found, 0, sizeof *found);
    }
    pthread_mutex_unlock(&lock);
    return is_right ? SUCCESS : INVALID_VALUE;
}

int cuMemExportToShareableHandle(void *descriptor, uint64_t handle, int type, unsigned long long flags) {
    ENTER;
    if (type != 1 || flags != 0)
        return INVALID_VALUE;
    *(int *)descriptor = fcntl(((allocation *)(uintptr_t)handle)->file, F_DUPFD_CLOEXEC, 0);
    return SUCCESS;
}

// The descriptor stays the caller's.
int cuMemImportFromShareableHandle(uint64_t *handle, void *descriptor, int type) {
    ENTER;
    struct stat content;
    int file = (int)(intptr_t)descriptor;
    if (type != 1 || fstat(file, &content) != 0 || content.st_size == 0 || content.st_size % GRANULE != 0)
        return INVALID_VALUE;
    allocation *made = calloc(1, sizeof *made);
    *made = (allocation){fcntl(file, F_DUPFD_CLOEXEC, 0), (size_t)content.st_size, 0, 1, true};
    *handle = (uint64_t)(uintptr_t)made;
    return SUCCESS;
}

int cuStreamCreate(void **handle, unsigned flags) {
    ENTER_WITH_CONTEXT;
    if (flags != 1)
        return INVALID_VALUE;
    pthread_mutex_lock(&stream_lock);
    int i = 1;
    while (streams[i].is_made)
        if (++i == STREAMS)
            abort();
    streams[i].is_made = true;
    *handle = &streams[i];
    pthread_mutex_unlock(&stream_lock);
    return SUCCESS;
}

// What it was asked for comes first; its thread waits for the next who makes one.
int cuStreamDestroy_v2(void *handle) {
    ENTER_WITH_CONTEXT;
    stream *on = stream_of(handle);
    if (!on || !handle)
        return INVALID_HANDLE;
    drain(on);
    pthread_mutex_lock(&stream_lock);
    on->is_made = false;
    pthread_mutex_unlock(&stream_lock);
    return SUCCESS;
}

// A stream of a test's own is an address of its flag: 1 while it is captured.
int cuStreamSynchronize(void *handle) {
    ENTER_WITH_CONTEXT;
    stream *on = stream_of(handle);
    if (on)
        drain(on);
    pthread_mutex_lock(&lock);
    int code = lost_with;
    pthread_mutex_unlock(&lock);
    return code;
}

int cuStreamIsCapturing(void *handle, int *status) {
    ENTER_WITH_CONTEXT;
    *status = stream_of(handle) ? 0 : *(int *)handle;
    return SUCCESS;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t pointer) {
    ENTER_WITH_CONTEXT;
    pthread_mutex_lock(&lock);
    block *found = find((const void *)(uintptr_t)pointer, 1);
    int ordinal = found ? found->ordinal : 0;
    pthread_mutex_unlock(&lock);
    if (!found)
        return INVALID_VALUE;
    switch (attribute) {
    case 1:
        *(void **)value = &contexts[ordinal];
        return SUCCESS;
    case 2:
        *(unsigned *)value = 2;
        return SUCCESS;
    case 9:
        *(int *)value = ordinal;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

// ---- Modules and kernels ----------------------------------------------------------------------------

static char *content_of(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        abort();
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(1, bytes + 1);
    if (fread(text, 1, bytes, file) != bytes)
        abort();
    fclose(file);
    return text;
}

static ptx_module *loaded(const char *text) {
    char error[PTX_ERROR_BYTES];
    ptx_module *module = ptx_load(text, error);
    if (!module && getenv("FAKE_CUDA_VERBOSE"))
        fprintf(stderr, "fake_cuda: %s\n", error);
    return module;
}

int cuModuleLoadData(void **module, const void *image) {
    ENTER_WITH_CONTEXT;
    if (getenv("FAKE_CUDA_NO_KERNELS"))
        return NO_BINARY_FOR_DEVICE;
    const char *text = image, *other = getenv("FAKE_CUDA_PTX");
    char *instead = other ? content_of(other) : NULL, name[96];
    const char *kernel = instead ? strstr(instead, ".entry ") : NULL;
    if (kernel && sscanf(kernel, ".entry %95[^(]", name) == 1 && strstr(text, name))
        text = instead;
    *module = loaded(text);
    free(instead);
    return *module ? SUCCESS : INVALID_PTX;
}

int cuModuleUnload(void *module) {
    ENTER_WITH_CONTEXT;
    ptx_unload(module);
    return SUCCESS;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER_WITH_CONTEXT;
    *function = ptx_find(module, name);
    return *function ? SUCCESS : NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned teams, unsigned teams_y, unsigned teams_z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared_bytes, void *on, void **parameters,
                   void **extra) {
    ENTER_WITH_CONTEXT;
    const ptx_kernel *kernel = function;
    unsigned most = ptx_most_threads(kernel);
    bool has_one_dimension = teams_y == 1 && teams_z == 1 && threads_y == 1 && threads_z == 1;
    if (!has_one_dimension || teams == 0 || threads == 0 || threads % PTX_LANES != 0 ||
        threads > (most ? most : 1024) || shared_bytes != 0 || extra)
        return INVALID_VALUE;
    // The caller's are read before this returns.
    uint8_t *copies = calloc(1, ptx_parameter_bytes(kernel) + 1);
    for (int i = 0; i < ptx_parameter_count(kernel); i++) {
        size_t bytes, place = ptx_parameter_place(kernel, i, &bytes);
        memcpy(copies + place, parameters[i], bytes);
    }
    return push(on, (task){.kernel = kernel, .teams = teams, .threads = threads, .parameters = copies});
}
