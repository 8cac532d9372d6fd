// A driver that stands in for libcuda.so.1 where there is no GPU, for tests: memory that the host cannot touch, streams
// that work later and on another thread, errors on request. What it accepts is what a driver accepts, so a test that
// passes here may fail on a real one, and one that fails here fails there too.
//
// FAKE_CUDA_DEVICES=n: so many devices, 1 if it is not set.
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    ILLEGAL_ADDRESS = 700,
    FUNCTIONS = 32,
    BLOCKS = 256,
    DEPTH = 16
};

typedef struct block {
    uint8_t *device; // What the caller has: mapped without any right.
    uint8_t *host;   // The same pages, for this driver.
    size_t bytes, mapped;
    int ordinal;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block blocks[BLOCKS];
static struct {
    const char *name;
    int calls, fails_at, code;
} functions[FUNCTIONS];
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
    int i = index_of(name), code = lost_with;
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

static uint8_t *host_side(const void *address, size_t bytes) {
    pthread_mutex_lock(&lock);
    block *found = find(address, bytes);
    uint8_t *host = found ? found->host + ((const uint8_t *)address - found->device) : NULL;
    pthread_mutex_unlock(&lock);
    return host;
}

// ---- What tests ask for ---------------------------------------------------------------------------

void *fake_cuda_alloc(size_t bytes) {
    size_t mapped = (bytes + 4095) / 4096 * 4096;
    int file = memfd_create("fake-cuda", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)mapped) != 0)
        abort();
    block made = {mmap(NULL, mapped, PROT_NONE, MAP_SHARED, file, 0),
                  mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), bytes, mapped, device_count() - 1};
    close(file);
    if (made.device == MAP_FAILED || made.host == MAP_FAILED)
        abort();
    pthread_mutex_lock(&lock);
    contexts[made.ordinal] = 1;
    int i = 0;
    while (blocks[i].device)
        if (++i == BLOCKS)
            abort();
    blocks[i] = made;
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

void fake_cuda_write(void *to, const void *from, size_t bytes) { memcpy(host_side(to, bytes), from, bytes); }
void fake_cuda_read(void *to, const void *from, size_t bytes) { memcpy(to, host_side(from, bytes), bytes); }

void fake_cuda_fail(const char *function, int n, int code) {
    pthread_mutex_lock(&lock);
    int i = index_of(function);
    functions[i].fails_at = functions[i].calls + n;
    functions[i].code = code;
    pthread_mutex_unlock(&lock);
}

void fake_cuda_recover(void) { lost_with = SUCCESS; }

int fake_cuda_calls(const char *function) {
    pthread_mutex_lock(&lock);
    int calls = functions[index_of(function)].calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

// ---- The default stream: copies in their order, some time later ------------------------------------

typedef struct copy {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
    struct copy *next;
} copy;

static pthread_mutex_t stream_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stream_moved = PTHREAD_COND_INITIALIZER;
static copy *first, **last = &first;
static bool is_streaming;

static void *stream(void *unused) {
    pthread_mutex_lock(&stream_lock);
    for (;;) {
        while (!first)
            pthread_cond_wait(&stream_moved, &stream_lock);
        copy *next = first;
        pthread_mutex_unlock(&stream_lock);
        // Long enough for a caller that does not wait to be found out.
        nanosleep(&(struct timespec){0, 300000}, NULL);
        memcpy(next->to, next->from, next->bytes);
        pthread_mutex_lock(&stream_lock);
        first = next->next;
        if (!first)
            last = &first;
        free(next);
        pthread_cond_broadcast(&stream_moved);
    }
    return unused;
}

static int push(uint8_t *to, const uint8_t *from, size_t bytes) {
    pthread_mutex_lock(&stream_lock);
    if (!is_streaming) {
        pthread_t thread;
        is_streaming = pthread_create(&thread, NULL, stream, NULL) == 0;
        pthread_detach(thread);
    }
    copy *added = malloc(sizeof *added);
    *added = (copy){to, from, bytes, NULL};
    *last = added;
    last = &added->next;
    pthread_cond_broadcast(&stream_moved);
    pthread_mutex_unlock(&stream_lock);
    return SUCCESS;
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
    } names[] = {{1, "CUDA_ERROR_INVALID_VALUE"},     {2, "CUDA_ERROR_OUT_OF_MEMORY"},
                 {100, "CUDA_ERROR_NO_DEVICE"},       {201, "CUDA_ERROR_INVALID_CONTEXT"},
                 {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {999, "CUDA_ERROR_UNKNOWN"}};
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

int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    ENTER_WITH_CONTEXT;
    if (flags > 7 || bytes == 0)
        return INVALID_VALUE;
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *memory ? SUCCESS : 2;
}

int cuMemFreeHost(void *memory) {
    ENTER;
    free(memory);
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *on) {
    ENTER_WITH_CONTEXT;
    const uint8_t *source = host_side((const void *)(uintptr_t)from, bytes);
    return source && !on ? push(to, source, bytes) : ILLEGAL_ADDRESS;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *on) {
    ENTER_WITH_CONTEXT;
    uint8_t *target = host_side((const void *)(uintptr_t)to, bytes);
    return target && !on ? push(target, from, bytes) : ILLEGAL_ADDRESS;
}

// A stream of a test's own is an address of its flag: 1 while it is captured.
int cuStreamSynchronize(void *stream) {
    ENTER_WITH_CONTEXT;
    if (stream)
        return SUCCESS;
    pthread_mutex_lock(&stream_lock);
    while (first)
        pthread_cond_wait(&stream_moved, &stream_lock);
    pthread_mutex_unlock(&stream_lock);
    return SUCCESS;
}

int cuStreamIsCapturing(void *stream, int *status) {
    ENTER_WITH_CONTEXT;
    *status = stream ? *(int *)stream : 0;
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
