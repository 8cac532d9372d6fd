// Every reduction loop, compiled once per level. The file that includes this one sets, and has pushed the target
// attribute of its level after including what is included here:
//
//   LEVEL_TABLE                    the name of the table to define
//   FLOAT16_CONVERTS_IN_HARDWARE   see elements.h

#include <string.h>

#include "elements.h"

// The loops are vectorised on the promise that an element is read before the same element is written, and that no
// iteration reads what another writes: true also when the destination is exactly a source, where a run-time overlap
// check would send the in-place case to a scalar loop.
#define VECTOR_LOOP(count, statement)                                                                                  \
    _Pragma("clang loop vectorize(assume_safety) interleave(enable)") for (size_t i = 0; i < (count); i++) {           \
        statement;                                                                                                     \
    }

// For 128-bit sums, which no vector unit has, and for what a loop finds out about its elements.
#define SCALAR_LOOP(count, statement)                                                                                  \
    for (size_t i = 0; i < (count); i++) {                                                                             \
        statement;                                                                                                     \
    }

// ---- The seven loops of a reduction --------------------------------------------------------------

#define FINISH_LOOP(LOOP, element, finisher, world_size, value)                                                        \
    const divisor d = divisor_of(world_size);                                                                          \
    (void)d;                                                                                                           \
    if (finisher##_is_quick(world_size)) {                                                                             \
        LOOP(count, out[i] = (element)finisher##_quick(value, d))                                                      \
    } else {                                                                                                           \
        LOOP(count, out[i] = (element)finisher##_any(value, d))                                                        \
    }

#define REDUCTION(name, LOOP, element, accumulator_type, widen, combine, finisher)                                     \
    static void name##_load(void *accumulator, const void *first, size_t count) {                                      \
        if (sizeof(element) == sizeof(accumulator_type)) {                                                             \
            memmove(accumulator, first, count * sizeof(element));                                                      \
            return;                                                                                                    \
        }                                                                                                              \
        unaligned_##accumulator_type *acc = accumulator;                                                               \
        const unaligned_##element *a = first;                                                                          \
        LOOP(count, acc[i] = widen(a[i]))                                                                              \
    }                                                                                                                  \
    static void name##_start(void *accumulator, const void *first, const void *second, size_t count) {                 \
        unaligned_##accumulator_type *acc = accumulator;                                                               \
        const unaligned_##element *a = first, *b = second;                                                             \
        LOOP(count, acc[i] = combine(widen(a[i]), widen(b[i])))                                                        \
    }                                                                                                                  \
    static void name##_more(void *accumulator, const void *next, size_t count) {                                       \
        unaligned_##accumulator_type *acc = accumulator;                                                               \
        const unaligned_##element *b = next;                                                                           \
        LOOP(count, acc[i] = combine(acc[i], widen(b[i])))                                                             \
    }                                                                                                                  \
    static void name##_merge(void *accumulator, const void *other, size_t count) {                                     \
        unaligned_##accumulator_type *acc = accumulator;                                                               \
        const unaligned_##accumulator_type *b = other;                                                                 \
        LOOP(count, acc[i] = combine(acc[i], b[i]))                                                                    \
    }                                                                                                                  \
    static void name##_end(void *destination, const void *accumulator, const void *last, size_t count,                 \
                           uint32_t world_size) {                                                                      \
        unaligned_##element *out = destination;                                                                        \
        const unaligned_##accumulator_type *acc = accumulator;                                                         \
        const unaligned_##element *b = last;                                                                           \
        FINISH_LOOP(LOOP, element, finisher, world_size, combine(acc[i], widen(b[i])))                                 \
    }                                                                                                                  \
    static void name##_whole(void *destination, const void *first, const void *second, size_t count,                   \
                             uint32_t world_size) {                                                                    \
        unaligned_##element *out = destination;                                                                        \
        const unaligned_##element *a = first, *b = second;                                                             \
        FINISH_LOOP(LOOP, element, finisher, world_size, (accumulator_type)combine(widen(a[i]), widen(b[i])))          \
    }                                                                                                                  \
    static void name##_finish(void *destination, const void *accumulator, size_t count, uint32_t world_size) {         \
        unaligned_##element *out = destination;                                                                        \
        const unaligned_##accumulator_type *acc = accumulator;                                                         \
        FINISH_LOOP(LOOP, element, finisher, world_size, acc[i])                                                       \
    }                                                                                                                  \
    static const pccl_kernel_reduction name = {                                                                        \
        sizeof(element), sizeof(accumulator_type),                                                                     \
        name##_load,     name##_start,                                                                                 \
        name##_more,     name##_merge,                                                                                 \
        name##_end,      name##_whole,                                                                                 \
        name##_finish,                                                                                                 \
    };

// ---- The table ----------------------------------------------------------------------------------

REDUCTIONS(REDUCTION)

// In the order of pccl_kernel_operation: sum, average, product, maximum, minimum.
const pccl_kernel_reduction_row LEVEL_TABLE[PCCL_KERNEL_TYPES] = {
    [pccl_kernel_uint8] = {&sum_8, &average_u8, &product_8, &maximum_u8, &minimum_u8},
    [pccl_kernel_int8] = {&sum_8, &average_i8, &product_8, &maximum_i8, &minimum_i8},
    [pccl_kernel_int16] = {&sum_16, &average_i16, &product_16, &maximum_i16, &minimum_i16},
    [pccl_kernel_uint16] = {&sum_16, &average_u16, &product_16, &maximum_u16, &minimum_u16},
    [pccl_kernel_uint32] = {&sum_32, &average_u32, &product_32, &maximum_u32, &minimum_u32},
    [pccl_kernel_int32] = {&sum_32, &average_i32, &product_32, &maximum_i32, &minimum_i32},
    [pccl_kernel_uint64] = {&sum_64, &average_u64, &product_64, &maximum_u64, &minimum_u64},
    [pccl_kernel_int64] = {&sum_64, &average_i64, &product_64, &maximum_i64, &minimum_i64},
    [pccl_kernel_float16] = {&sum_f16, &average_f16, &product_f16, &maximum_f16, &minimum_f16},
    [pccl_kernel_bfloat16] = {&sum_bf16, &average_bf16, &product_bf16, &maximum_bf16, &minimum_bf16},
    [pccl_kernel_float32] = {&sum_f32, &average_f32, &product_f32, &maximum_f32, &minimum_f32},
    [pccl_kernel_float64] = {&sum_f64, &average_f64, &product_f64, &maximum_f64, &minimum_f64},
};
