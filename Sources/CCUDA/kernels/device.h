// What kernels need of C and CUDA, without a header of either: so that nothing of NVIDIA's is needed to compile them,
// and that the same text comes out wherever that is done.
#ifndef PCCL_DEVICE_H
#define PCCL_DEVICE_H

typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __SIZE_TYPE__ size_t;
#define memcpy __builtin_memcpy

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))

// Grids and blocks have one dimension. What CUDA calls a block is a team here: the library's blocks are of values.
#define THREADS_OF_TEAM 256
#define LANES 32
#define KERNEL extern "C" __global__ __attribute__((launch_bounds(THREADS_OF_TEAM))) void

static __device__ inline uint32_t thread_of_team() { return __nvvm_read_ptx_sreg_tid_x(); }
static __device__ inline uint32_t lane_of_warp() { return thread_of_team() % LANES; }
static __device__ inline size_t thread_of_grid() {
    return (size_t)__nvvm_read_ptx_sreg_ctaid_x() * THREADS_OF_TEAM + thread_of_team();
}
static __device__ inline size_t threads_of_grid() { return (size_t)__nvvm_read_ptx_sreg_nctaid_x() * THREADS_OF_TEAM; }

// ---- What the lanes of a warp tell each other -----------------------------------------------------

static __device__ inline uint32_t of_lane_across(uint32_t x, uint32_t distance) {
    uint32_t other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, -1;" : "=r"(other) : "r"(x), "r"(distance));
    return other;
}
static __device__ inline int32_t of_lane_across(int32_t x, uint32_t distance) {
    return (int32_t)of_lane_across((uint32_t)x, distance);
}
static __device__ inline uint64_t of_lane_across(uint64_t x, uint32_t distance) {
    uint32_t low = of_lane_across((uint32_t)x, distance), high = of_lane_across((uint32_t)(x >> 32), distance);
    return (uint64_t)high << 32 | low;
}
static __device__ inline int64_t of_lane_across(int64_t x, uint32_t distance) {
    return (int64_t)of_lane_across((uint64_t)x, distance);
}

template <class T> static __device__ inline T least_of_lanes(T x) {
    for (uint32_t distance = LANES / 2; distance > 0; distance /= 2) {
        T other = of_lane_across(x, distance);
        x = other < x ? other : x;
    }
    return x;
}
template <class T> static __device__ inline T most_of_lanes(T x) {
    for (uint32_t distance = LANES / 2; distance > 0; distance /= 2) {
        T other = of_lane_across(x, distance);
        x = other > x ? other : x;
    }
    return x;
}

// ---- Global memory ---------------------------------------------------------------------------------

// An address that comes from memory could be of any kind, for all the compiler knows.
#define GLOBAL __attribute__((address_space(1)))

// What a thread loads and stores at once.
typedef uint32_t pack_16 __attribute__((vector_size(16)));

// ---- What is common to processors and devices ------------------------------------------------------

#pragma clang force_cuda_host_device begin
#define FLOAT16_CONVERTS_IN_HARDWARE 0
#include "../../CKernels/elements.h"
#pragma clang force_cuda_host_device end

#endif
