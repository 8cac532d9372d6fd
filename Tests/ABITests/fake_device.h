// The driver that stands in for a real one (Tests/FakeCUDA), found where the library finds it.
#ifndef PCCL_ABI_FAKE_DEVICE_H
#define PCCL_ABI_FAKE_DEVICE_H

#include "../FakeCUDA/fake_cuda.h"
#include "testing.h"

#include <dlfcn.h>

static void *(*deviceAlloc)(size_t);
static void (*deviceFree)(void *);
static void (*deviceWrite)(void *, const void *, size_t);
static void (*deviceRead)(void *, const void *, size_t);
static void (*deviceFail)(const char *, int, int);
static void (*deviceRecover)(void);
static void (*deviceHold)(const char *, int);
static void (*deviceLetGo)(void);
static int (*deviceCalls)(const char *);
static size_t (*deviceCrossed)(void);

static inline void *findInDriver(void *library, const char *name) {
    void *found = dlsym(library, name);
    CHECK(found != NULL);
    return found;
}

#define FIND(pointer, name)                                                                                            \
    do {                                                                                                               \
        void *found = findInDriver(library, name);                                                                     \
        memcpy(&pointer, &found, sizeof(found));                                                                       \
    } while (0)

static inline void findDriver(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    FIND(deviceAlloc, "fake_cuda_alloc");
    FIND(deviceFree, "fake_cuda_free");
    FIND(deviceWrite, "fake_cuda_write");
    FIND(deviceRead, "fake_cuda_read");
    FIND(deviceFail, "fake_cuda_fail");
    FIND(deviceRecover, "fake_cuda_recover");
    FIND(deviceHold, "fake_cuda_hold");
    FIND(deviceLetGo, "fake_cuda_let_go");
    FIND(deviceCalls, "fake_cuda_calls");
    FIND(deviceCrossed, "fake_cuda_crossed");
}

#endif
