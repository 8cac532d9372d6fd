#define _GNU_SOURCE
#include "CCUDA.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POINTER(name, symbol, parameters, names) static pccl_cuda_result(*_Nullable at_##name) parameters;
PCCL_CUDA_FUNCTIONS(POINTER)
#undef POINTER

#define CALL(name, symbol, parameters, names)                                                                          \
    pccl_cuda_result pccl_cuda_##name parameters { return at_##name ? at_##name names : pccl_cuda_unavailable; }
PCCL_CUDA_FUNCTIONS(CALL)
#undef CALL

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pccl_cuda_status status;
static pid_t owner;

static pthread_once_t naming = PTHREAD_ONCE_INIT;
static char library[256] = "libcuda.so.1";

// Another file than the system's: tests have a driver of their own.
static void name_library(void) {
    const char *named = getenv("PCCL_LIBCUDA");
    if (named && *named)
        snprintf(library, sizeof library, "%s", named);
}

static void refuse(enum pccl_cuda_state state, const char *what, const char *why) {
    status.state = state;
    snprintf(status.reason, sizeof status.reason, "%s%s", what, why);
}

static void refuse_code(enum pccl_cuda_state state, const char *call, pccl_cuda_result code) {
    const char *name = NULL;
    pccl_cuda_error_name(code, &name);
    status.state = state;
    snprintf(status.reason, sizeof status.reason, "%s: %s (%d)", call, name ? name : "an unknown error", code);
}

static void load(void) {
    owner = getpid();
    pthread_once(&naming, name_library);
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        return refuse(pccl_cuda_no_driver, "there is no CUDA driver: ", why ? why : library);
    }
    const char *missing = NULL;
#define FIND(name, symbol, parameters, names)                                                                          \
    at_##name = (pccl_cuda_result(*) parameters)dlsym(handle, #symbol);                                                \
    if (!at_##name && !missing)                                                                                        \
        missing = #symbol;
    PCCL_CUDA_FUNCTIONS(FIND)
#undef FIND
    if (missing)
        return refuse(pccl_cuda_too_old, "the CUDA driver is too old: it lacks ", missing);
    pccl_cuda_result code = pccl_cuda_init(0);
    if (code == pccl_cuda_no_device_found)
        return refuse(pccl_cuda_no_device, "the CUDA driver has no device", "");
    if (code != pccl_cuda_success)
        return refuse_code(pccl_cuda_init_failed, "cuInit", code);
    pccl_cuda_driver_version(&status.driver_version);
    code = pccl_cuda_device_count(&status.device_count);
    if (code != pccl_cuda_success)
        return refuse_code(pccl_cuda_init_failed, "cuDeviceGetCount", code);
    if (status.device_count == 0)
        refuse(pccl_cuda_no_device, "the CUDA driver has no device", "");
}

pccl_cuda_status pccl_cuda_load(void) {
    pthread_once(&once, load);
    pccl_cuda_status now = status;
    // A child that was forked has the driver's memory, and nothing of what the driver does.
    if (now.state == pccl_cuda_ready && owner != getpid()) {
        now.state = pccl_cuda_forked;
        snprintf(now.reason, sizeof now.reason,
                 "process %d, which this one was forked from, had initialised CUDA before", (int)owner);
    }
    return now;
}

// dlopen with RTLD_NOLOAD would look for the file in all of its folders, each time. The loader's own list is in memory,
// and says how often it has grown: as long as it has not, the answer is the one of before.
static _Atomic unsigned long long objects_seen;
static _Atomic bool was_in_process;

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

struct search {
    bool is_known, is_there;
    unsigned long long objects;
};

static int look_at(struct dl_phdr_info *object, size_t size, void *search) {
    (void)size;
    struct search *found = search;
    if (found->objects == 0) {
        found->objects = object->dlpi_adds;
        if (object->dlpi_adds == atomic_load(&objects_seen)) {
            found->is_known = true;
            return 1;
        }
    }
    found->is_there = object->dlpi_name && strcmp(last_part(object->dlpi_name), last_part(library)) == 0;
    return found->is_there;
}

bool pccl_cuda_is_in_process(void) {
    pthread_once(&naming, name_library);
    struct search found = {false, false, 0};
    dl_iterate_phdr(look_at, &found);
    if (found.is_known)
        return atomic_load(&was_in_process);
    // A driver is never unloaded: whoever sees the number of objects sees an answer that is as new, or newer.
    if (found.is_there)
        atomic_store(&was_in_process, true);
    atomic_store(&objects_seen, found.objects);
    return found.is_there;
}
