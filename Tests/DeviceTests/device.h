// What programs on a device share: every call of the driver must succeed, or the program ends and says which did not.
#ifndef DEVICE_TESTS_DEVICE_H
#define DEVICE_TESTS_DEVICE_H

#include "CCUDA.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ERROR_STATUS = 2 };

// For messages.
static const char *doing = "device";

static inline void must(pccl_cuda_result code, const char *call) {
    if (code == pccl_cuda_success)
        return;
    const char *name = "an unknown error";
    pccl_cuda_error_name(code, &name);
    printf("%s: %s: %s (%d)\n", doing, call, name, code);
    exit(ERROR_STATUS);
}
#define MUST(call) must(call, #call)

static inline void start_device(void) {
    pccl_cuda_status status = pccl_cuda_load();
    if (status.state != pccl_cuda_ready) {
        printf("no device: %s\n", status.reason);
        exit(ERROR_STATUS);
    }
    pccl_cuda_device device;
    pccl_cuda_context context;
    MUST(pccl_cuda_device_get(&device, 0));
    MUST(pccl_cuda_primary_retain(&context, device));
    MUST(pccl_cuda_context_push(context));
}

static inline pccl_cuda_pointer device_memory(size_t bytes) {
    pccl_cuda_pointer memory;
    MUST(pccl_cuda_device_alloc(&memory, bytes ? bytes : 1));
    return memory;
}

static inline void write_device(pccl_cuda_pointer to, const void *from, size_t bytes) {
    MUST(pccl_cuda_copy_to_device(to, from, bytes, NULL));
    MUST(pccl_cuda_stream_synchronize(NULL));
}

static inline void read_device(void *to, pccl_cuda_pointer from, size_t bytes) {
    MUST(pccl_cuda_copy_to_host(to, from, bytes, NULL));
    MUST(pccl_cuda_stream_synchronize(NULL));
}

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

#endif
