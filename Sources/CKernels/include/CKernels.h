// The arithmetic of the library: loops over elements and nothing else. No allocation, no state, no locks; every
// function may be called from any thread.
//
// Types and operations are the numbers of the C API. Pointers may have any alignment. The floating-point environment
// must be the default one (round to nearest, no flush to zero): results are promised bit for bit.

#ifndef PCCL_KERNELS_H
#define PCCL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pccl_kernel_type {
    pccl_kernel_uint8 = 0,
    pccl_kernel_int8 = 1,
    pccl_kernel_int16 = 2,
    pccl_kernel_uint16 = 3,
    pccl_kernel_uint32 = 4,
    pccl_kernel_int32 = 5,
    pccl_kernel_uint64 = 6,
    pccl_kernel_int64 = 7,
    pccl_kernel_float16 = 8,
    pccl_kernel_bfloat16 = 9,
    pccl_kernel_float32 = 10,
    pccl_kernel_float64 = 11,
} pccl_kernel_type;

#define PCCL_KERNEL_TYPES 12

typedef enum pccl_kernel_operation {
    pccl_kernel_sum = 0,
    pccl_kernel_average = 1,
    pccl_kernel_product = 2,
    pccl_kernel_maximum = 3,
    pccl_kernel_minimum = 4,
} pccl_kernel_operation;

#define PCCL_KERNEL_OPERATIONS 5

// What the loops were compiled for. Every level gives the same bits; a higher one gives them sooner.
typedef enum pccl_kernel_level {
    pccl_kernel_level_plain = 0, // the baseline of the architecture: SSE2 on x86-64, NEON on aarch64
    pccl_kernel_level_avx2 = 1,
    pccl_kernel_level_avx512 = 2,
} pccl_kernel_level;

// How contributions of one (type, operation) are folded: get it once, then call its loops with a count of elements.
//
// Contributions are elements of the type; partial results are accumulators, which may be wider:
//
//   integers      sum, product, maximum, minimum: the type itself, wrapping.
//                 average: 32 bits for 8- and 16-bit types, 64 for 32-bit, 128 for 64-bit; the sum is divided by the
//                 world size towards zero. Enough for 65536 contributions.
//   16-bit floats sum, average, product: float32, rounded once, to nearest even, by the loop that writes elements.
//                 maximum, minimum: the type itself.
//   32, 64 bits   the type itself; the average is one true division of the sum by the world size.
//
// Maximum and minimum are NaN when any contribution is, and -0 is less than +0. A NaN that leaves through `end`,
// `whole` or `finish` is the canonical quiet one (positive, payload empty), so no result depends on who came first. In
// accumulators a NaN is any NaN.
//
// The destination may be exactly one of the sources when their elements have the same size; buffers never overlap in
// part. A world size is at least 1.
//
//   n contributions: n = 1  load, finish          n = 2  whole, or start, finish
//                    n > 2  start (or load, more), more ..., end (or more, finish)
//
// Sums that others have begun are joined by merge.
typedef struct pccl_kernel_reduction {
    size_t element_bytes;
    size_t accumulator_bytes;

    // accumulator[i] = first[i]
    void (*_Nonnull load)(void *_Nonnull accumulator, const void *_Nonnull first, size_t count);

    // accumulator[i] = first[i] ∘ second[i]
    void (*_Nonnull start)(void *_Nonnull accumulator, const void *_Nonnull first, const void *_Nonnull second,
                           size_t count);

    // accumulator[i] = accumulator[i] ∘ next[i]
    void (*_Nonnull more)(void *_Nonnull accumulator, const void *_Nonnull next, size_t count);

    // accumulator[i] = accumulator[i] ∘ other[i], both accumulators
    void (*_Nonnull merge)(void *_Nonnull accumulator, const void *_Nonnull other, size_t count);

    // out[i] = finished(accumulator[i] ∘ last[i])
    void (*_Nonnull end)(void *_Nonnull out, const void *_Nonnull accumulator, const void *_Nonnull last, size_t count,
                         uint32_t world_size);

    // out[i] = finished(first[i] ∘ second[i])
    void (*_Nonnull whole)(void *_Nonnull out, const void *_Nonnull first, const void *_Nonnull second, size_t count,
                           uint32_t world_size);

    // out[i] = finished(accumulator[i])
    void (*_Nonnull finish)(void *_Nonnull out, const void *_Nonnull accumulator, size_t count, uint32_t world_size);
} pccl_kernel_reduction;

// The best loops that this processor runs; null for an unknown type or operation. The answer is constant memory.
const pccl_kernel_reduction *_Nullable pccl_kernel_reduction_for(uint32_t type, uint32_t operation);

// The loops of one level, so that tests can compare levels; null too where this build or processor lacks the level.
const pccl_kernel_reduction *_Nullable pccl_kernel_reduction_at(pccl_kernel_level level, uint32_t type,
                                                                uint32_t operation);

// The level that pccl_kernel_reduction_for uses here.
pccl_kernel_level pccl_kernel_best_level(void);

// Bytes of one accumulator; 0 for an unknown type or operation.
size_t pccl_kernel_accumulator_bytes(uint32_t type, uint32_t operation);

#ifdef __cplusplus
}
#endif

#endif
